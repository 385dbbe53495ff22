"""Dynamic masking of the first round: what the student does not see (section 3.2, figure 3; appendix B.5).

Everything here is pure: block types, a mask rate and an explicit random generator go in, kept blocks or token
ranges come out. Hidden tokens are hidden from every query, so the caller may drop them before the first layer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from reflectioncoder.config.train import MaskingConfig
from reflectioncoder.dialogues.dialogue import BLOCK_TYPES
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError

Range = tuple[int, int]
BLOCK_STRATEGIES = ("block", "sequential", "random")
TOKEN_STRATEGIES = ("random_token", "sequential_token")
# Floating-point error can put `rate * n` slightly above the exact integer (0.28 * 25 > 7).
ROUNDING = 1e-9


def mask_rate(step: int, max_steps: int, semantics: str = "paper") -> float:
    """The mask rate of a step, "current step / max step".

    Args:
        step: optimizer steps already taken, from 0.
        max_steps: optimizer steps of the whole run.
        semantics: `paper` starts at 0, `release` counts the step that is being taken.

    Returns:
        A number in [0, 1].
    """
    current = step + 1 if semantics == "release" else step
    return min(1.0, current / max_steps)


def hidden_count(n: int, rate: float) -> int:
    """How many of `n` blocks or tokens are hidden at a mask rate: ceil(rate * n).

    Raises:
        ValueError: `rate` outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"mask rate {rate} is not in [0, 1]")
    return min(n, math.ceil(rate * n - ROUNDING))


def block_mask(types: Sequence[str], rate: float, order: Sequence[str], semantics: str = "paper") -> list[bool]:
    """Which blocks stay visible under the block strategy.

    Args:
        types: types of the n blocks of the first assistant message, in order.
        rate: mask rate in [0, 1].
        order: the three block types; the first is hidden above rate 0, the second above 1/3, the third above 2/3
            (`release`: always, from 0.33 on, from 0.67 on).
        semantics: `paper` or `release`.

    Returns:
        n flags, True where the block stays visible.

    Raises:
        UserError: `order` is not an order of the three block types.
        ValueError: `rate` outside [0, 1].
    """
    check_order(order)
    hidden_count(0, rate)
    if semantics == "release":
        hidden = {name for name, start in zip(order, (0.0, 0.33, 0.67), strict=True) if rate >= start}
    else:
        hidden = {name for k, name in enumerate(order) if rate > k / 3}
    return [name not in hidden for name in types]


def check_order(order: Sequence[str]) -> None:
    """Raises UserError unless `order` holds each block type once."""
    if sorted(order) != sorted(BLOCK_TYPES):
        raise UserError(f"masking.order: {','.join(order)} is not an order of {','.join(BLOCK_TYPES)}")


def sequential_mask(n: int, rate: float) -> list[bool]:
    """Which of `n` blocks or tokens stay visible when the leftmost ceil(rate * n) are hidden."""
    hidden = hidden_count(n, rate)
    return [i >= hidden for i in range(n)]


def random_mask(n: int, rate: float, rng: random.Random) -> list[bool]:
    """Which of `n` blocks or tokens stay visible when ceil(rate * n), chosen at random, are hidden."""
    hidden = set(rng.sample(range(n), hidden_count(n, rate)))
    return [i not in hidden for i in range(n)]


def strategy_at(config: MaskingConfig, step: int, sample_id: str, seed: int) -> str:
    """The masking strategy of a sample at a step: the configured one, or a random one for `mix`.

    `mix` draws once per step; under `release` semantics it draws once per sample.
    """
    if config.strategy != "mix":
        return config.strategy
    key = f"{seed}:{step}:{sample_id}:mix" if config.semantics == "release" else f"{seed}:{step}:mix"
    return random.Random(key).choice(BLOCK_STRATEGIES)


def kept_blocks(
    types: Sequence[str], config: MaskingConfig, rate: float, step: int, sample_id: str, seed: int
) -> list[bool]:
    """Which blocks of the first assistant message stay visible under a block-level or constant strategy.

    Returns:
        One flag per block, True where it stays visible.
    """
    strategy = strategy_at(config, step, sample_id, seed)
    if strategy == "block":
        return block_mask(types, rate, config.order, config.semantics)
    if strategy == "sequential":
        return sequential_mask(len(types), rate)
    if strategy == "random":
        return random_mask(len(types), rate, random.Random(f"{seed}:{step}:{sample_id}"))
    return [strategy == "none"] * len(types)


def visible_ranges(encoded: Encoded, config: MaskingConfig, step: int, max_steps: int, seed: int) -> list[Range]:
    """The tokens that the student reads.

    The first user message is always hidden, and with it the role and end tokens of the first assistant message;
    the second round is intact. BOS stays visible, as at inference, except under `release`.

    Args:
        encoded: a reflection sample.
        config: strategy, order and semantics.
        step: optimizer steps already taken.
        max_steps: optimizer steps of the whole run.
        seed: seed of the random choices; they depend only on the seed, `step` and the sample's id.

    Returns:
        Token ranges `[start, end)`, in order and without overlap.
    """
    rate = mask_rate(step, max_steps, config.semantics)
    (first, _), (start, end), (second, _) = encoded.message_bounds[:3]
    ranges: list[Range] = []
    if first > 0 and config.semantics == "paper":
        ranges.append((0, first))
    if config.strategy in TOKEN_STRATEGIES:
        inside = range(start + 1, end - 1)
        if config.strategy == "sequential_token":
            kept = sequential_mask(len(inside), rate)
        else:
            kept = random_mask(len(inside), rate, random.Random(f"{seed}:{step}:{encoded.sample_id}"))
        ranges.extend((token, token + 1) for token, keep in zip(inside, kept, strict=True) if keep)
    else:
        spans = [span for span in encoded.spans if span.message == 1]
        keep_flags = kept_blocks([span.type for span in spans], config, rate, step, encoded.sample_id, seed)
        ranges.extend((span.start, span.end) for span, keep in zip(spans, keep_flags, strict=True) if keep)
    ranges.append((second, len(encoded.ids)))
    return ranges


def visible_shares(samples: Sequence[Encoded], ranges: Sequence[Sequence[Range]]) -> dict[str, float]:
    """The share of each block type's tokens, in the first rounds of a batch, that the student sees.

    Args:
        samples: the samples of the batch.
        ranges: `visible_ranges` of each sample; ignored for samples that are not reflection sequences.

    Returns:
        `visible_execution`, `visible_text` and `visible_code`, in [0, 1]; a type without blocks is omitted.
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
