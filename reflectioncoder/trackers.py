"""Learning curves for TensorBoard, Weights & Biases and Trackio, beside `log.jsonl`.

The Trainer hands its log to them; here is which are used, and the curves that only they get: how much of each type of
block the student sees, KL by the stage of the mask schedule, speed and utilisation.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch

from reflectioncoder.config import TrainConfig
from reflectioncoder.errors import UserError
from reflectioncoder.masking import visible_ranges
from reflectioncoder.template import Encoded

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
# Dense bfloat16 operations a second, without sparsity, as the maker states them; by a part of the device's name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12}
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


def visible_shares(samples: Sequence[Encoded], config: TrainConfig, step: int, max_steps: int) -> dict[str, float]:
    """The share of each block type's tokens, in the first rounds of a batch, that the student sees.

    Returns:
        `visible_execution`, `visible_text` and `visible_code`, as far as the batch has such blocks.
    """
    seen: dict[str, int] = {}
    all_tokens: dict[str, int] = {}
    for sample in samples:
        if not sample.is_reflection:
            continue
        ranges = visible_ranges(sample, config.masking, step, max_steps, config.seed)
        for span in sample.spans:
            if span.message != 1:
                continue
            tokens = sum(max(0, min(end, span.end) - max(start, span.start)) for start, end in ranges)
            seen[span.type] = seen.get(span.type, 0) + tokens
            all_tokens[span.type] = all_tokens.get(span.type, 0) + span.end - span.start
    return {f"visible_{kind}": seen[kind] / count for kind, count in sorted(all_tokens.items())}


def stage(mask_rate: float) -> int:
    """The third of the mask schedule that a rate falls into, from 1: thresholds are strict, as in section 3.2."""
    return min(STAGES, 1 + sum(mask_rate > k / STAGES for k in range(1, STAGES)))


def utilisation(tokens_per_second: float, parameters: int, device: torch.device, ranks: int) -> float | None:
    """Model FLOP utilisation in [0, 1], counting six operations a parameter and token; None for unknown devices."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
    return None if peak is None else 6 * parameters * tokens_per_second / (peak * ranks)
