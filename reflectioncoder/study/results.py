"""The results of a study: what each run scored and cost, and the rows of its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reflectioncoder.config.study import StudyConfig, variant_of
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.results import RESULTS, RESULTS_AFTER, by_task, read_results
from reflectioncoder.study.plan import StudyPlan, StudyRun
from reflectioncoder.study.records import STEP_LOG, StepRecord, read_training_result
from reflectioncoder.study.statistics import MeanWithInterval, SeedTable, mean_interval

Shares = Mapping[str, float]  # by problem: the share of its samples that pass


@dataclass(frozen=True)
class RunOutcome:
    """What one run scored and cost.

    Args:
        variant: name of the variant.
        seed: the seed.
        state: `done`, `failed`, or `open` if it was not finished.
        failed: the step that failed, with the last line of its log; empty for none.
        log: path of that log.
        scores: share of samples that pass, by name of the score and problem.
        after: the same after rounds of the model's own debugging, for scores with `evaluate.rounds`.
        tokens: tokens through the model in training, teacher and student rows both counted; None without training.
        passes: how often training saw each instruction, on average; None without training.
        train_seconds: seconds in the training loop.
        seconds: wall-clock seconds by command; a step that several runs share counts in each.
    """

    variant: str
    seed: int
    state: str
    failed: str = ""
    log: str = ""
    scores: Mapping[str, Shares] = field(default_factory=dict)
    after: Mapping[str, Shares] = field(default_factory=dict)
    tokens: float | None = None
    passes: float | None = None
    train_seconds: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A variant against a reference, on the problems and seeds that both have.

    Args:
        reference: name of the reference.
        value: the difference of the means with its interval.
        won: problems that only the variant solves, on average over the seeds (as shares of samples).
        lost: problems that only the reference solves.
    """

    reference: str
    value: MeanWithInterval
    won: float
    lost: float


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
    """

    title: str
    rows: tuple[VariantRow, ...]
    outcomes: tuple[RunOutcome, ...]
    scores: tuple[str, ...]
    references: tuple[str, ...]


def run_outcome(plan: StudyPlan, run: StudyRun, records: Mapping[str, StepRecord]) -> RunOutcome:
    """Read what a run wrote.

    Raises:
        UserError: the files of a finished step cannot be read.
    """
    seconds: dict[str, float] = {}
    for key in run.steps:
        if key in records:
            verb = plan.steps[key].verb
            seconds[verb] = seconds.get(verb, 0.0) + records[key].seconds
    failed = next((key for key in _chain(plan, run.steps) if key in records and records[key].state == "failed"), "")
    costs: dict[str, Any] = {}
    if run.train in records and records[run.train].state == "done":
        result = read_training_result(plan.folder(run.train))
        costs = {"tokens": float(result["tokens"]), "train_seconds": float(result["seconds"])}
        if result.get("instructions"):
            costs["passes"] = result["seen"] / result["instructions"]
    scores, after = {}, {}
    for name, (_, key) in run.scores.items():
        if key in records and records[key].state == "done":
            scores[name] = _shares(plan.output(key), RESULTS)
            if (plan.output(key) / RESULTS_AFTER).is_file():
                after[name] = _shares(plan.output(key), RESULTS_AFTER)
    state = "failed" if failed else "done" if len(scores) == len(run.scores) else "open"
    error = f"{plan.steps[failed].verb}: {records[failed].error}" if failed else ""
    log = str(plan.folder(failed) / STEP_LOG) if failed else ""
    return RunOutcome(run.variant, run.seed, state, error, log, scores, after, seconds=seconds, **costs)


def _shares(folder: Path, file: str) -> Shares:
    results = by_task(read_results(folder / file))
    known = {task: [one.passed for one in group if one.outcome != "not_run"] for task, group in results.items()}
    return {task: sum(passed) / len(passed) for task, passed in known.items() if passed}


def _chain(plan: StudyPlan, keys: Sequence[str]) -> list[str]:
    """Steps with all that they need, directly or not; what is needed comes first."""
    found: dict[str, None] = {}
    for key in keys:
        found |= dict.fromkeys([*_chain(plan, plan.steps[key].needs), key])
    return list(found)


def study_results(config: StudyConfig, plan: StudyPlan, records: Mapping[str, StepRecord]) -> StudyResults:
    """Compute the table of a study from the files of its finished steps.

    Raises:
        UserError: the files of a finished step cannot be read, or runs of one score have no problem in common.
    """
    outcomes = tuple(run_outcome(plan, run, records) for run in plan.runs)
    names = tuple(config.scores) or ("score",)
    references = tuple(dict.fromkeys(name for name in (config.reference, config.token_reference) if name))
    rows = tuple(_row(config, name, outcomes, names, references) for name in config.variants)
    return StudyResults(config.title or Path(config.output).name, rows, outcomes, names, references)


def _row(
    config: StudyConfig, name: str, outcomes: Sequence[RunOutcome], names: Sequence[str], references: Sequence[str]
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
    runs: Sequence[RunOutcome], score: str
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


def common_table(variants: Sequence[Mapping[int, Shares]]) -> tuple[list[SeedTable], list[int]]:
    """Tables of seeds times problems, of the seeds and problems that all variants have.

    Args:
        variants: for each variant the shares by seed and problem.

    Returns:
        one table `[seeds, problems]` for each variant, with the same seeds and problems in the same order; and the
        seeds.

    Raises:
        UserError: they have no seed or no problem in common.
    """
    seeds = sorted(set.intersection(*(set(shares) for shares in variants)))
    lines = [shares[seed] for shares in variants for seed in seeds]
    problems = sorted(set.intersection(*(set(line) for line in lines))) if lines else []
    if not problems:
        raise UserError("runs of one score have no problem in common; the held-out problems must be the same in all")
    tables = [np.array([[shares[seed][name] for name in problems] for seed in seeds]) for shares in variants]
    return tables, seeds


def difference(reference: str, mine: Mapping[int, Shares], other: Mapping[int, Shares]) -> Difference:
    """The paired difference of a variant to a reference, on the seeds and problems that both have."""
    (own, theirs), seeds = common_table([mine, other])
    change = own - theirs
    won, lost = (float(np.clip(sign * change, 0, None).sum()) / len(seeds) for sign in (1, -1))
    return Difference(reference, mean_interval(change), won, lost)
