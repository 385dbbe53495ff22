"""The paired comparison of two evaluations of one task."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.stats import Comparison, paired

if TYPE_CHECKING:  # scoring a file takes no model
    pass
from reflectioncoder.evaluate.results import by_task, read_results


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], seed: int = 0) -> Comparison:
    """Two evaluations of the same task, problem by problem.

    Args:
        first: its `results.jsonl` or output directory, the run before.
        second: the run after.
        seed: of the bootstrap.

    Raises:
        UserError: a file that is no list of verdicts, runs of other tasks, tests or problems, or nothing run in both.
    """
    for key, mine, other in zip(("task", "tests"), *map(_judged_by, (first, second)), strict=True):
        if mine and other and mine != other:
            raise UserError(
                f"{first} and {second}: {key} '{mine}' and '{other}'; compare runs of one task and its tests"
            )
    runs = [by_task(read_results(path)) for path in (first, second)]
    if not runs[0] or runs[0].keys() != runs[1].keys():
        differ = len(runs[0].keys() ^ runs[1].keys())
        raise UserError(f"{first} and {second}: {differ} problems are in one only; compare runs of one task and seed")
    known = [{name: [r.passed for r in group if r.outcome != "not_run"] for name, group in run.items()} for run in runs]
    both = [name for name in runs[0] if known[0][name] and known[1][name]]
    if not both:
        raise UserError(
            f"{first} and {second}: no problem was run in both; reflectioncoder doctor says what is missing"
        )
    found = paired([known[0][name] for name in both], [known[1][name] for name in both], seed)
    return dataclasses.replace(found, not_run=len(runs[0]) - len(both))


def _judged_by(path: str | os.PathLike[str]) -> tuple[str | None, str | None]:
    """Task and tests named by the score beside an evaluation's results (a task file without its folder); None where
    the score does not name them."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        facts = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        return Path(facts["task"]).name, facts.get("tests")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, None
