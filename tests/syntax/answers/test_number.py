"""The number of an answer: what the rule accepts, and what counts as the wrong form."""

from __future__ import annotations

from fractions import Fraction

import pytest

from reflectioncoder.syntax.answers.number import read_number


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("Answer: 14", Fraction(14)),
        ("answer:14", Fraction(14)),
        ("ANSWER : 007.", Fraction(7)),
        ("Answer: 5.", Fraction(5)),
        ("Answer: 1,234,567", Fraction(1234567)),
        ("Answer: 12345", Fraction(12345)),
        ("Answer: -3", Fraction(-3)),
        ("Answer: \u22123", Fraction(-3)),
        ("Answer: +3", Fraction(3)),
        ("Answer: 14.0", Fraction(14)),
        ("Answer: 0.125", Fraction(1, 8)),
        ("Answer: 1,000.50 coins", Fraction(2001, 2)),
        ("Answer: 12 pens", Fraction(12)),
        ("Answer: 12 square metres.", Fraction(12)),
        ("Answer: $12", Fraction(12)),
        ("Answer: -$12", Fraction(-12)),
        ("Answer: 12 €", Fraction(12)),
        ("**Answer: 12**", Fraction(12)),
        ("**Answer:** `12`", Fraction(12)),
        ("I had 5 at first.\nAnswer: 3\nNo, one more.\nAnswer: 4\n\n", Fraction(4)),
    ],
)
def test_numbers_are_read_exactly(line: str, number: Fraction) -> None:
    assert read_number(f"3 + 4 = 7.\n{line}") == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "14",
        "The answer is 14",
        "Answer:",
        "Answer: fourteen",
        "Answer: NUMBER",
        "Answer: 12 or 13",
        "Answer: 12, 13",
        "Answer: 12 and a half",
        "Answer: 12 hundred",
        "Answer: 12 Million",
        "Answer: 50%",
        "Answer: 3/4",
        "Answer: 2*3",
        "Answer: 2**3",
        "Answer: 1e3",
        "Answer: 5k",
        "Answer: 12kg",
        "Answer: 1,23",
        "Answer: 12,3456",
        "Answer: 1.234.567",
        "Answer: .5",
        "Answer: --3",
        "Answer: 0x10",
        "Answer: \u0661\u0662",
        "Answer: 12 small red round pens",
        "Answer: 14\nThat is all.",
        "So Answer: 14",
        "Answer: " + "9" * 101,
    ],
)
def test_every_other_form_is_wrong(text: str) -> None:
    assert read_number(text) is None
