"""pass@k, intervals and paired comparison against numbers derived by hand or with another formula."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.evaluate.stats import bootstrap_difference, mcnemar, paired, pass_at_k, wilson


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_passing_sample(numbers):
    n, c, k = numbers
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 3 of the 6 pairs contain the sample that passes
    assert pass_at_k(200, 0, 100) == 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, 1, 3), (0, 0, 1), (2, 1, 0), (2, -1, 1)])
def test_pass_at_k_refuses_numbers_that_contradict_each_other(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_wilson_by_hand():
    # z = 2, n = 4, rate 1/2: centre (0.5 + 0.5) / 2 = 0.5, half-width 2 * sqrt(1/16 + 1/16) / 2 = 0.353553
    low, high = wilson(0.5, 4, z=2.0)
    assert (low, high) == pytest.approx((0.5 - math.sqrt(1 / 8), 0.5 + math.sqrt(1 / 8)))
    # If nothing passes, the interval is [0, z^2 / (n + z^2)].
    assert wilson(0.0, 6, z=2.0) == pytest.approx((0.0, 0.4))
    assert wilson(1.0, 6, z=2.0) == pytest.approx((0.6, 1.0))
    assert wilson(0.0, 0) == (0.0, 1.0)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_wilson_ends_solve_the_score_equation(numbers):
    n, passed = numbers
    rate = passed / n
    for end in wilson(rate, n):  # both ends solve (rate - p)^2 = z^2 p (1 - p) / n
        assert (rate - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / n, abs=1e-9)
    assert wilson(rate, n)[0] <= rate <= wilson(rate, n)[1]


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 5) == mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 64)
    assert mcnemar(3, 3) == 1.0


def test_bootstrap_agrees_with_the_normal_interval_on_many_problems():
    first, second = [0.0] * 600 + [1.0] * 400, [1.0] * 200 + [0.0] * 400 + [1.0] * 400
    low, high = bootstrap_difference(first, second, draws=3000)
    half = 1.96 * math.sqrt(0.2 * 0.8 / 1000)  # the difference is 1 for a fifth of the problems, 0 for the others
    assert low == pytest.approx(0.2 - half, abs=0.004)
    assert high == pytest.approx(0.2 + half, abs=0.004)
    assert bootstrap_difference(first, second, 500, seed=1) == bootstrap_difference(first, second, 500, seed=1)


def test_paired_comparison_counts_discordant_problems():
    first = [[True], [False], [False], [True], [False]]
    second = [[True], [True], [True], [False], [False]]
    found = paired(first, second)
    assert (found.n, found.first, found.second) == (5, 0.4, 0.6)
    assert found.difference == pytest.approx(0.2)
    assert (found.only_first, found.only_second, found.p_value) == (1, 2, 1.0)
    assert found.low < 0.2 < found.high
    with pytest.raises(ValueError, match="5 with 4"):
        paired(first, second[:4])
