"""Writers for the result formats of other evaluation tools."""

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

# evalplus's status for each outcome; any other outcome is "fail"
STATUS_WORDS = {"ok": "pass", "timeout": "timeout"}


def write_format(
    name: str, folder: Path, results: Sequence[Result], completions: Sequence[Completion], score: Score
) -> None:
    """Write verdicts in the format of another tool.

    Args:
        name: "evalplus" writes `eval_results.json`, in which the status of a group of tests that was not reached is
            null. "bigcode" writes `generations.json`, the list of each problem's programs, and `metrics.json`.
        folder: output folder.
        results: the verdicts; those with outcome `missing` are not written.
        completions: the completions of all other verdicts.
        score: score of the run.
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
                row[f"{group}_status"] = None if outcome is None else STATUS_WORDS.get(outcome, "fail")
            grouped.setdefault(result.task_id, []).append({**row, "base_fail_tests": [], "plus_fail_tests": []})
        date = time.strftime("%Y-%m-%d %H:%M")
        write_lines(folder / "eval_results.json", [json.dumps({"date": date, "hash": "", "eval": grouped})])
        return
    for result, completion in known:
        grouped.setdefault(result.task_id, []).append(completion.completion)
    write_lines(folder / "generations.json", [json.dumps(list(grouped.values()))])
    metrics = {score.task: {f"pass@{k}": share for k, share in score.k.items()}, "config": {"tasks": score.task}}
    write_lines(folder / "metrics.json", [json.dumps(metrics, indent=2)])
