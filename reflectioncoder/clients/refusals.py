"""Tells problems that a server refuses from a server that refuses everything.

A single refusal (a filter, a prompt that is too long, an empty answer) may be due to the problem, which is then
rejected and not requested again; or to the server (an unknown parameter, a role or a limit that it does not accept),
and then every further request would be refused too. So a refusal is held back until a request of the same kind that was
sent after it is answered. The kind is the number of answers before: a server may accept the first message of a
conversation and refuse the second one of each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from reflectioncoder.clients.messages import Reason, SamplerError

T = TypeVar("T")
ALIKE = 5  # refusals without an answer in between from which the server is at fault
ALIKE_FILTERED = 20  # the same for refusals by a filter, which often come in groups
HELD: frozenset[Reason] = frozenset(("refused", "forbidden", "empty", "too_long"))


@dataclass(frozen=True)
class Settled(Generic[T]):
    """What became of the refusals that were held until the end.

    Args:
        rejected: items whose problems are at fault.
        open: items of which this is not known, with the server's words; they are requested again by the next run.
        failure: the server's words if it refused everything; otherwise empty.
    """

    rejected: list[T] = field(default_factory=list)
    open: list[tuple[T, str]] = field(default_factory=list)
    failure: str = ""


class Refusals(Generic[T]):
    """The refusals of one run.

    Args:
        at_once: number of concurrent requests. That many may be refused before the first could be answered.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once, self._clock = at_once, 0
        self._held: defaultdict[int, list[tuple[int, SamplerError, T]]] = defaultdict(list)
        self._answered: set[int] = set()

    def sent(self) -> int:
        """Note that a request is sent; return its number, for `answered`."""
        self._clock += 1
        return self._clock

    def answered(self, kind: int, number: int) -> list[T]:
        """Note an answer; return the items whose refusal is thereby known to be the problem's.

        Args:
            kind: number of answers before it in its conversation.
            number: the request's number from `sent`.
        """
        self._answered.add(kind)
        held = self._held[kind]
        self._held[kind] = [item for item in held if item[0] >= number]
        return [item for at, _, item in held if at < number]

    def refused(self, kind: int, error: SamplerError, item: T) -> tuple[list[T], str]:
        """Note a refusal.

        Args:
            kind: see `answered`.
            error: the refusal.
            item: whatever stands for the problem.

        Returns:
            the items to reject now, and the server's words if it refuses everything, otherwise an empty text.
        """
        if error.reason not in HELD or (error.reason == "too_long" and kind):  # a conversation outgrew the context
            return [item], ""
        held = self._held[kind]
        held.append((self._clock, error, item))
        filtered = all(refusal.reason == "refused" and refusal.final for _, refusal, _ in held)
        if len(held) >= max(self._at_once, ALIKE_FILTERED if filtered else ALIKE):
            return [], held[0][1].detail
        return [], ""

    def settle(self, known: Callable[[int], bool]) -> Settled[T]:
        """Decide the refusals that are still held, at the end of a run.

        Args:
            known: whether an earlier run has an answer of a kind.
        """
        settled: Settled[T] = Settled()
        failure = ""
        for kind, held in sorted(self._held.items()):
            for _, error, item in held:
                alone = error.final and (bool(self._answered) or known(0))
                if error.reason == "forbidden":
                    settled.open.append((item, error.detail))
                elif kind in self._answered or known(kind) or alone:
                    settled.rejected.append(item)
                else:
                    settled.open.append((item, error.detail))
                    failure = failure or error.detail
        return Settled(settled.rejected, settled.open, failure)
