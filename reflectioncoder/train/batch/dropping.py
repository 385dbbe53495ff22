"""Shorter sequences: the blocks with the least influence on the final answer are dropped. Needs no torch.

A masking strategy hides blocks from the student only. A dropped block is gone for the teacher too, and so are its
tokens and its labels: what is trained on is the sample that a shorter file would give.
"""

from __future__ import annotations

import dataclasses
from itertools import chain

from reflectioncoder.dialogues.tokens import Encoded, Span
from reflectioncoder.train.batch.strategies import hidden_count


def drop_blocks(sample: Encoded, share: float) -> Encoded:
    """Return a reflection sample without the ceil(share * n) of its n blocks that have the least influence.

    Args:
        sample: any sample; one that is no reflection sequence is returned as it is.
        share: share of the blocks of the first answer, in [0, 1].

    Returns:
        the sample with the first answer's other blocks, in their order. Of equal influences the leftmost block goes
        first, as where nothing was measured (in a dry run).
    """
    if not sample.is_reflection or not share:
        return sample
    spans = [span for span in sample.spans if span.message == 1]
    influence = sample.influence or (0.0,) * len(spans)
    order = sorted(range(len(spans)), key=lambda block: (influence[block], block))
    gone = set(order[: hidden_count(len(spans), share)])
    if not gone:
        return sample
    cuts = [(spans[block].start, spans[block].end) for block in sorted(gone)]
    ends = [0, *(end for _, end in cuts)]
    kept = list(zip(ends, [*(start for start, _ in cuts), len(sample)], strict=True))

    def moved(token: int) -> int:
        """Where a token that is kept, or the end of a range, is now."""
        return token - sum(min(end, token) - start for start, end in cuts if start < token)

    left = [span for block, span in enumerate(spans) if block not in gone]
    numbers = {span.block: number for number, span in enumerate(left)}
    others = [span for span in sample.spans if span.message != 1 or span.block in numbers]
    return dataclasses.replace(
        sample,
        ids=tuple(chain.from_iterable(sample.ids[start:end] for start, end in kept)),
        is_label=tuple(chain.from_iterable(sample.is_label[start:end] for start, end in kept)),
        spans=tuple(
            Span(
                span.message,
                numbers[span.block] if span.message == 1 else span.block,
                span.type,
                moved(span.start),
                moved(span.end),
            )
            for span in others
        ),
        message_bounds=tuple((moved(start), moved(end)) for start, end in sample.message_bounds),
        changed=tuple(map(moved, sample.changed)),
        influence=tuple(value for block, value in enumerate(sample.influence) if block not in gone),
    )
