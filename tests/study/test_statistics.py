"""Intervals over seeds and problems, against exact enumeration, a plain loop, and numbers derived by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from reflectioncoder.study.results import difference
from reflectioncoder.study.statistics import mean_interval


def enumerated(table: np.ndarray) -> np.ndarray:
    """The means of all equally likely tables of drawn seeds and drawn problems."""
    seeds, problems = table.shape
    rows, columns = (list(product(range(size), repeat=size)) for size in (seeds, problems))
    return np.array([table[np.ix_(row, column)].mean() for row in rows for column in columns])


@pytest.mark.parametrize("number", range(3))
def test_the_interval_is_that_of_all_possible_draws(number: int) -> None:
    table = np.random.default_rng(number).random((3, 4))
    exact = enumerated(table)
    assert len(exact) == 27 * 256
    found = mean_interval(table, draws=20_000)
    assert found.mean == pytest.approx(table.mean())
    shares = [(exact <= end).mean() for end in (found.low, found.high)]  # the probability below each end
    assert shares == pytest.approx([0.025, 0.975], abs=0.006)


def test_the_interval_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(7)
    table = (rng.random((5, 60)) < 0.4).astype(float)
    means = [table[np.ix_(rng.integers(5, size=5), rng.integers(60, size=60))].mean() for _ in range(8000)]
    found = mean_interval(table)
    assert [found.low, found.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.009)
    assert (found.seeds, found.problems) == (5, 60)


def test_where_all_seeds_agree_only_problems_are_drawn() -> None:
    """A mean of 400 problems of which 100 pass: standard error sqrt(0.25 * 0.75 / 400) = 0.02165."""
    line = np.repeat([1.0, 0.0], [100, 300])
    found = mean_interval(np.tile(line, (5, 1)))
    assert [found.low, found.high] == pytest.approx([0.25 - 1.96 * 0.02165, 0.25 + 1.96 * 0.02165], abs=0.004)
    alone = mean_interval(line[None, :])  # one seed
    assert [alone.low, alone.high] == pytest.approx([found.low, found.high], abs=0.004)


def test_where_all_problems_agree_only_seeds_are_drawn() -> None:
    """Two seeds with 0 and 1: half of the draws take each once, a quarter takes either twice."""
    found = mean_interval(np.repeat([[0.0], [1.0]], 50, axis=1))
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    one = mean_interval(np.array([[0.0], [1.0], [1.0]]))  # a single problem is not drawn again
    assert (one.low, one.high) == (0.0, 1.0)


def test_without_spread_the_interval_is_a_point() -> None:
    found = mean_interval(np.ones((3, 4)))
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one of each"):
        mean_interval(np.zeros((0, 4)))


def test_intervals_of_simulated_studies_hold_the_truth_about_as_often_as_they_say() -> None:
    """Seeds and problems both have effects, and verdicts have noise; the truth is the mean of all that could be drawn.

    Five seeds make the interval somewhat too narrow and noise of verdicts too wide, so 95 % is not met exactly.
    """
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(150):
        chance = 0.4 + rng.normal(0, 0.03, (5, 1)) + rng.choice([-0.3, 0.3], (1, 100))
        found = mean_interval((rng.random((5, 100)) < chance).astype(float), draws=500)
        held += found.low <= 0.4 <= found.high
    assert 0.9 <= held / 150 <= 1.0


def test_a_difference_is_paired_by_seed_and_problem() -> None:
    """Of two seeds and three problems in common, the variant wins two verdicts and loses one: (2 - 1) / 6."""
    mine = {0: {"a": 1.0, "b": 1.0, "c": 0.0, "x": 1.0}, 1: {"a": 1.0, "b": 0.0, "c": 0.0}, 7: {"a": 0.0}}
    other = {1: {"a": 1.0, "b": 1.0, "c": 0.0}, 0: {"c": 0.0, "b": 0.0, "a": 0.0}, 8: {"a": 0.0}}
    found = difference("plain", mine, other)
    assert found.value.mean == pytest.approx(1 / 6)
    assert (found.value.seeds, found.value.problems, found.won, found.lost) == (2, 3, 1.0, 0.5)
    same = difference("plain", mine, mine)
    assert (same.value.mean, same.value.low, same.value.high) == (0.0, 0.0, 0.0)


def test_pairing_removes_what_both_share() -> None:
    """Hard and easy problems widen the interval of a mean, not that of a difference on the same problems."""
    rng = np.random.default_rng(3)
    base = np.tile(rng.random(200) < 0.5, (3, 1)).astype(float)
    better = base.copy()
    better[:, :10] = 1.0
    paired = mean_interval(better - base)
    single = mean_interval(base)
    assert paired.high - paired.low < 0.5 * (single.high - single.low)
