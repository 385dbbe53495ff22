"""Verdicts in other programs' formats, and the paper's table 1 with measured rows beside the published ones."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.completions import Completion
from reflectioncoder.dialogue import write_lines
from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.evaluate import Result, Score

COLUMNS = ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus")
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


def published() -> list[dict[str, Any]]:
    """The rows of the paper's table 1, open models, in its order; nothing in it was measured here."""
    text = resources.files("reflectioncoder").joinpath("data/published.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def paper_table(folders: Sequence[str]) -> str:
    """Published rows and, below each other, the scores found in folders of evaluations, as a Markdown table.

    Args:
        folders: directories with `score.json`, or directories of such; scores of one parent are one row.

    Raises:
        UserError: no score in a folder.
    """
    measured: dict[str, dict[str, str]] = {}
    for folder in folders:
        found = sorted(Path(folder).glob("score.json")) + sorted(Path(folder).glob("*/score.json"))
        if not found:
            raise UserError(
                f"{folder}: no score.json in it or in the folders in it; run reflectioncoder evaluate first"
            )
        for path in found:
            try:
                score = json.loads(path.read_text(encoding="utf-8"))
                task, rate, low, high = score["task"], score["pass_at_1"], score["low"], score["high"]
                cell = "not run" if rate is None else f"{rate:.1%} [{low:.1%}, {high:.1%}]".replace("%", "")
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: not a score ({error!r})") from None
            if task in COLUMNS:
                measured.setdefault(str(folder), {})[task] = cell
    head = ["method", "base", "HumanEval", "HumanEval+", "MBPP", "MBPP+", "from"]
    rows = [
        [row["method"], row["base"], *(f"{row[name]:.1f}" for name in COLUMNS), f"published, table {row['table']}"]
        for row in published()
    ]
    rows += [[name, "", *(cells.get(task, "") for task in COLUMNS), "measured"] for name, cells in measured.items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
