"""Learning curves for TensorBoard, Weights & Biases and Trackio, beside `log.jsonl`.

The Trainer hands its log to them; here is which are used, and the curves that only they get: how much of each type of
block the student sees, KL by the stage of the mask schedule.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from reflectioncoder.errors import UserError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
STAGES = 3


def choose(names: Sequence[str]) -> list[str]:
    """The trackers of a run: those named, or TensorBoard where it is installed.

    Raises:
        UserError: a tracker that was named is not installed.
    """
    if list(names) == ["auto"]:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    chosen = [name for name in names if name not in ("none", "auto")]
    for name in chosen:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(f"report_to = {name}: it is not installed; run: pip install {PACKAGES[name]}")
    return chosen


def stage(mask_rate: float) -> int:
    """The third of the mask schedule that a rate falls into, from 1: thresholds are strict, as in section 3.2."""
    return min(STAGES, 1 + sum(mask_rate > k / STAGES for k in range(1, STAGES)))
