"""Makes reflection samples of random tokens with realistic lengths and shares of blocks, to benchmark training.

The shares are those of 200 sequences of the demo of commit 04dff95: of the tokens of the first round 16 % are the
user's, 39 % code, 24 % execution and 21 % analysis; of the tokens of the second round 46 % are the user's. The token
ids do not affect the cost.
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
SPECIAL = 10  # smaller ids are special tokens


def sample(number: int, first: tuple[int, int], second: tuple[int, int], vocabulary: int, seed: int = 0) -> Encoded:
    """Make a reflection sample in the layout of appendix C.

    Args:
        number: number of the sample, and its name.
        first: minimal and maximal number of tokens in the first round; uniformly distributed.
        second: the same for the second round.
        vocabulary: size of the vocabulary.
        seed: random seed of lengths and tokens.
    """
    rng = random.Random(f"{seed}:{number}")
    one, two = rng.randint(*first), rng.randint(*second)
    ids, labels = [0], [False]
    spans: list[Span] = []
    bounds: list[tuple[int, int]] = []
    user, question = round(USER * one), round(QUESTION * two)
    blocks = [(kind, round(share * one)) for kind, share in FIRST]
    kind, length = blocks[-1]
    blocks[-1] = kind, length + one - user - sum(length for _, length in blocks)  # corrects for rounding
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
            length -= 4 if len(contents) == 1 else 2  # two special tokens around the block, and two around the message
            ids += [4, *(rng.randrange(SPECIAL, vocabulary) for _ in range(max(1, length))), 7]
            labels += [m % 2 == 1 and kind != "execution"] * (len(ids) - begin)
            spans.append(Span(m, b, kind, begin, len(ids)))
        ids.append(8)
        labels.append(m % 2 == 1)
        bounds.append((start, len(ids)))
    return Encoded((*ids, 1), (*labels, False), tuple(spans), tuple(bounds), True, str(number))


def rows_at(samples: list[Encoded], step: int, steps: int) -> list[Rows]:
    """Build teacher and student rows with the default settings; the mask rate is step / steps."""
    return [build_rows(one, MaskingConfig(), "keep", step, steps, 0) for one in samples]


def packed(samples: list[Encoded], step: int, steps: int) -> MicroBatch:
    """Pack all samples into one micro-batch, which is a whole global batch."""
    rows = rows_at(samples, step, steps)
    return pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))
