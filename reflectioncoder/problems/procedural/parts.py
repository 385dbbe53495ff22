"""The vocabulary of the procedural problems: the types of parts, and the filters.

Each part expresses the same thing three times: in English (`says`, `np`, `them`), in Python source (`code`, `lines`,
`acc`) and as a plain function (`fn`). The solution is built from the source, the expected values from the functions, so
that the two check each other. In source and English, `{x}` is the item, `{a}` and `{b}` are the constants. Not every
combination of parts makes sense; `problems.py` rejects the others. Maps and rules are in `maps.py`, reductions in
`reductions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

ItemType = Literal["int", "str", "pair", "row"]
Constants = tuple[Any, ...]
NONE: tuple[Constants, ...] = ((),)


@dataclass(frozen=True)
class ItemFilter:
    """A predicate on a number or a string; `says` holds singular verb phrases ("is even")."""

    key: str
    code: str
    says: tuple[str, ...]
    name: str
    fn: Callable[..., bool]
    constants: tuple[Constants, ...] = NONE
    adjective: str = ""
    digits: bool = True  # False if it makes no sense on single digits


@dataclass(frozen=True)
class Map:
    """A function of one item; `np` holds noun phrases around {X}, `does` imperatives that apply to each item."""

    key: str
    code: str
    np: tuple[str, ...]
    does: tuple[str, ...]
    name: str
    fn: Callable[..., Any]
    constants: tuple[Constants, ...] = NONE
    result: Literal["int", "str"] = "int"


@dataclass(frozen=True)
class Rule:
    """Selects the items that are looked at, and their order.

    `code` rewrites the sequence {s}, `stop` is the condition that ends the loop, and `previous` compares the item with
    the one before it, {p}.
    """

    key: str
    says: tuple[str, ...]
    fn: Callable[..., list[Any]]
    code: str = ""
    stop: str = ""
    previous: str = ""
    constants: tuple[Constants, ...] = NONE
    kinds: frozenset[str] = frozenset()
    needs: Literal["", "order", "multiplicity", "no order"] = ""


@dataclass(frozen=True)
class Reduction:
    """Computes the answer from the mapped items.

    There are up to three source forms: `lines` compute the answer from the list {v}, `inline` takes a generator
    expression {g}, and `acc` is (start, step, answer) of an explicit loop over elements {e}. `empty` is "natural" if
    the empty case needs no explanation in the text, and "needs" if it does.
    """

    key: str
    np: tuple[str, ...]
    them: tuple[str, ...]
    name: str
    fn: Callable[[list[Any]], Any]
    lines: tuple[str, ...]
    inline: str = ""
    acc: tuple[tuple[str, ...], tuple[str, ...], str] | None = None
    empty: Literal["natural", "needs"] = "natural"
    too_few: Callable[[list[Any]], bool] = field(default=lambda items: not items)
    guard: str = "not {v}"
    missing: str = ""
    ordered: bool = False
    multiplicity: bool = True
    values: bool = True
    weight: int = 0


def _filters(*parts: ItemFilter) -> Mapping[str, ItemFilter]:
    return {part.key: part for part in parts}


INT_FILTERS = _filters(
    ItemFilter(
        "even", "{x} % 2 == 0", ("is even", "is divisible by 2"), "even", lambda x: x % 2 == 0, adjective="even"
    ),
    ItemFilter("odd", "{x} % 2 != 0", ("is odd", "is not even"), "odd", lambda x: x % 2 == 1, adjective="odd"),
    ItemFilter("pos", "{x} > 0", ("is positive", "is above zero"), "positive", lambda x: x > 0, adjective="positive"),
    ItemFilter(
        "neg", "{x} < 0", ("is negative", "is below zero"), "negative", lambda x: x < 0, NONE, "negative", False
    ),
    ItemFilter(
        "gt",
        "{x} > {a}",
        ("is greater than {a}", "is above {a}", "exceeds {a}"),
        "above_{a}",
        lambda x, a: x > a,
        tuple((a,) for a in range(1, 8)),
    ),
    ItemFilter(
        "lt",
        "{x} < {a}",
        ("is less than {a}", "is below {a}"),
        "below_{a}",
        lambda x, a: x < a,
        tuple((a,) for a in range(3, 10)),
    ),
    ItemFilter(
        "ge",
        "{x} >= {a}",
        ("is at least {a}", "is {a} or more"),
        "from_{a}",
        lambda x, a: not x < a,
        tuple((a,) for a in range(2, 9)),
    ),
    ItemFilter(
        "le",
        "{x} <= {a}",
        ("is at most {a}", "is not greater than {a}"),
        "up_to_{a}",
        lambda x, a: not x > a,
        tuple((a,) for a in range(2, 9)),
    ),
    ItemFilter(
        "div",
        "{x} % {a} == 0",
        ("is divisible by {a}", "is a multiple of {a}"),
        "multiple_of_{a}",
        lambda x, a: x // a * a == x,
        ((3,), (4,), (5,)),
    ),
    ItemFilter(
        "notdiv",
        "{x} % {a} != 0",
        ("is not divisible by {a}", "is not a multiple of {a}"),
        "not_multiple_of_{a}",
        lambda x, a: x // a * a != x,
        ((3,), (4,), (5,)),
    ),
    ItemFilter(
        "rem",
        "{x} % {b} == {a}",
        ("leaves remainder {a} when divided by {b}", "has remainder {a} modulo {b}"),
        "mod_{b}",
        lambda x, a, b: (x - a) / b == (x - a) // b,
        ((1, 3), (2, 3), (1, 4), (3, 4), (2, 5)),
    ),
    ItemFilter(
        "between",
        "{a} <= {x} <= {b}",
        ("is between {a} and {b} inclusive", "lies from {a} to {b} (both included)"),
        "in_range",
        lambda x, a, b: x in range(a, b + 1),
        ((1, 5), (2, 6), (2, 8), (3, 7), (4, 9)),
    ),
    ItemFilter(
        "outside",
        "{x} < {a} or {x} > {b}",
        ("is less than {a} or greater than {b}", "lies outside {a} to {b}"),
        "outside",
        lambda x, a, b: x not in range(a, b + 1),
        ((2, 5), (3, 6), (4, 7)),
    ),
    ItemFilter(
        "ne",
        "{x} != {a}",
        ("is not {a}", "differs from {a}"),
        "not_{a}",
        lambda x, a: x != a,
        tuple((a,) for a in range(1, 8)),
    ),
    ItemFilter(
        "absgt",
        "abs({x}) > {a}",
        ("has an absolute value above {a}", "is more than {a} away from zero"),
        "far",
        lambda x, a: x < -a or x > a,
        ((2,), (3,), (4,), (5,)),
        digits=False,
    ),
    ItemFilter(
        "lastdigit",
        "abs({x}) % 10 == {a}",
        ("ends in the digit {a}", "has {a} as its last digit"),
        "ending_in_{a}",
        lambda x, a: str(x)[-1] == str(a),
        tuple((a,) for a in range(1, 8)),
        digits=False,
    ),
    ItemFilter(
        "square",
        "{x} in (0, 1, 4, 9, 16, 25)",
        ("is a perfect square up to 25", "is one of 0, 1, 4, 9, 16, 25"),
        "square",
        lambda x: 0 <= x <= 25 and isqrt(x) ** 2 == x,
        digits=False,
    ),
    ItemFilter(
        "prime",
        "{x} in (2, 3, 5, 7)",
        ("is 2, 3, 5 or 7", "is a prime below 10"),
        "small_prime",
        lambda x: 1 < x < 10 and all(x % d for d in range(2, x)),
    ),
    ItemFilter(
        "onedigit",
        "abs({x}) < 10",
        ("has one digit", "has a single digit"),
        "one_digit",
        lambda x: len(str(x).lstrip("-")) == 1,
        digits=False,
    ),
)

LETTERS: tuple[Constants, ...] = tuple((c,) for c in "abelnorst")

STR_FILTERS = _filters(
    ItemFilter(
        "starts",
        "{x}.startswith({a!r})",
        ("starts with '{a}'", "begins with the letter '{a}'"),
        "starting_{a}",
        lambda x, a: x[0] == a,
        LETTERS,
    ),
    ItemFilter(
        "starts_ci",
        "{x}[0].lower() == {a!r}",
        ("starts with '{a}' or '{A}'", "starts with '{a}' (ignore case)"),
        "starting_{a}",
        lambda x, a: x[0] in (a, a.upper()),
        LETTERS,
    ),
    ItemFilter(
        "ends",
        "{x}.endswith({a!r})",
        ("ends with '{a}'", "has '{a}' as its last letter"),
        "ending_{a}",
        lambda x, a: x[-1] == a,
        LETTERS,
    ),
    ItemFilter(
        "contains",
        "{a!r} in {x}",
        ("contains '{a}'", "has the letter '{a}' in it"),
        "with_{a}",
        lambda x, a: x.find(a) >= 0,
        LETTERS,
    ),
    ItemFilter(
        "contains_ci",
        "{a!r} in {x}.lower()",
        ("contains '{a}' in either case", "contains '{a}' (ignore case)"),
        "with_{a}",
        lambda x, a: a in x or a.upper() in x,
        LETTERS,
    ),
    ItemFilter(
        "lacks",
        "{a!r} not in {x}",
        ("does not contain '{a}'", "is without the letter '{a}'"),
        "without_{a}",
        lambda x, a: x.count(a) == 0,
        LETTERS,
    ),
    ItemFilter(
        "longer",
        "len({x}) > {a}",
        ("has more than {a} letters", "is longer than {a} letters"),
        "long",
        lambda x, a: x[a:] != "",
        ((2,), (3,), (4,)),
    ),
    ItemFilter(
        "shorter",
        "len({x}) < {a}",
        ("has fewer than {a} letters", "is shorter than {a} letters"),
        "short",
        lambda x, a: x[a - 1 :] == "",
        ((3,), (4,), (5,)),
    ),
    ItemFilter(
        "length",
        "len({x}) == {a}",
        ("has exactly {a} letters", "is {a} letters long"),
        "{a}_letter",
        lambda x, a: sum(1 for _ in x) == a,
        ((3,), (4,), (5,)),
    ),
    ItemFilter(
        "evenlen",
        "len({x}) % 2 == 0",
        ("has an even length", "has an even number of letters"),
        "even_length",
        lambda x: len(x) in range(0, 99, 2),
    ),
    ItemFilter(
        "oddlen",
        "len({x}) % 2 == 1",
        ("has an odd length", "has an odd number of letters"),
        "odd_length",
        lambda x: len(x) in range(1, 99, 2),
    ),
    ItemFilter(
        "vowel",
        "{x}[0].lower() in 'aeiou'",
        ("starts with a vowel", "begins with a vowel of either case"),
        "vowel",
        lambda x: x[0] in "aeiouAEIOU",
    ),
    ItemFilter(
        "capital",
        "{x}[0].isupper()",
        ("starts with a capital letter", "is capitalised"),
        "capital",
        lambda x: "A" <= x[0] <= "Z",
    ),
    ItemFilter(
        "lower", "{x}.islower()", ("is all lower case", "has no capital letter"), "lowercase", lambda x: x == x.lower()
    ),
    ItemFilter(
        "palindrome",
        "{x} == {x}[::-1]",
        ("is a palindrome", "reads the same backwards"),
        "palindrome",
        lambda x: all(x[i] == x[-1 - i] for i in range(len(x))),
    ),
    ItemFilter(
        "sameends",
        "{x}[0] == {x}[-1]",
        ("starts and ends with the same letter", "has equal first and last letters"),
        "same_ends",
        lambda x: x.startswith(x[-1]),
    ),
    ItemFilter(
        "unique",
        "len(set({x})) == len({x})",
        ("has no repeated letter", "has only different letters"),
        "unique_letter",
        lambda x: all(x.count(c) == 1 for c in x),
    ),
)
