"""Near-duplicates within a build, by the Jaccard index of their word n-grams.

Candidates are found with MinHash, then the index is computed exactly. This finds copies, not paraphrases; overlap with
evaluation sets is found by `contamination.py`.
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
    """Runs of n words and signs of a text in lower case; a shorter text is one run."""
    words = TOKEN.findall(text.lower())
    if not words:
        return []
    return [" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def near_duplicates(texts: Sequence[tuple[str, str]], threshold: float = 0.9, n: int = 5) -> list[Overlap]:
    """The texts that are near-duplicates of an earlier, kept text.

    Every text is read once, candidates for duplicates a second time; about 200 bytes per text are held in memory.

    Args:
        texts: (id, text), in the order in which they have precedence; may read them from elsewhere when asked.
        threshold: Jaccard index of the n-grams from which two texts count as the same; above 1 finds none.
        n: words and signs of an n-gram.
    """
    if threshold > 1 or len(texts) < 2:
        return []
    groups = _groups(np.stack([_bands(_hashes(text, n)) for _, text in texts]))
    kept_of: dict[int, list[int]] = {}  # group to those of its texts that are kept so far
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
    """Sorted 64-bit hashes of a text's different n-grams; that two of a build's have one hash is not to be expected."""
    grams = {int.from_bytes(blake2b(gram.encode(), digest_size=8).digest(), "big") for gram in ngrams(text, n)}
    return np.sort(np.fromiter(grams, dtype=np.uint64, count=len(grams)))


def _numbers(count: int, offset: int) -> np.ndarray:
    """Odd 64-bit numbers that are always the same."""
    digests = (blake2b(str(offset + i).encode(), digest_size=8).digest() for i in range(count))
    return np.array([int.from_bytes(digest, "big") | 1 for digest in digests], dtype=np.uint64)


FACTORS, OFFSETS, MIX = _numbers(BANDS * ROWS, 0), _numbers(BANDS * ROWS, 1000), _numbers(ROWS, 2000)


def _bands(hashes: np.ndarray) -> np.ndarray:
    """[BANDS] keys; two texts of Jaccard index j share a key in one band with probability j ** ROWS."""
    if not len(hashes):
        return np.zeros(BANDS, dtype=np.uint64)
    # high bits of a multiplicative hash, wrapping at 2^64
    signature = ((hashes[:, None] * FACTORS + OFFSETS) >> np.uint64(16)).min(axis=0)
    mixed: np.ndarray = (signature.reshape(BANDS, ROWS) * MIX).sum(axis=1, dtype=np.uint64)
    return mixed


def _groups(keys: np.ndarray) -> dict[int, list[int]]:
    """Text to the groups of texts with the same key in a band that it is in; texts alone in all bands are left out.

    Args:
        keys: [texts, BANDS].
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
