"""Reads the number in an answer to a word problem.

The rule: the last line with text is `Answer:` and one number, in digits. A thousands separator is a comma before every
three digits, the decimal separator is a full stop. A currency sign may stand beside the number, and a unit of at most
three words after a blank; a full stop may end the line, and Markdown emphasis may surround it. Everything else has the
wrong form: no such line, two numbers, a fraction, a power, a percent sign, or a word that changes the value, as in "12
hundred".
"""

from __future__ import annotations

import re
from fractions import Fraction

MOST_FIGURES = 100
# Words after a number that say that it is another one.
AMOUNTS = frozenset(
    "and or to minus plus times over by point half halves third thirds quarter quarters dozen dozens score hundred"
    " hundreds thousand thousands million millions billion billions trillion percent per cent k m bn pi".split()
)
_MARK = r"[*_`\s]*"
_LINE = re.compile(
    rf"{_MARK}answer{_MARK}:{_MARK}"
    r"(?P<sign>[-+\u2212])?[$€£]?(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)[ ]?[$€£]?"
    rf"(?P<unit>(?:\s+[^\W\d_]+){{0,3}})\.?{_MARK}",
    re.IGNORECASE,
)


def read_number(text: str) -> Fraction | None:
    """Return the number of an answer, exactly; None if the answer does not have the form of the rule above."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = _LINE.fullmatch(lines[-1]) if lines else None
    if found is None or len(found["number"]) > MOST_FIGURES or AMOUNTS & set(found["unit"].lower().split()):
        return None
    if not found["number"].isascii():
        return None
    number = Fraction(found["number"].replace(",", ""))
    return -number if found["sign"] in ("-", "\u2212") else number
