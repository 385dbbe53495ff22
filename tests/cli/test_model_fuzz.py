"""Damaged models, checkpoints and programs end `train`, `consolidate` and `run` with status 0, 1 or 2, and one line.

The commands are run in full: a tiny model is trained for a step, a checkpoint is converted, a program is isolated.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
from damage import SEED, damaged, damaged_json, judge
from training import At, config, interrupt, quiet

from reflectioncoder.errors import UserError
from reflectioncoder.train.train import train

MODEL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
STATE = ["trainer_state.json", "progress.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
TRAIN = (
    "train --model model --data data.jsonl --output new --max_steps 1 --batch_size 2 --micro_tokens 500 --save_steps 0"
    " --precision float32 --device cpu --report_to none"
).split()
RESUME = "train --config run/config.toml --output run --resume --report_to none".split()
CONSOLIDATE = "consolidate run/checkpoint-2 new".split()
CHECKPOINT = [f"run/checkpoint-2/{name}" for name in (*MODEL, *STATE)]
PROGRAM = b"import math\n# %%\nx = [1, 2]\nprint(sum(x), '\xc3\xa9')\n# %%\nassert x[0] == 1, {'a': [1]}\n"
# name: (files of which one is damaged, words of the command, whether the checkpoint has a manifest)
COMMANDS: dict[str, tuple[Sequence[str], list[str], bool]] = {
    "train": ([*(f"model/{name}" for name in MODEL), "data.jsonl"], TRAIN, True),
    "train, dry run": ([*(f"model/{name}" for name in MODEL), "data.jsonl"], [*TRAIN, "--dry-run"], True),
    "resume": ([*CHECKPOINT, "run/checkpoint-2/manifest.json", "run/config.toml", "run/log.jsonl"], RESUME, True),
    "resume an earlier version's run": ([*CHECKPOINT, "run/config.toml"], RESUME, False),
    "consolidate": ([*CHECKPOINT, "run/checkpoint-2/manifest.json", "run/config.toml"], CONSOLIDATE, True),
    "consolidate an earlier version's checkpoint": (CHECKPOINT, CONSOLIDATE, False),
    "run": (["program.py"], ["run", "program.py"], True),
    "run cells": (["program.py"], ["run", "program.py", "--cells", "--json"], True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, a run that was interrupted, and a program."""
    folder = tiny.model_and_data(tmp_path_factory.mktemp("models"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = config(Path(), Path("run"), max_steps=4, batch_size=2, report_to=("none",))
        with pytest.raises(UserError, match="interrupted"):
            train(settings, quiet, [At(3, interrupt)])
    (folder / "program.py").write_bytes(PROGRAM)
    return folder


def damaged_weights(dice: random.Random, data: bytes) -> bytes:
    """The bytes of a file of safetensors with a fault in its header's JSON, or anywhere."""
    if dice.random() < 0.4:
        return damaged(dice, data)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(damaged_json(dice, json.loads(data[8 : 8 + size]))).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


@pytest.mark.parametrize("inputs", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_no_damaged_model_ends_in_a_traceback(
    inputs: int,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    dice = random.Random(SEED + inputs)
    seen = []
    for turn in range(inputs):
        name = list(COMMANDS)[turn % len(COMMANDS)]
        files, words, sealed = COMMANDS[name]
        file = dice.choice(list(files))
        shutil.rmtree(work, ignore_errors=True)
        monkeypatch.chdir(shutil.copytree(models, work))
        if not sealed:
            (work / "run" / "checkpoint-2" / "manifest.json").unlink()
        data = (work / file).read_bytes()
        damage = damaged_weights if file.endswith(".safetensors") else damaged
        (work / file).write_bytes(damage(dice, data))
        try:
            seen.append(judge(words, capsys))
        except BaseException:
            print(f"input {turn}: {name}, {file}, kept in {work}")
            raise
    assert 0.1 * inputs < seen.count(2) < 0.95 * inputs  # many inputs are bad, and some are harmless
