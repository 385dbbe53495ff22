"""Controls that the paper lacks are settings, and a run counts what it spends: tokens by row, passes, seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from training import At, config, interrupt, log, quiet

from reflectioncoder.config.train import LossConfig
from reflectioncoder.dialogues.dialogue import instruction_dialogue, write_jsonl
from reflectioncoder.dialogues.tokens import encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.steps import TrainSteps, prepare
from reflectioncoder.train.train import train


def same_run(left: Path, right: Path) -> None:
    """Two runs have equal logs, but for the time, and equal weights to the last bit."""
    timed = ("seconds", "tokens_per_second")
    assert len(log(left)) == len(log(right)) > 1
    for one, other in zip(log(left), log(right), strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    models = [load_model_and_tokenizer(str(folder), device="cpu")[0] for folder in (left, right)]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_final_answers_are_additional_plain_samples(base: Path, tmp_path: Path) -> None:
    """`objective = instruction` with sequences in the data: each counts as the plain sample of its final answer."""
    answers = [
        one if not one.is_reflection else instruction_dialogue(one.messages[2].blocks[0].content, one.final_answer)
        for one in tiny.dialogues()
    ]
    data = tmp_path / "answers.jsonl"
    write_jsonl(data, answers)
    train(config(base, tmp_path / "one", objective="instruction", upsample=1, save_steps=0), quiet)
    train(config(base, tmp_path / "two", objective="instruction", data=(str(data),), save_steps=0), quiet)
    same_run(tmp_path / "one", tmp_path / "two")


def test_whole_dialogues_are_plain_samples_without_a_student(base: Path, tmp_path: Path) -> None:
    """`loss.teacher_only`: the control "whole dialogue as plain tuning" and the release's "w/o Distillation" in one."""
    data = tmp_path / "dialogues.jsonl"
    plain = instruction_dialogue("say", "x")
    retyped = [dataclasses.replace(one, type=plain.type) for one in tiny.dialogues()]
    write_jsonl(data, retyped)
    train(
        config(base, tmp_path / "one", loss=LossConfig(teacher_only=True), upsample=1, save_steps=0, max_steps=2), quiet
    )
    # The type alone makes them plain, so that nothing of the objective is left; its check wants one sequence.
    with pytest.raises(UserError, match="none of the 6 samples is a reflection sequence"):
        train(config(base, tmp_path / "two", data=(str(data),)), quiet)
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    run = config(base, tmp_path, loss=LossConfig(teacher_only=True), upsample=1)
    encoded = [encode_dialogue(one, words, str(n)) for n, one in enumerate(retyped)]
    steps = TrainSteps(encoded, [1] * 6, config(base, tmp_path))
    ours = TrainSteps(*prepare(tiny.dialogues(), words, run)[:2], run)
    assert steps.plan == ours.plan
    for step in range(len(steps)):
        left, right = (which[step].micro_batches for which in (steps, ours))
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.target, b.target)
            assert torch.equal(a.ce_weight, b.ce_weight) and len(a.kl_weight) == len(b.kl_weight) == 0
    assert all(line["student_ce"] == line["kl"] == 0 for line in log(tmp_path / "one"))


def test_the_summary_tells_teacher_and_student_tokens_passes_and_seconds(base: Path, tmp_path: Path) -> None:
    result = train(config(base, tmp_path, max_steps=-1, epochs=3.0, mix="instructions", save_steps=0), quiet)
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    # tiny.dialogues has four instructions with a sequence and two with a plain sample: 4 * 2 + 2 samples a pass.
    lengths = [len(encode_dialogue(one, words)) for one in tiny.dialogues()]
    teacher = 3 * sum(
        length * (2 if one.is_reflection else 1) for length, one in zip(lengths, tiny.dialogues(), strict=True)
    )
    assert result.teacher_tokens == teacher
    assert result.student_tokens == result.tokens - teacher > 0
    assert result.passes == 3 and result.seconds > 0
    written = json.loads((tmp_path / "result.json").read_text())
    assert written == dataclasses.asdict(result)


def test_a_resumed_run_counts_what_it_spent_before(base: Path, tmp_path: Path) -> None:
    whole = train(config(base, tmp_path / "whole"), quiet)
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, tmp_path / "part"), quiet, [At(3, interrupt)])
    part = train(config(base, tmp_path / "part", resume=True), quiet)
    for name in ("tokens", "teacher_tokens", "student_tokens", "passes", "steps"):
        assert getattr(part, name) == getattr(whole, name)
    assert whole.teacher_tokens + whole.student_tokens == whole.tokens


def test_controls_stop_by_passes_or_by_tokens(base: Path, tmp_path: Path) -> None:
    """Both accountings are plain settings: each control at equal passes, and at equal tokens through the model."""
    kinds: dict[str, dict[str, Any]] = {
        "reflection": {},
        "answers": {"objective": "instruction"},
        "dialogue": {"loss": LossConfig(teacher_only=True)},
    }
    passes, tokens = {}, {}
    for name, kind in kinds.items():
        by_pass = {"max_steps": -1, "epochs": 2.0, "save_steps": 0}
        by_token = {"max_steps": -1, "max_tokens": 2500, "save_steps": 0}
        passes[name] = train(config(base, tmp_path / f"{name}-passes", **kind, **by_pass), quiet)
        tokens[name] = train(config(base, tmp_path / f"{name}-tokens", **kind, **by_token), quiet)
        lines = log(tmp_path / f"{name}-tokens")
        steps = [line["tokens"] for line in lines]
        largest = max(after - before for before, after in zip([0, *steps], steps, strict=False))
        assert 2500 <= steps[-1] < 2500 + largest
    assert {one.passes for one in passes.values()} == {2.0}
    assert passes["reflection"].tokens > passes["dialogue"].tokens > passes["answers"].tokens
    assert tokens["reflection"].passes < tokens["dialogue"].passes < tokens["answers"].passes


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_everything_or_nothing_is_refused(base: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(UserError, match=r"reflection_share = .*: must be above 0 and below 1"):
        train(config(base, tmp_path, mix="tokens", reflection_share=share), quiet)
