"""Paired comparison of two evaluations of the same task."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.results import by_task, read_results
from reflectioncoder.evaluate.stats import Comparison, paired
from reflectioncoder.files.json_value import parse_json


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], seed: int = 0) -> Comparison:
    """Compare two evaluations of the same task, problem by problem.

    Args:
        first: `results.jsonl` or output directory of the baseline run.
        second: `results.jsonl` or output directory of the run compared with it.
        seed: seed of the bootstrap.

    Raises:
        UserError: a file does not contain verdicts, the runs differ in task, tests or problems, or no problem was run
            in both.
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
    """Read the task (file name only, without the folder) and the tests from the score beside the results.

    Each is None if the score does not contain it or cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        facts = parse_json((folder / "score.json").read_text(encoding="utf-8"))
        return Path(facts["task"]).name, facts.get("tests")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, None
