"""`train --dry-run` refuses what the run would refuse, and writes nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from training import At, config, interrupt, log, quiet

from reflectioncoder.config.train import LoraConfig
from reflectioncoder.errors import UserError
from reflectioncoder.train.train import describe_plan, train


@pytest.fixture(scope="module")
def interrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its third step; it has checkpoint-2."""
    output = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, output), quiet, [At(3, interrupt)])
    return output


def both_refuse(settings: Any) -> str:
    """The message with which the dry run and the run refuse settings."""
    with pytest.raises(UserError) as planned:
        describe_plan(settings)
    with pytest.raises(UserError) as ran:
        train(settings, quiet)
    assert str(planned.value) == str(ran.value)
    return str(planned.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("none.jsonl",)}, "none.jsonl: no such file or folder"),
        ({"eval_data": ("none.jsonl",), "eval_steps": 1}, "none.jsonl: no such file or folder"),
        ({"eval_data": ("bad.jsonl",), "eval_steps": 1}, "bad.jsonl, line 1: neither"),
        ({"max_length": 3}, "longer than max_length"),
        ({"optimizer": "adamw_8bit"}, "needs a CUDA GPU"),
        ({"lora": LoraConfig(quantize="4bit")}, "set lora.r"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"device": "meta"}, "take cpu or cuda"),
        ({"model": "bare"}, "has no eos_token"),
    ],
)
def test_the_dry_run_refuses_what_the_run_refuses(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"query": "a"}\n')
    tiny.llama(258, dtype=torch.float32).save_pretrained(tmp_path / "bare")
    words = tiny.tokenizer()
    words.eos_token = None
    words.save_pretrained(tmp_path / "bare")
    assert message in both_refuse(config(base, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_place_that_a_checkpoint_needs_is_refused_before_training(base: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "notes").touch()
    assert "checkpoint-4: was not written by" in both_refuse(config(base, tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a directory"):
        describe_plan(config(base, tmp_path / "file" / "out"))


def test_the_dry_run_of_a_resumed_run_checks_checkpoint_settings_and_samples(
    base: Path, tmp_path: Path, interrupted: Path
) -> None:
    run = Path(shutil.copytree(interrupted, tmp_path / "run"))
    again = config(base, run, resume=True)
    before = sorted(run.rglob("*"))
    assert f"would continue from {run / 'checkpoint-2'}" in describe_plan(again)
    assert sorted(run.rglob("*")) == before
    assert "learning_rate was 0.001" in both_refuse(config(base, run, resume=True, learning_rate=0.1))
    lines = (base / "data.jsonl").read_text().splitlines()
    state = run / "checkpoint-2" / "trainer_state.json"
    state.write_text(state.read_text() + " ")
    assert "cannot resume from it" in both_refuse(again)
    state.write_text(state.read_text()[:-1])
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    settings = (run / "config.toml").read_text()
    (run / "config.toml").write_text(settings.replace(str(base / "data.jsonl"), str(data)))
    moved = config(base, run, resume=True, data=(str(data),))
    assert "would continue" in describe_plan(moved)  # its samples are the same
    data.write_text("\n".join(lines[:-1]))
    assert "the samples in" in both_refuse(moved)


def test_a_run_is_resumed_with_paths_that_are_written_otherwise(
    base: Path, tmp_path: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(interrupted, tmp_path / "run"))
    monkeypatch.chdir(base)
    data = (f"./{os.path.relpath(base / 'data.jsonl')}",)
    train(config(base, run, resume=True, model="model/", data=data), quiet)
    assert [line["step"] for line in log(run)] == [1, 2, 3, 4, 5, 6]
    assert json.loads((run / "result.json").read_text())["steps"] == 6
