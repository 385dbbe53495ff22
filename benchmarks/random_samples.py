"""Reflection samples of random tokens whose lengths and shares are those of real ones, for benchmarks of training.

The shares are those of 200 sequences that `make demo` built: of the first round's tokens 16 % are the user's, 39 %
code, 24 % execution, 21 % analysis; of the second round's 46 % are the user's. The token ids do not affect the cost.
"""

from __future__ import annotations

import random
from typing import Literal

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded, Span
from reflectioncoder.train.batch.packing import MicroBatch, pack
from reflectioncoder.train.batch.rows import Rows, build_rows, loss_weights

Kind = Literal["text", "code", "execution"]
FIRST: tuple[tuple[Kind, float], ...] = (
    ("code", 0.20),
    ("execution", 0.18),
    ("text", 0.21),
    ("code", 0.19),
    ("execution", 0.06),
)
USER, QUESTION = 0.16, 0.46
SPECIAL = 10  # ids below stand for the special tokens


def sample(number: int, first: tuple[int, int], second: tuple[int, int], vocabulary: int, seed: int = 0) -> Encoded:
    """A reflection sample in the layout of appendix C.

    Args:
        number: of the sample; also its name.
        first: fewest and most tokens of the first round, drawn evenly.
        second: likewise of the second round.
        vocabulary: ids are below this.
        seed: of lengths and tokens.
    """
    rng = random.Random(f"{seed}:{number}")
    one, two = rng.randint(*first), rng.randint(*second)
    ids, labels = [0], [False]
    spans: list[Span] = []
    bounds: list[tuple[int, int]] = []
    user, question = round(USER * one), round(QUESTION * two)
    blocks = [(kind, round(share * one)) for kind, share in FIRST]
    kind, length = blocks[-1]
    blocks[-1] = kind, length + one - user - sum(length for _, length in blocks)  # what rounding left over
    messages: list[list[tuple[Kind, int]]] = [
        [("text", user)],
        blocks,
        [("text", question)],
        [("text", two - question)],
    ]
    for m, contents in enumerate(messages):
        start = len(ids)
        ids.append(2 + m % 2)
        labels.append(False)
        for b, (kind, length) in enumerate(contents):
            begin = len(ids)
            length -= 4 if len(contents) == 1 else 2  # the tokens around it; two more around the message
            ids += [4, *(rng.randrange(SPECIAL, vocabulary) for _ in range(max(1, length))), 7]
            labels += [m % 2 == 1 and kind != "execution"] * (len(ids) - begin)
            spans.append(Span(m, b, kind, begin, len(ids)))
        ids.append(8)
        labels.append(m % 2 == 1)
        bounds.append((start, len(ids)))
    return Encoded((*ids, 1), (*labels, False), tuple(spans), tuple(bounds), True, str(number))


def rows_at(samples: list[Encoded], step: int, steps: int) -> list[Rows]:
    """Teacher and student rows under the default settings; the mask rate is step / steps."""
    return [build_rows(one, MaskingConfig(), "keep", step, steps, 0) for one in samples]


def packed(samples: list[Encoded], step: int, steps: int) -> MicroBatch:
    """All samples as one micro-batch that is a global batch of its own."""
    rows = rows_at(samples, step, steps)
    return pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))
