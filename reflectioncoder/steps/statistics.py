"""Statistics of scores: means over seeds and problems, with intervals that respect both.

All runs of a score have the same problems, and all variants the same seeds: a table of seeds times problems. Both are
samples: of all seeds that could have been drawn, and of all problems of this kind. The intervals come from a bootstrap
that draws the rows (seeds) and the columns (problems) of this table with replacement, independently of each other, and
takes the mean of the table that results (the pigeonhole bootstrap: A. Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1(2), 2007). A verdict is never drawn alone, so verdicts that share a seed or a problem stay
together. The draws and the percentiles are those of `scipy.stats.bootstrap`.

This bootstrap has two known faults: it counts the noise of single verdicts three times, and a handful of seeds spread
less when they are drawn again than new seeds would. So both arms of the interval are multiplied by one factor
(`width_factor`), which replaces the variance of the draws by the unbiased estimate for crossed random effects, and the
quantile of the normal distribution by that of Student's t.

What the interval does not protect against: with one seed it knows nothing of other seeds; and problems that resemble
each other count as independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
CONFIDENCE = 0.95
SeedTable = NDArray[np.float64]


@dataclass(frozen=True)
class MeanWithInterval:
    """A mean over seeds and problems, with the ends of its 95 % interval.

    Args:
        mean: the mean.
        low: lower end.
        high: upper end.
        seeds: number of seeds.
        problems: number of problems.
    """

    mean: float
    low: float
    high: float
    seeds: int
    problems: int


def mean_interval(
    table: SeedTable, least: float = -1.0, most: float = 1.0, draws: int = DRAWS, seed: int = 0
) -> MeanWithInterval:
    """The mean of a table of seeds times problems, with its interval.

    Args:
        table: share of samples that pass, or a difference of shares, for each seed and problem: `[seeds, problems]`.
        least: smallest possible mean, at which the interval is cut.
        most: largest possible mean.
        draws: number of bootstrap replicates.
        seed: seed of the draws.

    Raises:
        ValueError: the table is empty.
    """
    if table.ndim != 2 or not table.size:
        raise ValueError(f"a table of shape {table.shape}: wants seeds x problems, at least one of each")
    mean = float(table.mean())
    low, high = drawn_interval(table, draws, seed)
    factor = width_factor(table)
    low, high = max(least, mean + factor * (low - mean)), min(most, mean + factor * (high - mean))
    return MeanWithInterval(mean, low, high, *table.shape)


def width_factor(table: SeedTable) -> float:
    """The factor by which the bootstrap's interval is widened or narrowed about the mean.

    The table is a sum of a mean, an effect of each seed, an effect of each problem, and a rest. With the mean squares
    `rows`, `columns` and `rest` of these effects in a table of s seeds and p problems, the draws have the variance
    rows / s + columns / p + rest / (s p). The unbiased estimate is a + b - c with a = rows / (s - 1),
    b = columns / (p - 1) and c = rest / ((s - 1) (p - 1)), at least a and b; its degrees of freedom are those of
    Satterthwaite, at least those of the smaller axis.

    Args:
        table: `[seeds, problems]`.

    Returns:
        the ratio of the standard deviations times the ratio of the quantiles of Student's t and the normal
        distribution; 1 if all values are the same.
    """
    from scipy.stats import norm, t  # here, because its import takes a second

    seeds, problems = table.shape
    by_seed, by_problem = (table.mean(axis=axis, keepdims=True) - table.mean() for axis in (1, 0))
    rest = table - table.mean() - by_seed - by_problem
    rows, columns, single = (float((effect**2).mean()) for effect in (by_seed, by_problem, rest))
    drawn = rows / seeds + columns / problems + single / table.size
    free = [(seeds - 1, rows), (problems - 1, columns), ((seeds - 1) * (problems - 1), single)]
    a, b, c = (square / degrees if degrees else 0.0 for degrees, square in free)
    unbiased = max(a + b - c, a, b)
    if not drawn or not unbiased:
        return 1.0
    spread = sum(part**2 / degrees for part, (degrees, _) in zip((a, b, c), free, strict=True) if degrees)
    degrees = max(unbiased**2 / spread, min(size - 1 for size in (seeds, problems) if size > 1))
    tail = (1 + CONFIDENCE) / 2
    return math.sqrt(unbiased / drawn) * float(t.ppf(tail, degrees) / norm.ppf(tail))


def drawn_interval(table: SeedTable, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the pigeonhole bootstrap of a table's mean, as it is drawn.

    Args:
        table: `[seeds, problems]`.
        draws: number of bootstrap replicates.
        seed: seed of the draws.

    Returns:
        lower and upper end.
    """
    seeds, problems = table.shape
    low = high = float(table.mean())
    axes = [np.arange(size) for size in (seeds, problems)]
    drawn = [axis for axis, indices in enumerate(axes) if len(indices) > 1]  # one seed cannot be drawn again
    if drawn and np.ptp(table) > 0:
        from scipy.stats import bootstrap  # here, because its import takes a second

        def of_table(*indices: Any, axis: int = -1) -> Any:
            chosen = dict(zip(drawn, indices, strict=True))
            rows, columns = (chosen.get(place, axes[place]) for place in (0, 1))
            return _mean_of_draw(table, np.asarray(rows), np.asarray(columns))

        found = bootstrap(
            [axes[axis] for axis in drawn],
            of_table,
            n_resamples=draws,
            vectorized=True,
            paired=False,  # each axis is drawn by itself
            confidence_level=CONFIDENCE,
            method="percentile",
            batch=max(1, min(draws, 200_000 // (seeds + problems))),
            rng=np.random.default_rng(seed),
        )
        low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return low, high


def _mean_of_draw(table: SeedTable, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Any:
    """Means of the tables of drawn rows and columns.

    Args:
        table: `[seeds, problems]`.
        rows: indices of the drawn seeds, `[..., seeds]`.
        columns: indices of the drawn problems, `[..., problems]`.

    Returns:
        one mean for each draw, `[...]`.
    """
    seeds = table.shape[0]
    times = (rows[..., None] == np.arange(seeds)).sum(axis=-2)  # how often each seed was drawn: [..., seeds]
    by_problem = times @ table / seeds  # [..., problems]
    if by_problem.ndim < columns.ndim:
        by_problem = np.broadcast_to(by_problem, columns.shape)
    if columns.ndim < by_problem.ndim:
        columns = np.broadcast_to(columns, by_problem.shape)
    return np.take_along_axis(by_problem, columns, axis=-1).mean(axis=-1)
