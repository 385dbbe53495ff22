"""Texts that are nearly the same: duplicates within a build, and contamination by evaluation sets.

Both go by runs of words: near-duplicates by the Jaccard index of their 5-grams (found with MinHash, then computed
exactly), contamination by any shared 10-gram. It sees copies, not paraphrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from reflectioncoder.errors import UserError
from reflectioncoder.problems import SUFFIXES, iter_rows

TOKEN = re.compile(r"\w+|[^\w\s]")
WORD = re.compile(r"\w+")
BANDS, ROWS = 24, 4


@dataclass(frozen=True)
class Overlap:
    """A text that shares n-grams with a reference.

    Args:
        id: of the text.
        other: place of the first reference found.
        share: part of the text's n-grams that occur in references, 0 to 1.
        example: one of the shared n-grams.
    """

    id: str
    other: str
    share: float
    example: str


def ngrams(text: str, n: int, pattern: re.Pattern[str] = WORD) -> list[str]:
    """Runs of n words of a text in lower case; a shorter text is one run."""
    words = pattern.findall(text.lower())
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
        grams = frozenset(ngrams(text, n, TOKEN))
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
            found.append(Overlap(id, texts[-best[1]][0], round(best[0], 4), ""))
            continue
        kept[index] = grams
        for key in keys:
            buckets.setdefault(key, []).append(index)
    return found


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def contaminated(
    texts: Iterable[tuple[str, Sequence[str]]], references: Iterable[tuple[str, str]], n: int = 10
) -> list[Overlap]:
    """The texts that share a run of n words with a reference (of texts under n words, only the whole counts).

    Args:
        texts: id and parts (instruction, solution), each compared on its own.
        references: place and text of what must not be in the data.
    """
    index: dict[str, str] = {}
    for place, text in references:
        for gram in ngrams(text, n):
            index.setdefault(gram, place)
    found = []
    for id, parts in texts:
        grams = [gram for part in parts for gram in ngrams(part, n)]
        shared = [gram for gram in grams if gram in index]
        if shared:
            found.append(Overlap(id, index[shared[0]], round(len(shared) / len(grams), 4), shared[0]))
    return found


def reference_texts(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Place and text of every text column of files, or of all data files under folders.

    Columns with tests are left out: their boilerplate is everywhere.

    Raises:
        UserError: a source that is not there or holds no data file.
    """
    for source in sources:
        path = Path(source)
        files = sorted(item for item in path.rglob("*") if item.name.endswith(SUFFIXES)) if path.is_dir() else [path]
        if not files:
            raise UserError(f"decontaminate: no data file ({', '.join(SUFFIXES)}) under {path}")
        for file in files:
            for where, row in iter_rows(str(file)):
                yield from ((where, text) for text in _texts(row))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if "test" not in str(key).lower() and not str(key).lower().endswith("id"):
                yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
