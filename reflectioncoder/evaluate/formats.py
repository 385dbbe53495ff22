"""Verdicts in other programs' formats."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.generate.completions import Completion

if TYPE_CHECKING:
    from reflectioncoder.evaluate.results import Result, Score

# evalplus's words for an outcome; whatever is no success and no timeout is a failure there
STATUS = {"ok": "pass", "timeout": "timeout"}


def write_format(
    name: str, folder: Path, results: Sequence[Result], completions: Sequence[Completion], score: Score
) -> None:
    """Write verdicts in a format.

    Args:
        name: "evalplus": `eval_results.json`, where a group of tests that was not reached is None; "bigcode":
            `generations.json`, a list of each problem's programs, and `metrics.json`.
        folder: where to.
        results: the verdicts.
        completions: what they are about; those of `missing` results are not in it.
        score: of the run.
    """
    code = {(completion.task_id, completion.sample): completion for completion in completions}
    known = [(result, code[result.task_id, result.sample]) for result in results if result.outcome != "missing"]
    grouped: dict[str, list[Any]] = {}
    if name == "evalplus":
        for result, completion in known:
            groups = dict(result.groups) or {"base": result.outcome}
            row: dict[str, Any] = {
                "task_id": result.task_id,
                "solution" if completion.whole else "completion": completion.completion,
            }
            for group in ("base", "plus"):
                outcome = groups.get(group)
                row[f"{group}_status"] = None if outcome is None else STATUS.get(outcome, "fail")
            grouped.setdefault(result.task_id, []).append({**row, "base_fail_tests": [], "plus_fail_tests": []})
        date = time.strftime("%Y-%m-%d %H:%M")
        write_lines(folder / "eval_results.json", [json.dumps({"date": date, "hash": "", "eval": grouped})])
        return
    for result, completion in known:
        grouped.setdefault(result.task_id, []).append(completion.completion)
    write_lines(folder / "generations.json", [json.dumps(list(grouped.values()))])
    metrics = {score.task: {f"pass@{k}": share for k, share in score.k.items()}, "config": {"tasks": score.task}}
    write_lines(folder / "metrics.json", [json.dumps(metrics, indent=2)])
