"""Blocks are hidden in the order of their measured influence on the final answer, which equals a dense measurement."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import reference_trainer as reference
import tiny
import torch
from training import At, config, interrupt, log, quiet
from transformers import PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.masking import visible_ranges
from reflectioncoder.train.compute.influence import measure_influence
from reflectioncoder.train.compute.packed_attention import use_varlen_attention
from reflectioncoder.train.ranks.world import World
from reflectioncoder.train.train import describe_plan, train

ROUNDS = [("code", 6), ("execution", 3), ("text", 4), ("code", 5), ("execution", 1)]
SAMPLES = [tiny.encoded(ROUNDS, 1), tiny.encoded([], 2, reflection=False), tiny.encoded(ROUNDS[:2], 3, answer=9)]


def dense(model: PreTrainedModel, sample: Encoded, hidden: set[int], config: TrainConfig) -> float:
    """Mean negative log-probability of the final answer with tokens hidden by an attention mask."""
    batch = reference.pad([(sample.ids, hidden)], config.positions == "rebase")
    scores = reference.logits(model, batch)[0].log_softmax(-1)
    start, end = sample.message_bounds[-1]
    return -torch.stack([scores[t - 1, sample.ids[t]] for t in range(start + 1, end)]).mean().item()


@pytest.mark.parametrize("kind", ["llama", "gpt2, rebased"])
def test_influence_is_what_the_answer_loses_without_a_block(kind: str) -> None:
    model = tiny.llama() if kind == "llama" else tiny.gpt2()
    run = TrainConfig(micro_tokens=70, positions="keep" if kind == "llama" else "rebase")
    use_varlen_attention(model)
    model.train()
    found = measure_influence(model, SAMPLES, run)
    assert model.training and found.values[1] == ()
    # n + 1 rows a sample: the first user message, and role and end of the first answer, are never seen.
    seen = [len(sample) - (9 + 2) for sample in SAMPLES]
    blocks = [[span.end - span.start for span in sample.spans if span.message == 1] for sample in SAMPLES]
    assert found.tokens == sum(seen[i] * (len(blocks[i]) + 1) - sum(blocks[i]) for i in (0, 2))
    for sample, values in zip(SAMPLES, found.values, strict=True):
        if not sample.is_reflection:
            continue
        user, answer = sample.message_bounds[:2]
        always = set(range(*user)) | {answer[0], answer[1] - 1}
        whole = dense(model, sample, always, run)
        spans = [span for span in sample.spans if span.message == 1]
        expected = [dense(model, sample, always | set(range(s.start, s.end)), run) - whole for s in spans]
        assert values == pytest.approx(expected, abs=1e-9)
        assert max(map(abs, values)) > 1e-3


def test_ranks_share_the_work() -> None:
    model = tiny.llama()
    use_varlen_attention(model)
    whole = measure_influence(model, SAMPLES, TrainConfig())

    class Alone(World):
        def total(self, values: torch.Tensor) -> torch.Tensor:
            return values

    parts = [measure_influence(model, SAMPLES, TrainConfig(), Alone(rank, 3)) for rank in range(3)]
    assert sum(part.tokens for part in parts) == whole.tokens
    for place in range(3):
        sums = [sum(values) for values in zip(*(part.values[place] for part in parts), strict=True)]
        assert sums == pytest.approx(whole.values[place], abs=1e-12)


def test_the_blocks_with_the_least_influence_are_hidden_first() -> None:
    sample = dataclasses.replace(tiny.encoded(ROUNDS, 1), influence=(0.5, -0.1, 0.0, 2.0, 0.0))
    masking = MaskingConfig("influence")
    spans = [span for span in sample.spans if span.message == 1]
    hidden = []
    for step in range(6):
        visible = {t for a, b in visible_ranges(sample, masking, step, 5, 0) for t in range(a, b)}
        hidden.append([n for n, span in enumerate(spans) if span.start not in visible])
    assert hidden == [[], [1], [1, 2], [1, 2, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4]]
    unmeasured = dataclasses.replace(sample, influence=())
    assert visible_ranges(unmeasured, masking, 2, 5, 0) == visible_ranges(sample, MaskingConfig("sequential"), 2, 5, 0)


def test_a_run_measures_once_records_it_and_goes_on_with_the_same_order(base: Path, tmp_path: Path) -> None:
    run = config(base, tmp_path / "whole", masking=MaskingConfig("influence"), save_steps=0)
    result = train(run, quiet)
    first, *lines = [json.loads(line) for line in (tmp_path / "whole" / "influence.jsonl").read_text().splitlines()]
    assert first["tokens"] == result.measuring_tokens > 0
    assert [len(line["influence"]) for line in lines] == [5, 5, 0, 5, 5, 0]
    said: list[str] = []
    part = dataclasses.replace(run, output=str(tmp_path / "part"), save_steps=2)
    with pytest.raises(UserError, match="interrupted"):
        train(part, said.append, [At(3, interrupt)])
    assert any("measuring the influence" in line for line in said)
    said.clear()
    again = train(dataclasses.replace(part, resume=True), said.append)
    assert not any("measuring" in line for line in said) and again.measuring_tokens == result.measuring_tokens
    assert [line["loss"] for line in log(tmp_path / "part")] == [line["loss"] for line in log(tmp_path / "whole")]
    assert "6 steps" in describe_plan(dataclasses.replace(run, output=str(tmp_path / "plan")))


def test_nothing_is_measured_where_no_student_reads_blocks(base: Path, tmp_path: Path) -> None:
    run = config(base, tmp_path, masking=MaskingConfig("influence"), loss=LossConfig(teacher_only=True), max_steps=1)
    assert train(run, quiet).measuring_tokens == 0 and not (tmp_path / "influence.jsonl").exists()
