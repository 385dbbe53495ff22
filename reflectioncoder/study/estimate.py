"""`study --dry-run`: how many runs, tokens and hours are left.

Steps that are done are the measure for those that are not: first the same variant with another seed, then any step of
the same command. Where no training of the study is done, tokens are counted as `train --dry-run` counts them, if the
data is there, and the speed is guessed as it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from reflectioncoder.config.study import StudyConfig
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError
from reflectioncoder.progress import duration
from reflectioncoder.steps.costs import StepCost, known_costs, mean_of
from reflectioncoder.steps.pool import gpus_of
from reflectioncoder.steps.processes import LocalPool
from reflectioncoder.steps.run import read_records, unfinished_steps
from reflectioncoder.study.plan import StudyPlan
from reflectioncoder.study.study import plan_study

VERBS = ("build", "train", "generate", "evaluate")


def expected_costs(plan: StudyPlan, known: Mapping[str, StepCost], left: Sequence[str]) -> dict[str, StepCost]:
    """The expected costs of steps, from those that are done.

    Args:
        plan: the plan.
        known: costs of the steps that are done.
        left: keys of the others.

    Returns:
        the costs by key; None where nothing similar is done.
    """
    places = {key: (run.variant, place) for run in plan.runs for place, key in enumerate(run.steps)}
    trained = [cost for key, cost in known.items() if plan.steps[key].verb == "train" and cost.tokens]
    speed = _ratio([cost.seconds for cost in trained], [cost.tokens for cost in trained])
    found: dict[str, StepCost] = {}
    for key in left:
        step = plan.steps[key]
        twins = [cost for name, cost in known.items() if places.get(name) == places.get(key)]
        same = twins or [cost for name, cost in known.items() if plan.steps[name].verb == step.verb]
        seconds = mean_of([cost.seconds for cost in same])
        tokens = None
        if step.verb == "train":
            limit = step.settings.max_tokens if step.settings.max_tokens > 0 else None
            other = {**known, **found}.get(step.tokens_of)
            tokens = mean_of([cost.tokens for cost in twins]) or limit or (other.tokens if other else None)
            if tokens and speed and not twins:
                seconds = tokens * speed
        found[key] = StepCost(seconds, tokens)
    return found


def _ratio(above: Sequence[float | None], below: Sequence[float | None]) -> float | None:
    pairs = [(one, other) for one, other in zip(above, below, strict=True) if one is not None and other]
    return math.fsum(one for one, _ in pairs) / math.fsum(other for _, other in pairs) if pairs else None


def describe_study(config: StudyConfig) -> str:
    """Describe what is left of a study: runs, steps, tokens and hours.

    Raises:
        UserError: see `plan_study`.
    """
    plan = plan_study(config)
    records = read_records(plan)
    left = unfinished_steps(plan, records)
    known = known_costs(plan, records)
    costs = expected_costs(plan, known, left)
    notes = []
    if not any(plan.steps[key].verb == "train" for key in known):
        notes = _count(plan, left, costs)
    pool = LocalPool(config.jobs, config.threads, len(plan.runs), [] if config.engine == "ray" else gpus_of(plan))
    return "\n".join([*_lines(config, plan, left, costs, pool), *notes])


def _lines(
    config: StudyConfig, plan: StudyPlan, left: Sequence[str], costs: Mapping[str, StepCost], pool: LocalPool
) -> list[str]:
    waiting = [run for run in plan.runs if set(run.steps) & set(left)]
    head = (
        f"{len(plan.runs)} runs ({len(config.variants)} variants, {len(config.seeds)} seeds) in {config.output}, "
        f"{len(waiting)} of them to do; {len(left)} of {len(plan.steps)} steps"
    )
    lines = [head]
    total, unknown = 0.0, []
    for verb in VERBS:
        keys = [key for key in left if plan.steps[key].verb == verb]
        if not keys:
            continue
        seconds = [cost for key in keys if (cost := costs[key].seconds) is not None]
        text = f"{verb}: {len(keys)} steps"
        if verb == "train":
            tokens = [cost for key in keys if (cost := costs[key].tokens) is not None]
            text += f", {sum(tokens):,.0f} tokens through the model"
            text += (
                f" and {len(keys) - len(tokens)} steps whose tokens are not known" if len(tokens) < len(keys) else ""
            )
        text += f", {duration(sum(seconds))}" if seconds else ""
        if len(seconds) < len(keys):
            unknown.append(f"{len(keys) - len(seconds)} of {verb}")
        total += sum(seconds)
        lines.append(text)
    jobs = f"{pool.jobs} at a time with {pool.threads} threads each"
    if config.engine == "ray":
        jobs = f"{config.jobs or 'as many'} at a time{'' if config.jobs else ' as the cluster has devices'}"
    if total or not unknown:
        whole = total / (config.jobs or 1) if config.engine == "ray" else total / pool.jobs
        lines.append(f"{'at least ' if unknown else ''}{duration(whole)} in all, {jobs}")
    if unknown:
        lines.append(f"time not known: {', '.join(unknown)} steps, of which none is done yet in this study")
    return lines


def _count(plan: StudyPlan, left: Sequence[str], costs: dict[str, StepCost]) -> list[str]:
    """Count the tokens of trainings whose data is there, and guess their time; returns notes."""
    notes = []
    for key in left:
        step = plan.steps[key]
        if step.verb == "train" and not step.tokens_of and all(Path(name).exists() for name in step.settings.data):
            try:
                costs[key] = counted_cost(step.settings)
            except UserError as error:
                notes.append(f"train of {key}: {error}")
    return notes


def counted_cost(config: TrainConfig) -> StepCost:
    """Tokens and guessed seconds of a training, from its data and its model's configuration (`train --dry-run`)."""
    from reflectioncoder.train.dry_run import run_size  # torch

    tokens, speed = run_size(config)
    return StepCost(tokens / speed, float(tokens))
