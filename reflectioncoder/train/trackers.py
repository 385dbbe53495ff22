"""Learning curves for TensorBoard, Weights & Biases and Trackio, beside `log.jsonl`.

The Trainer hands its log to them; here is which are used, and the curves that only they get: how much of each type of
block the student sees, KL by the stage of the mask schedule.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.masking import Range

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


def visible_shares(samples: Sequence[Encoded], ranges: Sequence[Sequence[Range]]) -> dict[str, float]:
    """The share of each block type's tokens, in the first rounds of a batch, that the student sees.

    Args:
        samples: of the batch.
        ranges: `masking.visible_ranges` of each; those of plain samples are not looked at.

    Returns:
        `visible_execution`, `visible_text` and `visible_code`, as far as the batch has such blocks.
    """
    seen: dict[str, int] = {}
    all_tokens: dict[str, int] = {}
    for sample, visible in zip(samples, ranges, strict=True):
        if not sample.is_reflection:
            continue
        flags = bytearray(len(sample))
        for start, end in visible:
            flags[start:end] = b"\x01" * (end - start)
        for span in sample.spans:
            if span.message == 1:
                seen[span.type] = seen.get(span.type, 0) + flags.count(1, span.start, span.end)
                all_tokens[span.type] = all_tokens.get(span.type, 0) + span.end - span.start
    return {f"visible_{kind}": seen[kind] / count for kind, count in sorted(all_tokens.items())}


def stage(mask_rate: float) -> int:
    """The third of the mask schedule that a rate falls into, from 1: thresholds are strict, as in section 3.2."""
    return min(STAGES, 1 + sum(mask_rate > k / STAGES for k in range(1, STAGES)))
