"""Statistics of a study: means over seeds and problems, with intervals that respect both.

All runs of a score have the same problems, and all variants the same seeds: a table of seeds times problems. Both are
samples: of all seeds that could have been drawn, and of all problems of this kind. The intervals come from a bootstrap
that draws the rows (seeds) and the columns (problems) of this table with replacement, independently of each other, and
takes the mean of the table that results (the pigeonhole bootstrap: A. Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1(2), 2007). A verdict is never drawn alone, so verdicts that share a seed or a problem stay
together. The draws and the percentile interval are those of `scipy.stats.bootstrap`.

What the interval does not protect against: with few seeds it is a little too narrow for the part of the spread that
comes from the seeds (by the factor sqrt((s - 1) / s) for s seeds), and with one seed it has no such part at all; noise
of single verdicts makes it a little too wide. Problems that resemble each other count as independent.
"""

from __future__ import annotations

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


def mean_interval(table: SeedTable, draws: int = DRAWS, seed: int = 0) -> MeanWithInterval:
    """The mean of a table of seeds times problems, with its interval.

    Args:
        table: share of samples that pass, or a difference of shares, for each seed and problem: `[seeds, problems]`.
        draws: number of bootstrap replicates.
        seed: seed of the draws.

    Raises:
        ValueError: the table is empty.
    """
    if table.ndim != 2 or not table.size:
        raise ValueError(f"a table of shape {table.shape}: wants seeds x problems, at least one of each")
    seeds, problems = table.shape
    low = high = mean = float(table.mean())
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
    return MeanWithInterval(mean, low, high, seeds, problems)


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
