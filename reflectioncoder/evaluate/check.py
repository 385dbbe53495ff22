"""Checks completions in parallel interpreters, with retries and a second attempt for time-outs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reflectioncoder.errors import UserError, encodable
from reflectioncoder.evaluate.results import Result
from reflectioncoder.evaluate.verdict_log import ProgramKey, VerdictLog
from reflectioncoder.generate.completions import Completion
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.pool import Pool
from reflectioncoder.tasks.base import Task, Verdict

INTERPRETER_ATTEMPTS = 3  # attempts if the interpreter itself fails
CheckProgress = Callable[[int, int], None]


def check_all(
    task: Task,
    completions: Sequence[Completion],
    pool: Sequence[Interpreter],
    limits: Limits,
    progress: CheckProgress | None = None,
    unfinished: VerdictLog | None = None,
) -> list[Result]:
    """Check all completions; identical code for the same problem is run once.

    Args:
        task: task whose tests are run.
        completions: completions to check.
        pool: open interpreters; each is used by one thread at a time.
        limits: limits of each cell.
        progress: see `evaluate`.
        unfinished: verdict log with the verdicts of a killed run, to which those of this run are added.

    Returns:
        one result per completion, in the same order.

    Raises:
        UserError: the interpreter itself failed `INTERPRETER_ATTEMPTS` times on one completion.
    """
    shared = Pool(pool)

    def check(key: ProgramKey, alone: bool = False) -> Verdict:
        found = unfinished.get(key, alone) if unfinished is not None else None
        if found is not None:
            return found
        verdict = shared.use(lambda interpreter: _check_once(task, key, interpreter, limits, alone))
        if unfinished is not None:
            unfinished.keep(key, verdict, alone)
        return verdict

    unique = list(dict.fromkeys(map(_key, completions)))
    verdicts: dict[ProgramKey, Verdict] = {}
    late: list[ProgramKey] = []
    unique.sort(key=lambda key: -task.cost(key[0]))  # longest first, so that no worker is left idle at the end
    with shared:
        for key, verdict in zip(unique, shared.each(check, unique), strict=True):
            verdicts[key] = verdict
            late += [key] if verdict.outcome == "timeout" else []  # reference and answer are timed again, side by side
            if progress is not None:
                progress(len(verdicts), len(unique) + len(late))
    for number, key in enumerate(late, 1):
        verdicts[key] = check(key, alone=True)
        if progress is not None:
            progress(len(unique) + number, len(unique) + len(late))
    return [
        Result(c.task_id, c.sample, v.passed, v.outcome, encodable(c.error or v.error), round(v.seconds, 4), v.groups)
        for c in completions
        for v in [verdicts[_key(c)]]
    ]


def _key(completion: Completion) -> ProgramKey:
    return completion.task_id, completion.completion, completion.whole


def _check_once(task: Task, key: ProgramKey, interpreter: Interpreter, limits: Limits, again: bool) -> Verdict:
    """Check a program, for the second time if `again` is set; failures of the interpreter itself are retried."""
    if again:
        task.measure_again(key[0], interpreter)
    for _ in range(INTERPRETER_ATTEMPTS):
        verdict = task.check(key[0], key[1], interpreter, limits, key[2])
        if verdict.outcome != "infrastructure":
            return verdict
    raise UserError(
        f"task {task.name}, problem '{key[0]}': the interpreter failed {INTERPRETER_ATTEMPTS} times ({verdict.error}); "
        "no score was written; run again to continue"
    )
