"""The smallest repair: against trying every set of differences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.construct.attempts.differences import TreeDifference
from reflectioncoder.construct.attempts.repair import smallest_repair
from reflectioncoder.construct.mutation.edits import Edit


def some(count: int, sizes: Sequence[int]) -> list[TreeDifference]:
    return [TreeDifference(Edit(i, i + 1, "x"), "y", "x", "expression", size) for i, size in enumerate(sizes[:count])]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_difference_can_be_left_out_and_no_pair_would_do(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 7))
    found = some(count, data.draw(st.lists(st.integers(1, 9), min_size=7, max_size=7)))
    sets = [frozenset(c) for n in range(1, count + 1) for c in itertools.combinations(range(count), n)]
    good = {frozenset(range(count)), *data.draw(st.sets(st.sampled_from(sets), max_size=6))}
    chosen = smallest_repair(found, lambda some: frozenset(some) in good)
    assert chosen is not None and frozenset(chosen) in good
    assert list(chosen) == sorted(chosen)
    assert not any(frozenset(chosen) - {i} in good for i in chosen)
    fewest = min(map(len, good))
    if fewest <= 2:
        assert len(chosen) == fewest
        assert sum(found[i].size for i in chosen) == min(
            sum(found[i].size for i in g) for g in good if len(g) == fewest
        )


def test_there_is_none_if_all_together_do_not_help() -> None:
    assert smallest_repair(some(3, [1, 1, 1]), lambda chosen: len(chosen) == 2) is None
    assert smallest_repair([], lambda chosen: True) is None


def test_few_runs_are_needed_for_many_differences() -> None:
    runs = []

    def passes(chosen: Sequence[int]) -> bool:
        runs.append(chosen)
        return {3, 17, 31} <= set(chosen)

    assert smallest_repair(some(40, [1] * 40), passes) == (3, 17, 31)
    assert len(runs) < 40 + 80  # each alone, then halves and single ones
