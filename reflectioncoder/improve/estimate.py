"""`improve --dry-run`: how many rounds, steps, answers, tokens and hours are left at most.

Finished rounds are the measure for those that are not. Before the first round is finished, nothing is known but the
number of answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from reflectioncoder.config.improve import ATTEMPTING, SERVED, ImproveConfig
from reflectioncoder.improve.improve import first_rounds, plan_improve
from reflectioncoder.improve.plan import RoundsPlan
from reflectioncoder.improve.results import improve_results
from reflectioncoder.progress import duration
from reflectioncoder.steps.costs import StepCost, known_costs, mean_of
from reflectioncoder.steps.plan import Step, StepVerb
from reflectioncoder.steps.run import read_records, unfinished_steps


def describe_improve(config: ImproveConfig) -> str:
    """Describe what is left of a loop.

    Raises:
        UserError: see `plan_improve`.
    """
    plan, left_out = plan_improve(config)
    records = read_records(plan)
    for number in range(1, config.rounds + 1):
        results = improve_results(config, first_rounds(plan, number), records, left_out)
        if results.ended and not any(one.failed for one in results.rounds):
            return "\n".join([f"{config.output}: nothing to do", results.ended])
        if results.rounds[-1].state != "done":
            break
    left = unfinished_steps(plan, records)
    rounds = [one for one in plan.runs[1:] if set(one.steps) & set(left)]
    known = known_costs(plan, records)
    costs = {key: expected_cost(plan, known, key) for key in left}
    lines = [
        f"at most {config.rounds} rounds in {config.output} from {config.start}, {len(rounds)} of them to do; "
        f"{len(left)} of {len(plan.steps)} steps"
    ]
    unknown = []
    total = 0.0
    for verb in get_args(StepVerb):
        keys = [key for key in left if plan.steps[key].verb == verb]
        if not keys:
            continue
        seconds = [cost for key in keys if (cost := costs[key].seconds) is not None]
        text = f"{verb}: {len(keys)} steps{_answers(plan.steps[keys[0]], len(keys)) if verb == 'build' else ''}"
        if verb == "train":
            tokens = [cost for key in keys if (cost := costs[key].tokens) is not None]
            text += f", {sum(tokens):,.0f} tokens through the model" if tokens else ""
        text += f", {duration(sum(seconds))}" if seconds else ""
        unknown += [verb] if len(seconds) < len(keys) else []
        total += sum(seconds)
        lines.append(text)
    if total:
        lines.append(f"{'at least ' if unknown else ''}{duration(total)} in all, one step after the other")
    if unknown:
        lines.append(f"time not known: {', '.join(unknown)}, of which no step is done yet")
    if left_out:
        lines.append(f"{len(left_out)} problems of the stopping score are in a reported score and do not count in it")
    return "\n".join(lines)


def expected_cost(plan: RoundsPlan, known: Mapping[str, StepCost], key: str) -> StepCost:
    """The expected cost of a step: the mean of finished ones of its command.

    Tokens of a training grow with the builds whose data it reads, and its seconds with its tokens.

    Args:
        plan: the plan.
        known: costs of the finished steps.
        key: key of the step.
    """
    step = plan.steps[key]
    same = {name: cost for name, cost in known.items() if plan.steps[name].verb == step.verb}
    if step.verb != "train":
        return StepCost(mean_of([cost.seconds for cost in same.values()]))
    limit = step.settings.max_tokens if step.settings.max_tokens > 0 else None
    by_build = mean_of([cost.tokens / _builds(plan.steps[name]) for name, cost in same.items() if cost.tokens])
    tokens = float(limit) if limit else by_build and by_build * _builds(step)
    speed = mean_of([cost.seconds / cost.tokens for cost in same.values() if cost.seconds and cost.tokens])
    return StepCost(tokens * speed if tokens and speed else None, tokens)


def _builds(step: Step) -> int:
    return max(1, sum(name.startswith("build-") for name in step.needs))


def _answers(step: Step, steps: int) -> str:
    """How many answers the attempts of a round are, and how long they can be."""
    name = step.settings.sampler
    own = getattr(step.settings, name)
    if name not in ATTEMPTING:
        return ""
    where = " from the server" if own.backend in SERVED else ""
    most = step.settings.count * own.samples
    each = f"at most {most:,} answers{where} of at most {own.max_new_tokens:,} tokens"
    return f", {each}{' each' if steps > 1 else ''}"
