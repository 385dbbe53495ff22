"""What a chain of steps scored and cost, and the paired difference of two scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.results import RESULTS, RESULTS_AFTER, by_task, read_results
from reflectioncoder.steps.plan import StepPlan, StepRun
from reflectioncoder.steps.records import STEP_LOG, StepRecord, read_training_result
from reflectioncoder.steps.statistics import MeanWithInterval, SeedTable, mean_interval

Shares = Mapping[str, float]  # by problem: the share of its samples that pass


@dataclass(frozen=True)
class RunOutcome:
    """What one run scored and cost.

    Args:
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


def run_outcome(plan: StepPlan, run: StepRun, records: Mapping[str, StepRecord]) -> RunOutcome:
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
    return RunOutcome(state, error, log, scores, after, seconds=seconds, **costs)


def _shares(folder: Path, file: str) -> Shares:
    results = by_task(read_results(folder / file))
    known = {task: [one.passed for one in group if one.outcome != "not_run"] for task, group in results.items()}
    return {task: sum(passed) / len(passed) for task, passed in known.items() if passed}


def _chain(plan: StepPlan, keys: Sequence[str]) -> list[str]:
    """Steps with all that they need, directly or not; what is needed comes first."""
    found: dict[str, None] = {}
    for key in keys:
        found |= dict.fromkeys([*_chain(plan, plan.steps[key].needs), key])
    return list(found)


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
