"""Copies are found whatever their spacing and case; texts that only share a subject are not."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.errors import UserError
from reflectioncoder.overlap import contaminated, near_duplicates, ngrams, reference_texts

WORDS = [f"word{i}" for i in range(40)]
TEN = "one two three four five six seven eight nine ten"


def test_ngrams() -> None:
    assert ngrams("A b, c  D!", 3) == ["a b c", "b c d"]
    assert ngrams("a b", 3) == ["a b"]
    assert ngrams("...", 3) == []


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
        words[rng.randrange(60)] = "changed"  # 5 of 56 runs differ: Jaccard 51/61 at the least
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


def test_contamination_needs_ten_words_in_a_row() -> None:
    references = [("set, line 1", f"Zero {TEN} eleven.")]
    nine = TEN.rsplit(" ", 1)[0]
    texts = [("a", [f"Before: {TEN.upper()}!", "x = 1"]), ("b", [f"{nine} other words follow", "y"])]
    (found,) = contaminated(texts, references)
    # "before one ... nine" and "one ... ten" of the instruction, and "x 1" of the solution
    assert (found.id, found.other, found.share, found.example) == ("a", "set, line 1", round(1 / 3, 4), TEN)


def test_parts_are_not_run_together() -> None:
    first, second = TEN.split(" six ")
    assert contaminated([("a", [first, f"six {second}"])], [("r", TEN)]) == []


def test_reference_texts_come_from_files_and_folders_without_tests(tmp_path: Path) -> None:
    rows = [{"task_id": "x/0", "prompt": "p0", "test": "t", "meta": {"hint": "h"}, "list": ["a", 3]}]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "readme.md").write_text("not data")
    expected = [(f"file {tmp_path}/deep/a.jsonl, line 1", text) for text in ("p0", "h", "a")]
    assert list(reference_texts([str(tmp_path)])) == expected
    assert list(reference_texts([str(tmp_path / "deep" / "a.jsonl")])) == expected
    with pytest.raises(UserError, match="no such file"):
        list(reference_texts([str(tmp_path / "none.jsonl")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data file"):
        list(reference_texts([str(tmp_path / "empty")]))


def test_order_decides_which_of_two_stays() -> None:
    texts = [("a", TEN), ("b", TEN), ("c", TEN)]
    for order in itertools.permutations(texts):
        assert [item.id for item in near_duplicates(order)] == [id for id, _ in order[1:]]
