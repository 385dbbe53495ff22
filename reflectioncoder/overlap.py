"""Texts that are nearly the same: duplicates within a build, by the Jaccard index of their runs of words.

Candidates are found with MinHash, then the index is computed exactly. It sees copies, not paraphrases; what evaluation
sets hold is found by `contamination.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

TOKEN = re.compile(r"\w+|[^\w\s]")
BANDS, ROWS = 24, 4


@dataclass(frozen=True)
class Overlap:
    """A text that is nearly another.

    Args:
        id: of the text.
        other: id of the one that is kept.
        share: Jaccard index of their n-grams, 0 to 1.
    """

    id: str
    other: str
    share: float


def ngrams(text: str, n: int) -> list[str]:
    """Runs of n words and signs of a text in lower case; a shorter text is one run."""
    words = TOKEN.findall(text.lower())
    if not words:
        return []
    return [" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def near_duplicates(texts: Sequence[tuple[str, str]], threshold: float = 0.9, n: int = 5) -> list[Overlap]:
    """The texts that are nearly one that comes before them and is kept.

    Args:
        texts: (id, text), in the order in which they have precedence.
        threshold: Jaccard index of the n-grams from which two texts count as the same; above 1 finds none.
        n: words and signs of an n-gram.
    """
    mask = (1 << 64) - 1
    numbers = [int.from_bytes(blake2b(str(i).encode(), digest_size=16).digest(), "big") for i in range(BANDS * ROWS)]
    factors = np.array([number & mask | 1 for number in numbers], dtype=np.uint64)
    offsets = np.array([number >> 64 for number in numbers], dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    kept: dict[int, frozenset[str]] = {}
    found = []
    for index, (id, text) in enumerate(texts):
        grams = frozenset(ngrams(text, n))
        hashes = np.array(
            [int.from_bytes(blake2b(gram.encode(), digest_size=8).digest(), "big") for gram in grams] or [0],
            dtype=np.uint64,
        )
        # high bits of a multiplicative hash, wrapping at 2^64
        signature = ((hashes[:, None] * factors + offsets) >> np.uint64(16)).min(axis=0)
        keys = [(band, signature[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
        candidates = sorted({other for key in keys for other in buckets.get(key, ())})
        best = max(((_jaccard(grams, kept[other]), -other) for other in candidates), default=(0.0, 0))
        if candidates and best[0] >= threshold:
            found.append(Overlap(id, texts[-best[1]][0], round(best[0], 4)))
            continue
        kept[index] = grams
        for key in keys:
            buckets.setdefault(key, []).append(index)
    return found


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
