"""A mask rate that moves on when the student has caught up with its teacher, instead of with the steps alone.

Needs no torch. The rate climbs in equal stages; with three of them the strategy `block` hides one more type of block at
each. It never falls behind the paper's "current step / max step", so a run still ends as inference begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reflectioncoder.config.train import MaskingConfig

_SLACK = 1e-9  # floating-point error of rate * stages


@dataclass(frozen=True)
class Curriculum:
    """How far a curriculum driven by the measured KL has come.

    Args:
        stage: stages completed, from 0 to `masking.stages`.
        recent: the latest divergences measured at this stage, in nats per token, at most `masking.window`.
    """

    stage: int = 0
    recent: tuple[float, ...] = ()

    def rate(self, floor: float, masking: MaskingConfig) -> float:
        """The mask rate of the next step, in [0, 1].

        Args:
            floor: the rate that the steps alone give, `masking.mask_rate`.
            masking: `stages`.
        """
        return max(floor, self.stage / masking.stages)

    def after(self, kl: float | None, rate: float, masking: MaskingConfig) -> Curriculum:
        """The state after a step.

        The next stage begins when the mean of the last `window` divergences is at most `caught_up`.

        Args:
            kl: mean divergence of the step's students from their teachers; None without a reflection sample.
            rate: the step's mask rate.
            masking: `stages`, `window` and `caught_up`.
        """
        if kl is None:
            return self
        stage = max(self.stage, math.ceil(rate * masking.stages - _SLACK))
        recent = (*(self.recent if stage == self.stage else ()), kl)[-masking.window :]
        caught_up = len(recent) == masking.window and sum(recent) / masking.window <= masking.caught_up
        if caught_up and stage < masking.stages:
            return Curriculum(stage + 1)
        return Curriculum(stage, recent)
