"""Statistics of scores: unbiased pass@k, Wilson intervals, and the paired comparison of two runs.

All functions are pure. They assume that problems are independent of each other; near-duplicates among the problems make
every interval too narrow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Probability that at least one of k samples drawn from `samples` passes: 1 - C(n-c, k) / C(n, k).

    This is the unbiased estimator of Chen et al. (2021), for one problem.

    Args:
        samples: n, the number of generated samples.
        passed: c, the number of samples that pass, in [0, n].
        k: number of samples drawn, in [1, n].

    Raises:
        ValueError: `passed` or `k` is out of range.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples with {passed} passing: wants 0 <= passed <= n and 1 <= k <= n")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def wilson(rate: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of a share of n problems.

    Args:
        rate: observed share in [0, 1]. With several samples per problem it is the mean share of the problems, for
            which the interval is conservative (too wide).
        n: number of problems; 0 gives (0, 1).
        z: quantile of the normal distribution; the default gives a 95 % interval.

    Returns:
        lower and upper end of the interval.

    Raises:
        ValueError: `rate` is outside [0, 1], or `n` is negative.
    """
    if not 0.0 <= rate <= 1.0 or n < 0:
        raise ValueError(f"interval of rate {rate} over {n} problems: wants a rate in [0, 1] and n >= 0")
    if n == 0:
        return 0.0, 1.0
    spread = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / spread
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / spread
    # At rates 0 and 1 the interval ends exactly there; rounding would leave 1e-17.
    return (0.0 if rate == 0.0 else max(0.0, centre - half)), (1.0 if rate == 1.0 else min(1.0, centre + half))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: p-value of the discordant pairs under a fair coin.

    Args:
        only_first: number of problems that only the first run solves.
        only_second: number of problems that only the second run solves.
    """
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap percentile interval of mean(second) - mean(first), resampling problems with replacement.

    Args:
        first: score of each of the n problems in the first run, in [0, 1].
        second: scores of the same problems in the second run, in the same order.
        draws: number of bootstrap replicates.
        seed: seed of the random draws.

    Returns:
        lower and upper end of the interval.

    Raises:
        ValueError: there are no problems, or the two runs have different numbers of them.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"paired comparison of {len(first)} with {len(second)} problems")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    draw = random.Random(f"bootstrap:{seed}")
    n = len(differences)
    means = sorted(math.fsum(draw.choices(differences, k=n)) / n for _ in range(draws))
    return means[int(0.025 * (draws - 1))], means[math.ceil(0.975 * (draws - 1))]


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two runs on the same problems.

    Args:
        n: number of problems that were run in both.
        first: pass@1 of the first run on these problems.
        second: pass@1 of the second run.
        difference: second - first.
        low: lower end of the 95 % bootstrap interval of the difference.
        high: upper end.
        only_first: number of problems that the first sample of the first run solves and that of the second does not.
        only_second: number of problems that the first sample of the second run solves and that of the first does not.
        p_value: p-value of the exact McNemar test on these two numbers.
        not_run: number of problems excluded because a machine lacked something they need.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float
    not_run: int = 0


def paired(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], seed: int = 0) -> Comparison:
    """Compare two runs problem by problem.

    Args:
        first: for each of the n problems, whether each of its samples passes, in sample order.
        second: the same for the second run, with the problems in the same order.
        seed: seed of the bootstrap.

    Raises:
        ValueError: there are no problems, or the two runs have different numbers of them.
    """
    shares = [[sum(verdicts) / len(verdicts) for verdicts in run] for run in (first, second)]
    low, high = bootstrap_difference(shares[0], shares[1], seed=seed)
    only_first = sum(a[0] and not b[0] for a, b in zip(first, second, strict=True))
    only_second = sum(b[0] and not a[0] for a, b in zip(first, second, strict=True))
    means = [math.fsum(run) / len(run) for run in shares]
    return Comparison(
        len(first),
        means[0],
        means[1],
        means[1] - means[0],
        low,
        high,
        only_first,
        only_second,
        mcnemar(only_first, only_second),
    )
