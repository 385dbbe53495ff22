"""The results of a study: what each run scored and cost, and the rows of its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.config.study import StudyConfig, variant_of
from reflectioncoder.steps.outcomes import Difference, RunOutcome, common_table, difference, run_outcome
from reflectioncoder.steps.records import StepRecord
from reflectioncoder.steps.statistics import MeanWithInterval, mean_interval
from reflectioncoder.study.plan import StudyPlan


@dataclass(frozen=True)
class StudyOutcome(RunOutcome):
    """What one run scored and cost.

    Args:
        state, failed, log, scores, after, tokens, passes, train_seconds, seconds: see `RunOutcome`.
        variant: name of the variant.
        seed: the seed.
    """

    variant: str = ""
    seed: int = 0


@dataclass(frozen=True)
class ScoreCell:
    """One score of a variant.

    Args:
        value: its mean over the seeds and problems.
        by_seed: the mean of each seed.
        differences: its differences to the references.
        after: what the same models reach with rounds of their own debugging; None without `evaluate.rounds`.
        gap: the paired difference of `after` to `value`: all that there is to distil from their debugging.
    """

    value: MeanWithInterval
    by_seed: Mapping[int, float]
    differences: Sequence[Difference] = ()
    after: MeanWithInterval | None = None
    gap: MeanWithInterval | None = None


@dataclass(frozen=True)
class VariantRow:
    """One row of the table of a study.

    Args:
        name: name of the variant.
        label: its label.
        paper: numbers of the published row by heading.
        cells: scores by name; a score that no run has is left out.
        tokens, passes, train_seconds: means over the runs that are done; None without training.
        seconds: mean wall-clock seconds of a run, all its steps.
        done: number of finished runs.
        runs: number of all runs.
    """

    name: str
    label: str
    paper: Mapping[str, Any]
    cells: Mapping[str, ScoreCell]
    tokens: float | None
    passes: float | None
    train_seconds: float | None
    seconds: float | None
    done: int
    runs: int


@dataclass(frozen=True)
class StudyResults:
    """All results of a study.

    Args:
        title: its title.
        rows: one row for each variant, in their order.
        outcomes: all runs.
        scores: names of the scores.
        references: names of the reference variants.
        headline: the variant whose differences stand first; empty for none.
    """

    title: str
    rows: tuple[VariantRow, ...]
    outcomes: tuple[StudyOutcome, ...]
    scores: tuple[str, ...]
    references: tuple[str, ...]
    headline: str = ""


def study_results(config: StudyConfig, plan: StudyPlan, records: Mapping[str, StepRecord]) -> StudyResults:
    """Compute the table of a study from the files of its finished steps.

    Raises:
        UserError: the files of a finished step cannot be read, or runs of one score have no problem in common.
    """
    outcomes = tuple(
        StudyOutcome(**vars(run_outcome(plan, run, records)), variant=run.variant, seed=run.seed) for run in plan.runs
    )
    names = tuple(config.scores) or ("score",)
    references = tuple(dict.fromkeys(name for name in (config.reference, config.token_reference) if name))
    rows = tuple(_row(config, name, outcomes, names, references) for name in config.variants)
    return StudyResults(config.title or Path(config.output).name, rows, outcomes, names, references, config.headline)


def _row(
    config: StudyConfig, name: str, outcomes: Sequence[StudyOutcome], names: Sequence[str], references: Sequence[str]
) -> VariantRow:
    variant = variant_of(config, name)
    own = [one for one in outcomes if one.variant == name]
    done = [one for one in own if one.state == "done"]
    cells = {}
    for score in names:
        mine = {one.seed: one.scores[score] for one in own if score in one.scores}
        if not mine:
            continue
        differences = []
        for reference in references:
            other = {
                one.seed: one.scores[score] for one in outcomes if one.variant == reference and score in one.scores
            }
            if reference != name and mine.keys() & other.keys():
                differences.append(difference(reference, mine, other))
        table, _ = common_table([mine])
        by_seed = {seed: float(line.mean()) for seed, line in zip(sorted(mine), table[0], strict=True)}
        cells[score] = ScoreCell(
            mean_interval(table[0], least=0.0), by_seed, tuple(differences), *_after_debugging(own, score)
        )
    costs = {key: _mean([getattr(one, key) for one in done]) for key in ("tokens", "passes", "train_seconds")}
    seconds = _mean([math.fsum(one.seconds.values()) for one in done])
    label = variant.label or name
    return VariantRow(name, label, variant.paper, cells, **costs, seconds=seconds, done=len(done), runs=len(own))


def _after_debugging(
    runs: Sequence[StudyOutcome], score: str
) -> tuple[MeanWithInterval, MeanWithInterval] | tuple[None, None]:
    """What the runs of a variant reach by debugging, and the paired difference to their first answers."""
    debugged = [one for one in runs if score in one.after]
    if not debugged:
        return None, None
    first, after = ({one.seed: getattr(one, name)[score] for one in debugged} for name in ("scores", "after"))
    (before, reached), _ = common_table([first, after])
    return mean_interval(reached, least=0.0), mean_interval(reached - before)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
