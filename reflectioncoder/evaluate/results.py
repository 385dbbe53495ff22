"""Results of an evaluation: the verdict on each completion, and the score with its interval."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.stats import pass_at_k, wilson
from reflectioncoder.files.jsonl import iter_jsonl
from reflectioncoder.tasks.base import Task

if TYPE_CHECKING:  # scoring a file takes no model
    pass


@dataclass(frozen=True)
class Result:
    """The verdict on one completion; `error` is the exception with its first line, `groups` as in `Verdict`."""

    task_id: str
    sample: int
    passed: bool
    outcome: str
    error: str
    seconds: float
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Score:
    """The score of a run.

    Args:
        task: its name.
        pass_at_1: mean over the problems of the share of their samples that pass; None if no problem could be run.
        low: lower end of its 95 % Wilson interval.
        high: upper end.
        n: problems scored.
        not_run: problems left out of all this, because this machine lacks what they need.
        k: pass@k for each k asked for.
        seconds: of decoding and checking.
        tokens_per_second: of decoding; 0 where completions were read.
        folder: where the verdicts are.
        missing: problems without a completion, counted as failed.
        truncated: completions that ran out of tokens before their code ended.
    """

    task: str
    pass_at_1: float | None
    low: float | None
    high: float | None
    n: int
    not_run: int
    k: dict[int, float]
    seconds: float
    tokens_per_second: float = 0.0
    truncated: int = 0
    missing: int = 0
    folder: str = ""


def summarize(
    task: str, results: Iterable[Result], ks: Sequence[int] = (1,), seconds: float = 0.0, tokens_per_second: float = 0.0
) -> Score:
    """The score of verdicts; those that are `not_run` say nothing. Raises UserError for a k beyond the samples."""
    groups = by_task(results).values()
    known = [[result for result in group if result.outcome != "not_run"] for group in groups]
    problems = [[result.passed for result in group] for group in known if group]
    if not problems:
        return Score(task, None, None, None, 0, len(known), {}, seconds, tokens_per_second)
    fewest = min(map(len, problems))
    if any(k > fewest for k in ks):
        raise UserError(f"k = {list(ks)}, but a problem has {fewest} samples")
    at_k = {k: sum(pass_at_k(len(p), sum(p), k) for p in problems) / len(problems) for k in (1, *ks)}
    low, high = wilson(at_k[1], len(problems))
    n, chosen = len(problems), {k: at_k[k] for k in ks}
    return Score(task, at_k[1], low, high, n, len(known) - n, chosen, seconds, tokens_per_second)


def _by_part(task: Task, results: Sequence[Result]) -> dict[str, dict[str, float | int | None]]:
    """Pass@1, its interval and counts by part of the task, such as a library of DS-1000; empty where it has none."""
    parts: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        parts[task.part(result.task_id)].append(result)
    wanted = ("pass_at_1", "low", "high", "n", "not_run")
    scores = {part: summarize(task.name, group) for part, group in sorted(parts.items()) if part}
    return {part: {name: getattr(score, name) for name in wanted} for part, score in scores.items()}


def by_task(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by problem, each problem's in the order of its samples."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.task_id].append(result)
    return {task_id: sorted(group, key=lambda r: r.sample) for task_id, group in groups.items()}


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """The verdicts of an evaluation: `results.jsonl`, or the directory it is in. Raises UserError."""
    path = Path(path)
    results = []
    for where, row in iter_jsonl(path / "results.jsonl" if path.is_dir() else path):
        try:
            results.append(Result(**{**row, "groups": tuple(map(tuple, row.get("groups", ())))}))
        except (TypeError, AttributeError):
            raise UserError(f"{where}: not a verdict with {', '.join(Result.__dataclass_fields__)}") from None
    return results
