"""Dynamic masking of the first round: what the student does not see (section 3.2, figure 3; appendix B.5).

Everything here is pure: a sample, the step and a seed go in, token ranges come out. `strategies.py` decides which
blocks or tokens are hidden. Hidden tokens are hidden from every query, so the caller may drop them before the first
layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflectioncoder.config.train import MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.strategies import STRATEGIES, Draw

Range = tuple[int, int]


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


def visible_ranges(
    encoded: Encoded, config: MaskingConfig, step: int, max_steps: int, seed: int, rate: float | None = None
) -> list[Range]:
    """The tokens that the student reads.

    The first user message is always hidden, and with it the role and end tokens of the first assistant message;
    the second round is intact. BOS stays visible, as at inference, except under `release`. There the strategy `none`
    hides nothing at all, as in the authors' code without a flag for masks.

    Args:
        encoded: a reflection sample.
        config: strategy, order and semantics.
        step: optimizer steps already taken.
        max_steps: optimizer steps of the whole run.
        seed: seed of the random choices; they depend only on the seed, `step` and the sample's id.
        rate: the mask rate in [0, 1]; by default that of the step.

    Returns:
        Token ranges `[start, end)`, in order and without overlap.

    Raises:
        UserError: an unknown strategy, or one that does not give one flag for each unit.
    """
    if config.semantics == "release" and config.strategy == "none":
        return [(0, len(encoded.ids))]
    rate = mask_rate(step, max_steps, config.semantics) if rate is None else rate
    (first, _), (start, end), (second, _) = encoded.message_bounds[:3]
    ranges: list[Range] = []
    if first > 0 and config.semantics == "paper":
        ranges.append((0, first))
    strategy = STRATEGIES.choose(config.strategy)
    spans = [span for span in encoded.spans if span.message == 1]
    types: list[str] = [span.type for span in spans]
    units = [(span.start, span.end) for span in spans]
    if strategy.unit == "token":
        units = [(token, token + 1) for token in range(start + 1, end - 1)]
        types = _token_types(encoded, start + 1, end - 1)
    flags = strategy.keep(types, rate, config, Draw(step, encoded.sample_id, seed, encoded.influence))
    if len(flags) != len(units):
        raise UserError(f"masking strategy '{config.strategy}': gave {len(flags)} flags for {len(units)} units")
    ranges.extend(unit for unit, keep in zip(units, flags, strict=True) if keep)
    ranges.append((second, len(encoded.ids)))
    return ranges


def _token_types(encoded: Encoded, start: int, end: int) -> list[str]:
    """The block type of each token in `[start, end)`; empty for a token that belongs to no block."""
    types = [""] * (end - start)
    for span in encoded.spans:
        if span.message == 1:
            types[span.start - start : span.end - start] = [span.type] * (span.end - span.start)
    return types


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
