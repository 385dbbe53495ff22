"""Divergences, token weights and a moving-average teacher equal dense float64 implementations, gradients included."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import reference_trainer as reference
import tiny
import torch
from training import At, config, interrupt, log, quiet
from transformers import PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.dialogue import Block, reflection_dialogue
from reflectioncoder.dialogues.tokens import Encoded, encode_content, encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.changed import changed_tokens
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, loss_weights, split_by_cost
from reflectioncoder.train.batch.steps import prepare
from reflectioncoder.train.compute.average import MovingAverage
from reflectioncoder.train.compute.divergence import Distance, divergence
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention
from reflectioncoder.train.train import train

STEPS, SEED = 10, 7
ROUNDS = [("code", 6), ("execution", 3), ("text", 2), ("code", 5)]


def batch() -> list[Encoded]:
    samples = [
        tiny.encoded(ROUNDS, 1, answer=8),
        tiny.encoded([], 2, reflection=False),
        tiny.encoded(ROUNDS[:3], 3, answer=9),
        tiny.encoded(ROUNDS, 4),
    ]
    answers = [sample.message_bounds[-1][0] for sample in samples]
    # Some tokens of two answers count as changed; those of the third do not.
    return [
        dataclasses.replace(sample, changed=(answer + 3, answer + 4) if sample.sample_id in "13" else ())
        for sample, answer in zip(samples, answers, strict=True)
    ]


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def same(loss: LossConfig, semantics: str = "paper", teacher: float = 0.0, tied: bool = True) -> None:
    """Loss and gradients are those of the reference; `teacher` moves the teacher's weights away from the student's."""
    model = tiny.llama(tied=tied)
    average = other = None
    if teacher:
        average = MovingAverage(model, 0.5)
        other = copy.deepcopy(model)
        torch.manual_seed(3)
        with torch.no_grad():
            for value, parameter in zip(average.values.values(), other.parameters(), strict=True):
                parameter += teacher * torch.randn_like(parameter)
                value.copy_(parameter)
    masking = MaskingConfig(semantics=semantics)  # type: ignore[arg-type]
    use_varlen_attention(model)
    rows = [build_rows(one, masking, "keep", 5, STEPS, SEED, loss.changed_weight) for one in batch()]
    weights, total, kl = loss_weights(rows, loss), 0.0, 0.0
    for group in split_by_cost([row.tokens for row in rows], 90):
        packed = pack([(rows[i], weights[i]) for i in group], apart=average is not None)
        terms = micro_batch_loss(model, packed, 6, Distance(loss.divergence, loss.temperature), average)
        terms.loss.backward()
        total, kl = total + terms.loss.item(), kl + terms.kl.item()
        with torch.no_grad():  # evaluation has a path without gradients
            again = micro_batch_loss(model, packed, 4, Distance(loss.divergence, loss.temperature), average)
        assert again.loss.item() == pytest.approx(terms.loss.item(), abs=1e-12)
        assert again.kl.item() == pytest.approx(terms.kl.item(), abs=1e-12)
    ours = gradients(model)
    model.zero_grad()
    value, means = reference.loss(model, batch(), masking, loss, 5, STEPS, SEED, teacher_model=other)
    value.backward()
    assert total == pytest.approx(value.item(), abs=1e-9)
    if loss.changed_weight == 1 and loss.normalization == "sample":
        assert kl == pytest.approx(means["kl"], abs=1e-9)
    dense = gradients(model)
    assert ours.keys() == dense.keys()
    for name, gradient in dense.items():
        assert (ours[name] - gradient).abs().max() < 1e-9, name
        assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.5])
def test_divergences_equal_dense_ones(kind: Any, temperature: float) -> None:
    same(LossConfig(divergence=kind, temperature=temperature))


@pytest.mark.parametrize("cross_entropy", ["pooled", "separate"])
@pytest.mark.parametrize("normalization", ["sample", "token"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 7.0])
def test_the_students_labels_weigh_what_they_are_given(cross_entropy: Any, normalization: Any, weight: float) -> None:
    same(LossConfig(cross_entropy, normalization, student_weight=weight))


@pytest.mark.parametrize("semantics", ["paper", "release"])
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_changed_tokens_weigh_more_in_the_divergence(semantics: str, kind: Any) -> None:
    same(LossConfig(divergence=kind, changed_weight=5.0), semantics)
    same(LossConfig(normalization="token", changed_weight=0.2), semantics)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_with_weights_of_its_own_equals_a_second_dense_model(kind: Any, tied: bool) -> None:
    same(LossConfig(divergence=kind, temperature=1.5, changed_weight=3.0), teacher=0.1, tied=tied)


def test_divergences_by_hand() -> None:
    p, q = torch.tensor([[0.25, 0.75]]).double(), torch.tensor([[0.5, 0.5]]).double()
    log2, log3 = torch.tensor([2.0, 3.0]).double().log().tolist()
    found = {kind: divergence(p.log(), q.log(), Distance(kind))[0].item() for kind in ("forward", "reverse")}
    assert found["forward"] == pytest.approx(0.75 * log3 - log2)
    # 1/2 log((1/2) / (1/4)) + 1/2 log((1/2) / (3/4))
    assert found["reverse"] == pytest.approx(log2 - 0.5 * log3)
    apart = torch.tensor([[1 - 1e-12, 1e-12]]).double().log()
    assert divergence(apart, apart.flip(1), Distance("jensen_shannon"))[0].item() == pytest.approx(log2)
    for kind in ("forward", "reverse", "jensen_shannon"):
        value, slope = divergence(p.log(), p.log(), Distance(kind, 3.0))
        assert value.item() == pytest.approx(0, abs=1e-15) and slope.abs().max() < 1e-15


def test_tokens_that_the_repair_changed_are_those_without_a_counterpart() -> None:
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    fence = [encode_content(text, words, "<|text|>") for text in ("```python\n", "\n```")]

    def marked(attempt: str, final: str) -> str:
        sequence = [Block("code", attempt), Block("execution", "E"), Block("code", "zzz")]
        sample = encode_dialogue(reflection_dialogue("r", sequence, "i", final), words)
        return words.decode([sample.ids[place] for place in changed_tokens(sample, *fence)])

    assert marked("return a - b\nassert f", "return a + b") == "+"
    assert marked("return a + b", "return a + b") == ""
    assert marked("if x:\n  return 1", "if not x:\n  return 1") == " not"
    assert marked("keep(1, 2)", "keep(1)") == ""  # what was deleted leaves no token
    assert len(marked("abc", "XYZ\n12")) == 6
    plain = tiny.encoded([("text", 4)], 1)
    assert changed_tokens(plain, *fence) == ()


def test_changed_tokens_are_found_only_where_a_run_weighs_them(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    run = config(tmp_path, tmp_path)
    weighing = dataclasses.replace(run, loss=LossConfig(changed_weight=2.0))
    assert not any(sample.changed for sample in prepare(tiny.dialogues(), words, run)[0])
    found = prepare(tiny.dialogues(), words, weighing)[0]
    assert all(bool(sample.changed) == sample.is_reflection for sample in found)


def test_the_average_keeps_its_share_at_every_step() -> None:
    model = tiny.llama(dtype=torch.bfloat16)
    average = MovingAverage(model, 0.9)
    name, start = next((name, value.clone()) for name, value in average.values.items())
    assert start.dtype == torch.float32
    parameter = next(model.parameters())
    expected = start.clone()
    for _ in range(3):
        with torch.no_grad():
            parameter += 0.125
        average.update()
        expected = 0.9 * expected + 0.1 * parameter.float()
    torch.testing.assert_close(average.values[name], expected)
    inside = average.run(lambda network: next(network.parameters()).clone())
    assert torch.equal(inside, expected.bfloat16()) and not torch.equal(inside, parameter)


def test_a_run_with_a_moving_average_goes_on_exactly_and_counts_the_teachers_pass(base: Path, tmp_path: Path) -> None:
    loss = LossConfig(teacher="average", decay=0.5, divergence="reverse", temperature=2.0, changed_weight=3.0)
    whole = train(config(base, tmp_path / "whole", loss=loss, save_steps=0), quiet)
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, tmp_path / "part", loss=loss), quiet, [At(3, interrupt)])
    part = train(config(base, tmp_path / "part", loss=loss, resume=True), quiet)
    assert [line["loss"] for line in log(tmp_path / "part")] == [line["loss"] for line in log(tmp_path / "whole")]
    models = [load_model_and_tokenizer(str(tmp_path / name), device="cpu")[0] for name in ("whole", "part")]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    usual = train(config(base, tmp_path / "usual", save_steps=0), quiet)
    # Teacher rows of sequences pass twice, those of plain samples once.
    assert usual.student_tokens == whole.student_tokens == part.student_tokens
    assert usual.teacher_tokens < whole.teacher_tokens < 2 * usual.teacher_tokens
    assert (
        json.loads((tmp_path / "whole" / "result.json").read_text())["tokens"]
        == whole.tokens
        == log(tmp_path / "whole")[-1]["tokens"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"loss\.temperature = 0\.0: must be positive"),
        ({"changed_weight": -1.0}, r"loss\.changed_weight = -1\.0: must be positive"),
        ({"student_weight": -0.5}, r"loss\.student_weight = -0\.5: must be 0 or more"),
        ({"decay": 1.0}, r"loss\.decay = 1\.0: must be at least 0 and below 1"),
    ],
)
def test_values_out_of_range_are_refused(base: Path, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(config(base, tmp_path, loss=LossConfig(**changes)), quiet)
