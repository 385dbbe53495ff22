"""What steps that are done have cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reflectioncoder.steps.plan import StepPlan
from reflectioncoder.steps.records import StepRecord, read_training_result


@dataclass(frozen=True)
class StepCost:
    """What a step costs.

    Args:
        seconds: wall-clock time of its process; None if it is not known.
        tokens: tokens through the model in training; None for other commands, or if it is not known.
    """

    seconds: float | None
    tokens: float | None = None


def known_costs(plan: StepPlan, records: Mapping[str, StepRecord]) -> dict[str, StepCost]:
    """The costs of the steps that are done."""
    found = {}
    for key, record in records.items():
        if record.state == "done":
            trained = plan.steps[key].verb == "train"
            tokens = float(read_training_result(plan.folder(key))["tokens"]) if trained else None
            found[key] = StepCost(record.seconds, tokens)
    return found


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
