"""Copies are found regardless of spacing and case; texts that only share a subject are not reported."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.construct.filters.near_duplicates import near_duplicates, ngrams

WORDS = [f"word{i}" for i in range(40)]
TEN = "one two three four five six seven eight nine ten"


def test_ngrams() -> None:
    assert ngrams("A b, c  D!", 3) == ["a b ,", "b , c", ", c d", "c d !"]
    assert ngrams("a b", 3) == ["a b"]
    assert ngrams(" ", 3) == []


def test_duplicates_are_found_whatever_spacing_and_case_and_the_first_is_kept() -> None:
    text = "Return the sum of all even numbers.\ndef f(xs):\n    return sum(x for x in xs if x % 2 == 0)"
    again = text.upper().replace("    ", "\t")
    other = "Return the longest word of a text.\ndef g(text):\n    return max(text.split(), key=len)"
    (found,) = near_duplicates([("a", text), ("b", other), ("c", again)])
    assert (found.id, found.other, found.share) == ("c", "a", 1.0)
    assert near_duplicates([("a", text), ("c", again)], threshold=1.1) == []
    assert near_duplicates([]) == []
    assert [item.id for item in near_duplicates([("a", ""), ("b", "")])] == ["b"]


def jaccard(a: str, b: str) -> float:
    first, second = ({tuple(t.split()[i : i + 5]) for i in range(max(1, len(t.split()) - 4))} for t in (a, b))
    return len(first & second) / len(first | second)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_near_duplicates_equal_the_plain_comparison_of_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    texts = []
    for number in range(12):
        words = rng.choices(WORDS, k=60)
        texts.append((f"t{number}", " ".join(words)))
        words[rng.randrange(60)] = "changed"  # at most 5 of 56 runs differ: Jaccard of at least 51/61
        texts.append((f"u{number}", " ".join(words)))
    kept: list[tuple[str, str]] = []
    expected = []
    for id, text in texts:
        if any(jaccard(text, other) >= 0.8 for _, other in kept):
            expected.append(id)
        else:
            kept.append((id, text))
    assert [item.id for item in near_duplicates(texts, threshold=0.8)] == expected
    assert set(expected) >= {f"u{number}" for number in range(12)}


def test_order_decides_which_of_two_stays() -> None:
    texts = [("a", TEN), ("b", TEN), ("c", TEN)]
    for order in itertools.permutations(texts):
        assert [item.id for item in near_duplicates(order)] == [id for id, _ in order[1:]]
