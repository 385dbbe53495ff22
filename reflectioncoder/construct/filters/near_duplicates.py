"""Finds near-duplicates within a build by the Jaccard index of their word n-grams.

MinHash finds candidates, for which the index is computed exactly. This finds copies, not paraphrases. For overlap with
evaluation sets see `contamination.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

TOKEN = re.compile(r"\w+|[^\w\s]")
BANDS, ROWS = 24, 4  # of the MinHash signature


@dataclass(frozen=True)
class Overlap:
    """A near-duplicate of another text.

    Args:
        id: id of the text.
        other: id of the text that is kept.
        share: Jaccard index of their n-grams, 0 to 1.
    """

    id: str
    other: str
    share: float


def ngrams(text: str, n: int) -> list[str]:
    """Return all n-grams of the words and punctuation marks of a text in lower case; a shorter text is one n-gram."""
    words = TOKEN.findall(text.lower())
    if not words:
        return []
    return [" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def near_duplicates(texts: Sequence[tuple[str, str]], threshold: float = 0.9, n: int = 5) -> list[Overlap]:
    """Find the texts that are near-duplicates of an earlier, kept text.

    Every text is read once, and candidates for duplicates a second time. About 200 bytes per text are held in memory.

    Args:
        texts: (id, text) in order of precedence; the sequence may load each on access.
        threshold: two texts are near-duplicates if the Jaccard index of their n-grams is at least this; above 1 finds
            none.
        n: number of words and punctuation marks in an n-gram.
    """
    if threshold > 1 or len(texts) < 2:
        return []
    groups = _groups(np.stack([_bands(_hashes(text, n)) for _, text in texts]))
    kept_of: dict[int, list[int]] = {}  # group to its texts kept so far
    kept: dict[int, np.ndarray] = {}
    found = []
    for index in sorted(groups):
        id, text = texts[index]
        grams = _hashes(text, n)
        candidates = sorted({other for group in groups[index] for other in kept_of.get(group, ())})
        best = max(((_jaccard(grams, kept[other]), -other) for other in candidates), default=(0.0, 0))
        if candidates and best[0] >= threshold:
            found.append(Overlap(id, texts[-best[1]][0], round(best[0], 4)))
            continue
        kept[index] = grams
        for group in groups[index]:
            kept_of.setdefault(group, []).append(index)
    return found


def _hashes(text: str, n: int) -> np.ndarray:
    """Return the sorted 64-bit hashes of a text's distinct n-grams, `[count]`; collisions are negligible."""
    grams = {int.from_bytes(blake2b(gram.encode(), digest_size=8).digest(), "big") for gram in ngrams(text, n)}
    return np.sort(np.fromiter(grams, dtype=np.uint64, count=len(grams)))


def _numbers(count: int, offset: int) -> np.ndarray:
    """Return `count` fixed odd 64-bit numbers, `[count]`."""
    digests = (blake2b(str(offset + i).encode(), digest_size=8).digest() for i in range(count))
    return np.array([int.from_bytes(digest, "big") | 1 for digest in digests], dtype=np.uint64)


FACTORS, OFFSETS, MIX = _numbers(BANDS * ROWS, 0), _numbers(BANDS * ROWS, 1000), _numbers(ROWS, 2000)


def _bands(hashes: np.ndarray) -> np.ndarray:
    """Return the key of each band, `[BANDS]`, for the hashes `[count]` of a text.

    Two texts with Jaccard index j have the same key in a band with probability j ** ROWS.
    """
    if not len(hashes):
        return np.zeros(BANDS, dtype=np.uint64)
    # high bits of a multiplicative hash, wrapping at 2^64
    signature = ((hashes[:, None] * FACTORS + OFFSETS) >> np.uint64(16)).min(axis=0)
    mixed: np.ndarray = (signature.reshape(BANDS, ROWS) * MIX).sum(axis=1, dtype=np.uint64)
    return mixed


def _groups(keys: np.ndarray) -> dict[int, list[int]]:
    """Group texts that have the same key in a band.

    Args:
        keys: `[texts, BANDS]`.

    Returns:
        the groups that each text is in; texts that are alone in all bands are left out.
    """
    groups: dict[int, list[int]] = {}
    number = 0
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        sorted_keys = keys[order, band]
        for members in np.split(order, np.flatnonzero(sorted_keys[1:] != sorted_keys[:-1]) + 1):
            if len(members) > 1:
                number += 1
                for member in members.tolist():
                    groups.setdefault(member, []).append(number)
    return groups


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    if not len(a) and not len(b):
        return 1.0
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
