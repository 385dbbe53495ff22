"""Several samples per problem: their ids, and sampling that stops at the first accepted one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

from reflectioncoder.construct.ledger.ledger import Entry
from reflectioncoder.problems.problem import Problem

NOT_NEEDED = "not_needed"


def sample_id(problem: str, number: int) -> str:
    """Return the id of a problem's sample; samples are numbered from 1."""
    return f"{problem}#{number}"


def sample_of(id: str) -> tuple[str, int]:
    """Split an id from `sample_id` into the problem's id and the sample's number."""
    problem, _, number = id.rpartition("#")
    return problem, int(number)


class FirstAccepted:
    """Makes the samples of each problem in order until one is accepted; used inside one event loop.

    Args:
        accepted: ids of samples accepted in earlier runs.
    """

    def __init__(self, accepted: Iterable[str]) -> None:
        self._accepted = {sample_of(id)[0] for id in accepted}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, sample: Problem, make: Callable[[Problem], Awaitable[Entry | None]]) -> Entry | None:
        """Make a sample after the earlier samples of its problem, unless one of them was accepted.

        Args:
            sample: the sample, as a problem with an id from `sample_id`.
            make: makes the sample; returns None if it stays open.

        Returns:
            the entry of the sample, rejected as `not_needed` if an earlier sample was accepted; None if it stays open.
        """
        problem, _ = sample_of(sample.id)
        async with self._locks[problem]:
            if problem in self._accepted:
                return Entry(sample.id, "rejected", NOT_NEEDED, "a sample before it was accepted")
            entry = await make(sample)
            if entry is not None and entry.status == "done":
                self._accepted.add(problem)
            return entry
