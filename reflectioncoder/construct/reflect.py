"""Runs the worker processes of a build by mutation or from attempts; builds by conversation have a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.attempts.answers import make_attempts
from reflectioncoder.construct.attempts.worker import AttemptWorker
from reflectioncoder.construct.conversation.scheduler import Ended
from reflectioncoder.construct.engines import engine
from reflectioncoder.construct.engines.processes import Handler
from reflectioncoder.construct.ledger.ledger import Entry, Ledger
from reflectioncoder.construct.mutation.worker import INFRASTRUCTURE, Reflector
from reflectioncoder.problems.problem import Problem
from reflectioncoder.progress import Meter

T = TypeVar("T")


def reflect_on_bugs(config: BuildConfig, problems: Sequence[Problem], ledger: Ledger, console: Console) -> Ended:
    """Plant bugs in the solutions of all problems."""
    return _worked(Reflector, [(problem.id, problem) for problem in problems], config, ledger, console)


def reflect_on_attempts(config: BuildConfig, problems: Sequence[Problem], ledger: Ledger, console: Console) -> Ended:
    """Let the model attempt all problems, then turn its attempts into sequences and plain samples."""
    made = make_attempts(config, problems, ledger)
    tasks = [(problem.id, (problem, made.attempts.get(problem.id))) for problem in problems if problem.id in made.ready]
    ended = _worked(AttemptWorker, tasks, config, ledger, console)
    left = [(problem.id, "no attempt") for problem in problems if problem.id not in made.ready]
    return Ended(failed=made.failed or ended.failed, left=(*left, *ended.left))


def _worked(
    make: Callable[[BuildConfig], Handler[T, Entry]],
    tasks: Sequence[tuple[str, T]],
    config: BuildConfig,
    ledger: Ledger,
    console: Console,
) -> Ended:
    """Run the workers until every task's entry is in the ledger, or the interpreter gave no result in two attempts.

    Args:
        make: makes the handler of a worker.
        tasks: id of each problem, and what its handler gets.
        config, ledger, console: those of the build.
    """
    with Meter("reflecting", len(tasks)) as meter, engine.workers(make, config, console) as pool:
        for attempt in (1, 2):
            again = []
            for index, entry in pool.run([task for _, task in tasks]):
                if entry.reason == INFRASTRUCTURE:
                    again.append(tasks[index])
                else:
                    ledger.put(entry)
                    meter.advance()
            if not again:
                return Ended()
            tasks = again
            console.print(f"attempt {attempt}: {len(again)} problems without a result from the interpreter")
    why = (
        f"the interpreter gave no result for {len(again)} problems, first {again[0][0]} (use fewer workers if memory"
        " is short); the others are kept"
    )
    return Ended(failed=why, left=tuple((id, "no result from the interpreter") for id, _ in again))


# by sampler; all others hold conversations
WITHOUT_CONVERSATION: Mapping[str, Callable[[BuildConfig, Sequence[Problem], Ledger, Console], Ended]] = {
    "mutation": reflect_on_bugs,
    "attempts": reflect_on_attempts,
}
