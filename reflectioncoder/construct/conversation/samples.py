"""Several samples of a problem: what they are called, and making them only up to the first that is accepted."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

from reflectioncoder.construct.ledger.ledger import Entry
from reflectioncoder.problems.problem import Problem

NOT_NEEDED = "not_needed"


def sample_id(problem: str, number: int) -> str:
    """The id of a problem's sample; samples are numbered from 1."""
    return f"{problem}#{number}"


def sample_of(id: str) -> tuple[str, int]:
    """The problem's id and the number that `sample_id` made an id of."""
    problem, _, number = id.rpartition("#")
    return problem, int(number)


class FirstAccepted:
    """Samples of a problem one after the other, until one is accepted; used inside one event loop.

    Args:
        accepted: ids of samples that were accepted in earlier runs.
    """

    def __init__(self, accepted: Iterable[str]) -> None:
        self._accepted = {sample_of(id)[0] for id in accepted}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, sample: Problem, make: Callable[[Problem], Awaitable[Entry | None]]) -> Entry | None:
        """What `make` makes of a sample once those before it are made, or that none is needed any more."""
        problem, _ = sample_of(sample.id)
        async with self._locks[problem]:
            if problem in self._accepted:
                return Entry(sample.id, "rejected", NOT_NEEDED, "a sample before it was accepted")
            entry = await make(sample)
            if entry is not None and entry.status == "done":
                self._accepted.add(problem)
            return entry
