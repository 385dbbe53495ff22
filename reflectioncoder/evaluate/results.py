"""Results of an evaluation: the verdict on each completion, and the score with its interval."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.stats import paired, pass_at_k, wilson
from reflectioncoder.files.jsonl import iter_jsonl
from reflectioncoder.tasks.base import Task

RESULTS, RESULTS_AFTER = "results.jsonl", "results_after.jsonl"  # the second after rounds of debugging


@dataclass(frozen=True)
class Result:
    """The verdict on one completion.

    Args:
        task_id: id of the problem.
        sample: number of the sample within the problem, from 0.
        passed: whether all tests passed.
        outcome: see `Verdict`; "missing" if the problem has no completion.
        error: the exception and the first line of its message, or another reason; empty if there is none.
        seconds: wall-clock time of the check.
        groups: see `Verdict`.
    """

    task_id: str
    sample: int
    passed: bool
    outcome: str
    error: str
    seconds: float
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AfterRounds:
    """What a model reaches with rounds of its own debugging (`rounds.py`).

    Args:
        rounds: most rounds of a problem.
        pass_at_1: share of last programs that pass, averaged over problems, in [0, 1].
        low: lower end of its 95 % Wilson interval.
        high: upper end.
        gap: `pass_at_1` minus that of the first answers.
        gap_low: lower end of the gap's 95 % interval (bootstrap over problems).
        gap_high: upper end.
        repaired: number of problems whose first sample passes only after debugging.
        broken: number of problems whose first sample passes only before it.
    """

    rounds: int
    pass_at_1: float
    low: float
    high: float
    gap: float
    gap_low: float
    gap_high: float
    repaired: int
    broken: int


def after_rounds(rounds: int, first: Iterable[Result], last: Iterable[Result]) -> AfterRounds | None:
    """Compare the verdicts on first answers and on what they became; None if no problem could be run."""
    runs = [
        {name: [r.passed for r in group if r.outcome != "not_run"] for name, group in by_task(results).items()}
        for results in (first, last)
    ]
    names = [name for name in runs[0] if runs[0][name] and runs[1].get(name)]
    if not names:
        return None
    found = paired([runs[0][name] for name in names], [runs[1][name] for name in names])
    low, high = wilson(found.second, found.n)
    return AfterRounds(
        rounds, found.second, low, high, found.difference, found.low, found.high, found.only_second, found.only_first
    )


@dataclass(frozen=True)
class Score:
    """The score of a run.

    Args:
        task: name of the task.
        pass_at_1: share of samples that pass, averaged over problems, in [0, 1]; None if no problem could be run.
        low: lower end of the 95 % Wilson interval of `pass_at_1`.
        high: upper end.
        n: number of problems scored.
        not_run: number of problems excluded from the score because this machine lacks something they need.
        k: pass@k for each requested k.
        seconds: wall-clock time of decoding and checking.
        tokens_per_second: decoding speed; 0 if completions were read from a file.
        truncated: number of completions that reached the token limit before their code ended.
        missing: number of problems without a completion, which count as failed.
        folder: folder of the verdicts.
        after: what the model reaches with rounds of its own debugging; None if none were asked for.
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
    after: AfterRounds | None = None


def summarize(
    task: str, results: Iterable[Result], ks: Sequence[int] = (1,), seconds: float = 0.0, tokens_per_second: float = 0.0
) -> Score:
    """Compute the score; results with outcome `not_run` are excluded.

    Args:
        task: name of the task.
        results: the verdicts.
        ks: values of k for pass@k.
        seconds: see `Score`.
        tokens_per_second: see `Score`.

    Raises:
        UserError: a problem has fewer samples than the largest k.
    """
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
    """Score each part of the task, such as a library of DS-1000: pass@1, interval and counts; {} if it has no parts."""
    parts: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        parts[task.part(result.task_id)].append(result)
    wanted = ("pass_at_1", "low", "high", "n", "not_run")
    scores = {part: summarize(task.name, group) for part, group in sorted(parts.items()) if part}
    return {part: {name: getattr(score, name) for name in wanted} for part, score in scores.items()}


def by_task(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group results by problem, sorted by sample."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.task_id].append(result)
    return {task_id: sorted(group, key=lambda r: r.sample) for task_id, group in groups.items()}


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read the verdicts of an evaluation.

    Args:
        path: `results.jsonl`, or its folder.

    Raises:
        UserError: the file cannot be read, or a line is not a verdict.
    """
    path = Path(path)
    results = []
    for where, row in iter_jsonl(path / RESULTS if path.is_dir() else path):
        try:
            result = Result(**{**row, "groups": tuple((str(name), str(how)) for name, how in row.get("groups", ()))})
            kinds = (("task_id", str), ("sample", int), ("passed", bool), ("outcome", str), ("seconds", (int, float)))
            if not all(isinstance(getattr(result, name), kind) for name, kind in kinds):
                raise TypeError
            results.append(result)
        except (TypeError, AttributeError, ValueError):
            raise UserError(f"{where}: not a verdict with {', '.join(Result.__dataclass_fields__)}") from None
    return results
