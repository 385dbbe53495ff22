"""Helpers for tests of training: a default configuration, the log of a run, and a callback that ends a run early."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from reflectioncoder.config.train import TrainConfig


def config(base: Path, output: Path, **changes: Any) -> TrainConfig:
    usual = TrainConfig(
        model=str(base / "model"),
        output=str(output),
        data=(str(base / "data.jsonl"),),
        batch_size=4,
        micro_tokens=500,
        max_steps=6,
        learning_rate=1e-3,
        precision="float32",
        save_steps=2,
        device="cpu",
    )
    return dataclasses.replace(usual, **changes)


def log(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def quiet(_: str) -> None:
    pass


class At(TrainerCallback):
    """Calls a function after a given step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.what()


def interrupt() -> None:
    raise KeyboardInterrupt
