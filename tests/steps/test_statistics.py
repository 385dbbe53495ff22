"""Intervals over seeds and problems, against exact enumeration, a plain loop, and numbers derived by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from reflectioncoder.steps.outcomes import difference
from reflectioncoder.steps.statistics import drawn_interval, mean_interval, width_factor


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
    shares = [(exact <= end).mean() for end in drawn_interval(table, 20_000)]  # the probability below each end
    assert shares == pytest.approx([0.025, 0.975], abs=0.006)


def test_the_interval_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(7)
    table = (rng.random((5, 60)) < 0.4).astype(float)
    means = [table[np.ix_(rng.integers(5, size=5), rng.integers(60, size=60))].mean() for _ in range(8000)]
    assert drawn_interval(table) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.009)
    found = mean_interval(table)
    assert (found.mean, found.seeds, found.problems) == (pytest.approx(table.mean()), 5, 60)


def test_where_all_seeds_agree_only_problems_are_drawn() -> None:
    """A mean of 400 problems of which 100 pass: standard error sqrt(0.25 * 0.75 / 400) = 0.02165."""
    line = np.repeat([1.0, 0.0], [100, 300])
    found = mean_interval(np.tile(line, (5, 1)))
    assert [found.low, found.high] == pytest.approx([0.25 - 1.96 * 0.02165, 0.25 + 1.96 * 0.02165], abs=0.004)
    alone = mean_interval(line[None, :])  # one seed
    assert [alone.low, alone.high] == pytest.approx([found.low, found.high], abs=0.004)


def test_where_all_problems_agree_only_seeds_are_drawn() -> None:
    """Two seeds with 0 and 1: half of the draws take each once, a quarter takes either twice.

    The standard error of a mean of two is 0.5 with one degree of freedom, that of the draws is sqrt(0.125), and
    Student's t with one degree of freedom has the quantile 12.706: nothing is known but that it is a share.
    """
    table = np.repeat([[0.0], [1.0]], 50, axis=1)
    assert drawn_interval(table) == (0.0, 1.0)
    assert width_factor(table) == pytest.approx(0.5 / 0.125**0.5 * 12.706 / 1.95996, rel=1e-4)
    found = mean_interval(table, least=0.0)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert drawn_interval(np.array([[0.0], [1.0], [1.0]])) == (0.0, 1.0)  # a single problem is not drawn again


def test_the_width_is_that_of_crossed_random_effects() -> None:
    """Seeds 1, 1, 0 and 1, 0, 0: the effects of seeds are +-1/6, of problems 1/2, 0, -1/2, and the rest +-1/6 or +-1/3.

    The mean squares are 1/36, 1/6 and 1/18. The draws have the variance 1/72 + 1/18 + 1/108 = 17/216; unbiased are
    a = 1/36, b = 1/12, c = 1/36, so a + b - c = 1/12, with (1/12)^2 / (1/36^2 + 1/12^2/2 + 1/36^2/2) = 1.5 degrees.
    """
    table = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    t = stats.t.ppf(0.975, 1.5)
    assert width_factor(table) == pytest.approx((1 / 12 / (17 / 216)) ** 0.5 * t / stats.norm.ppf(0.975))


def test_the_width_of_one_seed_is_that_of_a_plain_mean() -> None:
    line = np.random.default_rng(1).random(30)
    error = line.std(ddof=1) / 30**0.5 * stats.t.ppf(0.975, 29)
    drawn = line.std() / 30**0.5 * stats.norm.ppf(0.975)
    assert width_factor(line[None, :]) == pytest.approx(error / drawn)
    found = mean_interval(line[None, :])
    assert [found.low, found.high] == pytest.approx([line.mean() - error, line.mean() + error], abs=0.01)


def test_without_spread_the_interval_is_a_point() -> None:
    found = mean_interval(np.ones((3, 4)))
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one of each"):
        mean_interval(np.zeros((0, 4)))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("of_seeds", "of_problems"), [(0.0, 0.0), (0.0, 0.3), (0.1, 0.0), (0.05, 0.3)])
def test_intervals_of_simulated_studies_hold_the_truth_as_often_as_they_say(
    seeds: int, of_seeds: float, of_problems: float
) -> None:
    """Verdicts have noise, and seeds or problems or both have effects; the noise of 150 studies is 2 points.

    The intervals are not much wider than an interval with the true standard error; few seeds need Student's t.
    """
    rng = np.random.default_rng(5)
    held, width = 0, 0.0
    for _ in range(150):
        chance = 0.4 + rng.normal(0, of_seeds, (seeds, 1)) + rng.choice([-of_problems, of_problems], (1, 100))
        found = mean_interval((rng.random((seeds, 100)) < chance).astype(float), draws=300)
        held += found.low <= 0.4 <= found.high
        width += (found.high - found.low) / 150
    assert held / 150 >= 0.9
    noise = 0.24 - of_seeds**2 - of_problems**2
    error = (of_seeds**2 / seeds + of_problems**2 / 100 + noise / (seeds * 100)) ** 0.5
    assert width < 2 * error * (stats.t.ppf(0.975, seeds - 1) + 0.2)


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
