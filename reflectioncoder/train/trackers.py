"""Learning curves for TensorBoard, Weights & Biases and Trackio, in addition to `log.jsonl`.

The Trainer passes its log to the trackers. This module chooses them and adds curves that only they get: the visible
share of each block type, and KL by stage of the mask schedule.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from reflectioncoder.errors import UserError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
STAGES = 3


def choose_trackers(names: Sequence[str]) -> list[str]:
    """Return the trackers of a run.

    Args:
        names: trackers by name, `none`, or `auto`: TensorBoard if it is installed.

    Raises:
        UserError: a named tracker is not installed.
    """
    if list(names) == ["auto"]:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    chosen = [name for name in names if name not in ("none", "auto")]
    for name in chosen:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(f"report_to = {name}: it is not installed; run: pip install {PACKAGES[name]}")
    return chosen


def stage(mask_rate: float) -> int:
    """Return which third of the mask schedule, 1 to 3, a mask rate is in; thresholds are strict as in section 3.2."""
    return min(STAGES, 1 + sum(mask_rate > k / STAGES for k in range(1, STAGES)))
