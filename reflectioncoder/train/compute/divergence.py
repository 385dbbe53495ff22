"""Divergences between a teacher's and a student's next-token distribution, with their gradients.

Values are in nats per token; gradients are those with respect to the student's logits. The teacher is a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from reflectioncoder.config.train import DivergenceKind


@dataclass(frozen=True)
class Distance:
    """How far a student's distribution q is from its teacher's p.

    Args:
        kind: `forward` is KL(p || q), the paper's; `reverse` is KL(q || p); `jensen_shannon` is the mean of
            KL(p || m) and KL(q || m) with m = (p + q) / 2, at most log 2.
        temperature: both distributions are those of logits / temperature, and the value is multiplied by its square,
            which keeps the size of gradients (Hinton et al., arXiv 1503.02531).
    """

    kind: DivergenceKind = "forward"
    temperature: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether this is the paper's KL(teacher || student) at temperature 1."""
        return self.kind == "forward" and self.temperature == 1.0


KL = Distance()


def divergence(
    log_teacher: torch.Tensor, log_student: torch.Tensor, distance: Distance
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the divergences `[m]` of m pairs of distributions, and their gradients `[m, V]`.

    Args:
        log_teacher: `[m, V]` log-probabilities at temperature 1.
        log_student: `[m, V]` log-probabilities at temperature 1.
        distance: the divergence.
    """
    heat = distance.temperature
    log_p, log_q = log_teacher, log_student
    if heat != 1.0:
        log_p, log_q = (log_p / heat).log_softmax(-1), (log_q / heat).log_softmax(-1)
    q = log_q.exp()
    if distance.kind == "forward":
        p = log_p.exp()
        value = (p * (log_p - log_q)).sum(-1)
        slope = q - p
    elif distance.kind == "reverse":
        ratio = log_q - log_p
        value = (q * ratio).sum(-1)
        slope = q * (ratio - value[:, None])
    else:
        middle = torch.logaddexp(log_p, log_q) - math.log(2)
        ratio = log_q - middle
        of_student = (q * ratio).sum(-1)
        value = ((log_p.exp() * (log_p - middle)).sum(-1) + of_student) / 2
        slope = q * (ratio - of_student[:, None]) / 2
    return heat**2 * value, heat * slope
