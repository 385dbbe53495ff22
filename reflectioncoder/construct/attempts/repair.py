"""The smallest repair of an attempt: which of its differences from the reference solution make the tests pass.

The differences are tried alone, then in pairs, then by leaving out as many as possible of all of them. In every case
the repair is minimal in the sense that it fails as soon as any one of its differences is undone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from reflectioncoder.construct.attempts.differences import TreeDifference

MOST_PAIRED = 12  # differences up to which all pairs are tried
Passes = Callable[[Sequence[int]], bool]


def smallest_repair(found: Sequence[TreeDifference], passes: Passes) -> tuple[int, ...] | None:
    """Choose the differences that repair an attempt.

    Args:
        found: the differences of the attempt.
        passes: whether the attempt with these differences applied passes all tests; it costs a run.

    Returns:
        indices of the differences in order, of which none can be left out; None if all of them together do not help.
    """
    everything = tuple(range(len(found)))
    if not found or not passes(everything):
        return None
    by_size = sorted(everything, key=lambda i: (found[i].size, i))
    for number in (1, 2):
        if number >= len(found) or (number == 2 and len(found) > MOST_PAIRED):
            break
        sets = sorted(itertools.combinations(by_size, number), key=lambda chosen: sum(found[i].size for i in chosen))
        for chosen in sets:
            if passes(sorted(chosen)):
                return tuple(sorted(chosen))
    return _reduced(everything, passes, sorted(everything, key=lambda i: -found[i].size))


def _reduced(chosen: tuple[int, ...], passes: Passes, order: Sequence[int]) -> tuple[int, ...]:
    """Leave out what is not needed: halves first, then single ones until none can be left out any more."""
    for part in (order[: len(order) // 2], order[len(order) // 2 :]):
        rest = tuple(i for i in chosen if i not in part)
        if part and rest and passes(rest):
            return _reduced(rest, passes, [i for i in order if i in rest])
    changed = True
    while changed:
        changed = False
        for i in [i for i in order if i in chosen]:
            rest = tuple(j for j in chosen if j != i)
            if rest and passes(rest):
                chosen, changed = rest, True
    return chosen
