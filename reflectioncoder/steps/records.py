"""The folder of a step: its settings, its log, and the record of how it ended."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import read_marker, remove_tree
from reflectioncoder.steps.plan import STEP_OUTPUT, StepPlan, StepRun

STEP_LOG = "log.txt"
STEP_RECORD = "step.json"
STEP_CONFIG = "config.toml"
LAST_LINE_BYTES = 1 << 16
WEIGHT_FILES = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class StepRecord:
    """How a step ended.

    Args:
        verb: the command.
        state: `done` or `failed`.
        seconds: wall-clock time of its processes, over all attempts that were recorded.
        attempts: number of these.
        status: exit status of the last one; negative for a signal.
        error: last line of the log of a failed step.
        jobs: steps that ran at the same time at its start, with it.
        model_deleted: the weights were deleted, because all scores of the model were there.
    """

    verb: str
    state: Literal["done", "failed"]
    seconds: float
    attempts: int = 1
    status: int = 0
    error: str = ""
    jobs: int = 1
    model_deleted: bool = False


def read_record(folder: Path) -> StepRecord | None:
    """Read the record of a step; None if it has not ended yet, or if the record cannot be read."""
    try:
        return StepRecord(**parse_json((folder / STEP_RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: StepRecord) -> None:
    """Write the record of a step. Raises UserError if it cannot be written."""
    write_lines(folder / STEP_RECORD, [json.dumps(dataclasses.asdict(record), indent=1)])


def last_log_line(folder: Path) -> str:
    """The last line of a step's log that is not blank; "" if there is none."""
    try:
        with (folder / STEP_LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - LAST_LINE_BYTES))
            lines = log.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def model_is_complete(folder: Path) -> bool:
    """Whether a training that was killed had already moved its model into place; it needs no second run."""
    marker = read_marker(folder / STEP_OUTPUT)
    return marker is not None and marker.command == "train" and marker.state == "finished"


def delete_weights(folder: Path) -> None:
    """Delete the weights of a trained model, and keep its log and its result."""
    for path in (path for pattern in WEIGHT_FILES for path in (folder / STEP_OUTPUT).glob(pattern)):
        path.unlink()


def clear_output(folder: Path) -> None:
    """Delete the output of a step that must run again from the start."""
    remove_tree(folder / STEP_OUTPUT)


def read_training_result(folder: Path) -> Mapping[str, Any]:
    """The result of a training step: steps, tokens, seconds, samples.

    Raises:
        UserError: it is missing or cannot be read.
    """
    path = folder / STEP_OUTPUT / "result.json"
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found
    except (OSError, ValueError) as error:
        raise UserError(f"file {path}: cannot be read ({error}); delete {folder} to train again") from None


def link_steps(plan: StepPlan, run: StepRun, place: Path) -> None:
    """Make a folder with links to the steps of a run, for people. Raises UserError if it cannot be written."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, key in run.links:
            target = os.path.relpath(plan.folder(key), place)
            link = place / name
            if not link.is_symlink() or os.readlink(link) != target:
                with suppress(FileNotFoundError):
                    link.unlink()
                link.symlink_to(target)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}") from None
