"""Writes the analysis of a round of an attempt from the differences that the next round repairs.

A repair that undoes one of the kinds of bugs that can be planted is explained as that bug; see `construct/mutation`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from reflectioncoder.construct.attempts.differences import TreeDifference
from reflectioncoder.construct.attempts.wordings import REPAIRED
from reflectioncoder.construct.mutation.edits import Mutation
from reflectioncoder.construct.mutation.explain import AssertFailure, clauses, code, compose
from reflectioncoder.construct.mutation.reasons import EFFECTS

MOST_NAMED = 3  # mistakes that an analysis names


@dataclass(frozen=True)
class Mistake:
    """A mistake of an attempt, with what its explanation needs.

    Args:
        difference: what the repair changes.
        undone: the mistake as a bug that is planted in the repaired program.
        known: the same as one of the known kinds of bugs, with that kind's fragments; None if it is none of them.
        line: the line of the mistake in the attempt.
        fixed: the same line in the repaired program.
        function: name of the function around it.
    """

    difference: TreeDifference
    undone: Mutation
    known: Mutation | None
    line: str
    fixed: str
    function: str


def explain(failure: AssertFailure, mistakes: Sequence[Mistake], partial: bool, rng: random.Random) -> str:
    """Write what failed, why, and the repair.

    Args:
        failure: the failing assert and the interpreter's result.
        mistakes: what the next round repairs.
        partial: whether other mistakes contribute to this failure.
        rng: picks the wordings.
    """
    said = [_clauses(mistake, rng) for mistake in mistakes[:MOST_NAMED]]
    cause, repair = (_joined([pair[place] for pair in said]) for place in (0, 1))
    left = len(mistakes) - MOST_NAMED
    if left > 0:
        places = "another place" if left == 1 else f"{left} other places"
        cause, repair = f"{cause}; {places} go with it", f"{repair}, and change what goes with it"
    (first, *others) = mistakes
    effect = EFFECTS.get(first.known.kind, "") if first.known is not None and not others else ""
    return compose(failure, cause, repair, effect, partial, rng)


def _clauses(mistake: Mistake, rng: random.Random) -> tuple[str, str]:
    if mistake.known is not None:
        return clauses(mistake.known, mistake.line, mistake.fixed, mistake.function, rng)
    difference = mistake.difference
    words = {"bad": difference.old, "good": difference.new, "line": mistake.line, "fixed": mistake.fixed}
    fields = {name: code(text)[1:-1] for name, text in words.items()} | {"def": mistake.function}
    causes, repairs = REPAIRED[difference.what]
    return rng.choice(causes).format_map(fields), rng.choice(repairs).format_map(fields)


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
