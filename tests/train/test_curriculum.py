"""A mask rate driven by the measured KL moves on when the student has caught up, and never falls behind the steps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training import At, config, interrupt, log, quiet

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.train.batch.curriculum import Curriculum
from reflectioncoder.train.batch.strategies import block_mask
from reflectioncoder.train.train import describe_plan, train
from reflectioncoder.train.trainer import rate_at

ORDER = ("execution", "text", "code")


def rates(kls: list[float | None], masking: MaskingConfig, floors: list[float] | None = None) -> list[float]:
    """The mask rate of each step, given what each step measures."""
    state, found = Curriculum(), []
    for step, kl in enumerate(kls):
        found.append(state.rate(floors[step] if floors else 0.0, masking))
        state = state.after(kl, found[-1], masking)
    return found


def test_a_stage_begins_when_the_mean_of_the_window_is_low_enough() -> None:
    masking = MaskingConfig(schedule="kl", caught_up=0.1, window=2)
    # Means of two: 0.35, 0.1 (stage 1); 0.4, 0.25, 0.05 (stage 2); then a step without sequences changes nothing.
    measured = [0.6, 0.1, 0.1, 0.4, 0.4, 0.1, 0.0, None, 0.09, None, 0.11, 9.0]
    third = 1 / 3
    assert rates(measured, masking) == [0, 0, 0, third, third, third, third, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 1]


def test_stages_of_thirds_hide_one_more_type_of_block_each() -> None:
    masking = MaskingConfig(schedule="kl", caught_up=1.0, window=1)
    hidden = [
        {kind for kind, keep in zip(ORDER, block_mask(ORDER, rate, ORDER), strict=True) if not keep}
        for rate in rates([0.0] * 4, masking)
    ]
    assert hidden == [set(), {"execution"}, {"execution", "text"}, {"execution", "text", "code"}]


def test_a_student_that_never_catches_up_follows_the_steps() -> None:
    masking = MaskingConfig(schedule="kl", caught_up=0.0, stages=4)
    floors = [step / 8 for step in range(8)]
    found = rates([1.0] * 8, masking, floors)
    assert all(floor <= rate <= floor + 1 / 4 for rate, floor in zip(found, floors, strict=True))
    assert found == sorted(found)


@given(
    kls=st.lists(st.none() | st.floats(0, 2), min_size=1, max_size=40),
    stages=st.integers(1, 7),
    window=st.integers(1, 4),
    caught_up=st.floats(0, 1),
)
def test_rates_only_rise_stay_in_range_and_never_fall_behind(
    kls: list[float | None], stages: int, window: int, caught_up: float
) -> None:
    masking = MaskingConfig(schedule="kl", stages=stages, window=window, caught_up=caught_up)
    floors = [step / len(kls) for step in range(len(kls))]
    found = rates(kls, masking, floors)
    assert all(floor <= rate <= 1 for rate, floor in zip(found, floors, strict=True)) and found == sorted(found)


EASY = MaskingConfig(schedule="kl", caught_up=100.0, window=1)
HARD = MaskingConfig(schedule="kl", caught_up=0.0, window=1, stages=1000)


def test_a_run_moves_on_early_and_goes_on_exactly_after_an_interruption(base: Path, tmp_path: Path) -> None:
    run = config(base, tmp_path / "whole", masking=dataclasses.replace(EASY, window=2), max_steps=10)
    whole = train(run, quiet)
    found = [line["mask_rate"] for line in log(tmp_path / "whole")]
    assert found[:2] == [0.0, 0.1] and found[-1] == 1.0 and found == sorted(found) and found.count(1.0) >= 3
    with pytest.raises(UserError, match="interrupted"):
        train(dataclasses.replace(run, output=str(tmp_path / "part")), quiet, [At(5, interrupt)])
    progress = json.loads((tmp_path / "part" / "checkpoint-4" / "progress.json").read_text())
    assert progress["stage"] >= 1
    train(dataclasses.replace(run, output=str(tmp_path / "part"), resume=True), quiet)
    for name in ("loss", "mask_rate", "tokens", "learning_rate"):
        assert [line[name] for line in log(tmp_path / "part")] == [line[name] for line in log(tmp_path / "whole")]
    models = [load_model_and_tokenizer(str(tmp_path / name), device="cpu")[0] for name in ("whole", "part")]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    slower = train(dataclasses.replace(run, output=str(tmp_path / "steps"), masking=MaskingConfig()), quiet)
    assert whole.tokens < slower.tokens and whole.teacher_tokens == slower.teacher_tokens


def test_a_student_that_does_not_catch_up_is_trained_as_by_the_steps(base: Path, tmp_path: Path) -> None:
    run = config(base, tmp_path / "one", masking=HARD, save_steps=0)
    train(run, quiet)
    train(dataclasses.replace(run, output=str(tmp_path / "two"), masking=MaskingConfig()), quiet)
    timed = ("seconds", "tokens_per_second", "mask_rate")
    for left, right in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert left["mask_rate"] == pytest.approx(right["mask_rate"], abs=1e-3)
        assert {k: v for k, v in left.items() if k not in timed} == {k: v for k, v in right.items() if k not in timed}


def test_a_run_of_so_many_tokens_ends_there_whatever_the_masks_do(base: Path, tmp_path: Path) -> None:
    """Rate of learning and masks follow the tokens spent, since the steps that they make up are not known before."""
    for name, masking in (("easy", EASY), ("hard", HARD)):
        run = config(base, tmp_path / name, masking=masking, max_steps=-1, max_tokens=6000, save_steps=0)
        result = train(run, quiet)
        lines = log(tmp_path / name)
        assert lines[-2]["tokens"] < 6000 <= lines[-1]["tokens"] == result.tokens
        spent = [0.0, *(line["tokens"] / 6000 for line in lines[:-1])]
        for line, progress in zip(lines, spent, strict=True):
            assert line["mask_rate"] >= progress
            assert line["learning_rate"] == pytest.approx(1e-3 * rate_at(progress, "cosine", 0.05))
        assert lines[-1]["mask_rate"] > 0.8 and lines[-1]["learning_rate"] < 1e-4
    assert log(tmp_path / "easy")[-1]["step"] > log(tmp_path / "hard")[-1]["step"]
    assert "tokens through the model" in describe_plan(
        config(base, tmp_path / "plan", masking=EASY, max_steps=-1, max_tokens=6000)
    )


def test_the_learning_rate_has_the_shape_of_the_trainers_schedule() -> None:
    import transformers

    parameter = torch.nn.Parameter(torch.zeros(1))
    for scheduler in ("cosine", "linear", "constant"):
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        name: Any = "constant_with_warmup" if scheduler == "constant" else scheduler
        theirs = transformers.get_scheduler(name, optimizer, 10, 200)
        for step in range(200):
            assert theirs.get_last_lr()[0] == pytest.approx(rate_at(step / 200, scheduler, 0.05), abs=1e-12)
            optimizer.step()
            theirs.step()


def test_without_students_there_is_no_curriculum(base: Path, tmp_path: Path) -> None:
    loss = LossConfig(teacher_only=True)
    train(config(base, tmp_path, masking=EASY, loss=loss, max_steps=2, save_steps=0), quiet)
    assert [line["mask_rate"] for line in log(tmp_path)] == [0, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 0}, r"masking\.stages = 0: must be at least 1"),
        ({"window": 0}, r"masking\.window = 0: must be at least 1"),
        ({"caught_up": -1.0}, r"masking\.caught_up = -1\.0: must be 0 or more"),
    ],
)
def test_values_out_of_range_are_refused(base: Path, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(config(base, tmp_path, masking=MaskingConfig(**changes)), quiet)
