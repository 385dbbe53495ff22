"""The maps and rules of the procedural problems, and the values that can be taken from a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reflectioncoder.problems.procedural.parts import LETTERS, Map, Rule

MAPS: Mapping[str, Mapping[str, Map]] = {
    "int": {
        m.key: m
        for m in (
            Map(
                "square",
                "{x} ** 2",
                ("the squares of {X}",),
                ("square each one", "replace each by its square"),
                "squares",
                lambda x: x * x,
            ),
            Map(
                "cube",
                "{x} ** 3",
                ("the cubes of {X}",),
                ("cube each one", "raise each to the third power"),
                "cubes",
                lambda x: x * x * x,
            ),
            Map(
                "times",
                "{x} * {a}",
                ("{a} times each of {X}", "{X}, each multiplied by {a}"),
                ("multiply each by {a}", "take {a} times each"),
                "scaled",
                lambda x, a: sum([x] * a),
                tuple((a,) for a in range(2, 6)),
            ),
            Map(
                "plus",
                "{x} + {a}",
                ("{X}, each increased by {a}", "{X} with {a} added to each"),
                ("add {a} to each", "increase each by {a}"),
                "raised",
                lambda x, a: a + x,
                tuple((a,) for a in range(1, 7)),
            ),
            Map(
                "minus",
                "{x} - {a}",
                ("{X}, each decreased by {a}", "{X} with {a} subtracted from each"),
                ("subtract {a} from each", "lower each by {a}"),
                "lowered",
                lambda x, a: -(a - x),
                tuple((a,) for a in range(1, 7)),
            ),
            Map(
                "neg",
                "-{x}",
                ("the negations of {X}", "{X} with the sign flipped"),
                ("flip the sign of each", "negate each"),
                "negated",
                lambda x: 0 - x,
            ),
            Map(
                "abs",
                "abs({x})",
                ("the absolute values of {X}",),
                ("take the absolute value of each", "drop the sign of each"),
                "absolute",
                lambda x: max(x, -x),
            ),
            Map(
                "mod",
                "{x} % {a}",
                ("the remainders of {X} modulo {a}", "{X} modulo {a}"),
                ("take each modulo {a}", "replace each by its remainder modulo {a}"),
                "remainders",
                lambda x, a: x - x // a * a,
                ((3,), (4,), (5,), (7,)),
            ),
            Map(
                "half",
                "{x} // {a}",
                ("{X} floor-divided by {a}", "{X}, each divided by {a} and rounded down"),
                ("floor-divide each by {a}", "divide each by {a}, rounding down"),
                "divided",
                lambda x, a: (x - x % a) // a,
                ((2,), (3,), (4,)),
            ),
            Map(
                "distance",
                "abs({x} - {a})",
                ("the distances of {X} from {a}", "the absolute differences between {X} and {a}"),
                ("take the distance of each to {a}", "replace each by its distance from {a}"),
                "distances",
                lambda x, a: max(x, a) - min(x, a),
                tuple((a,) for a in range(2, 8)),
            ),
            Map(
                "cap",
                "min({x}, {a})",
                ("{X}, each capped at {a}", "{X}, with larger ones lowered to {a}"),
                ("cap each at {a}", "lower those above {a} to {a}"),
                "capped",
                lambda x, a: a if x > a else x,
                tuple((a,) for a in range(3, 8)),
            ),
            Map(
                "floor",
                "max({x}, {a})",
                ("{X}, each raised to at least {a}", "{X}, with smaller ones raised to {a}"),
                ("raise those below {a} to {a}", "replace anything below {a} by {a}"),
                "floored",
                lambda x, a: a if x < a else x,
                tuple((a,) for a in range(1, 6)),
            ),
        )
    },
    "str": {
        m.key: m
        for m in (
            Map(
                "upper",
                "{x}.upper()",
                ("{X} in upper case", "{X} in capitals"),
                ("make each upper case", "turn each into capitals"),
                "upper",
                lambda x: "".join(c.upper() for c in x),
                result="str",
            ),
            Map(
                "reverse",
                "{x}[::-1]",
                ("{X} written backwards", "the reversals of {X}"),
                ("reverse each", "write each backwards"),
                "reversed",
                lambda x: "".join(reversed(x)),
                result="str",
            ),
            Map(
                "first",
                "{x}[:{a}]",
                ("the first {a} letters of each of {X}",),
                ("keep the first {a} letters of each", "cut each to {a} letters"),
                "prefixes",
                lambda x, a: "".join(c for i, c in enumerate(x) if i < a),
                ((2,), (3,)),
                "str",
            ),
            Map(
                "tail",
                "{x}[1:]",
                ("{X} without their first letter",),
                ("drop the first letter of each", "remove the first letter from each"),
                "tails",
                lambda x: x.replace(x[0], "", 1),
                result="str",
            ),
            Map(
                "last",
                "{x}[-1]",
                ("the last letters of {X}", "the final letters of {X}"),
                ("take the last letter of each", "keep only its last letter"),
                "last_letters",
                lambda x: list(x).pop(),
                result="str",
            ),
            Map(
                "without",
                "{x}.replace({a!r}, '')",
                ("{X} with every '{a}' removed",),
                ("remove every '{a}' from each", "delete each '{a}' in it"),
                "cleaned",
                lambda x, a: "".join(c for c in x if c != a),
                LETTERS,
                "str",
            ),
            Map(
                "star",
                "{x}.replace({a!r}, '*')",
                ("{X} with every '{a}' turned into '*'",),
                ("replace every '{a}' by '*'", "turn each '{a}' into '*'"),
                "masked",
                lambda x, a: "".join("*" if c == a else c for c in x),
                LETTERS,
                "str",
            ),
            Map(
                "len",
                "len({x})",
                ("the lengths of {X}",),
                ("take the length of each", "replace each by its length"),
                "lengths",
                lambda x: sum(1 for _ in x),
            ),
            Map(
                "vowels",
                "sum(c in 'aeiou' for c in {x}.lower())",
                ("the vowel counts of {X}", "the numbers of vowels in {X}"),
                ("count the vowels of each", "replace each by its number of vowels"),
                "vowels",
                lambda x: sum(x.count(c) for c in "aeiouAEIOU"),
            ),
            Map(
                "count",
                "{x}.count({a!r})",
                ("the counts of '{a}' in each of {X}",),
                ("count the '{a}'s in each", "replace each by how many '{a}'s it has"),
                "counts",
                lambda x, a: sum(c == a for c in x),
                LETTERS,
            ),
        )
    },
}


def _stop(items: list[Any], test: Callable[[Any], bool]) -> list[Any]:
    found = [index for index, item in enumerate(items) if test(item)]
    return items[: found[0]] if found else items


_LISTS = frozenset({"ints", "line", "digits", "words", "text", "pairs", "log", "matrix"})
_FLAT = frozenset({"ints", "line", "digits", "words", "text"})
_INTS = frozenset({"ints", "line"})

RULES = (
    Rule(
        "take",
        ("Only look at the first {a} {items}.", "Use just the first {a} {items}."),
        lambda s, a: [i for n, i in enumerate(s) if n < a],
        "{s}[:{a}]",
        constants=((3,), (4,)),
        kinds=_LISTS,
    ),
    Rule(
        "skip",
        ("Ignore the first {item}.", "Leave out the first {item}."),
        lambda s: [i for n, i in enumerate(s) if n],
        "{s}[1:]",
        kinds=_LISTS,
    ),
    Rule(
        "alternate",
        (
            "Use only every second {item}, starting with the first.",
            "Look only at {items} at even positions (0, 2, ...).",
        ),
        lambda s: [i for n, i in enumerate(s) if n in range(0, 99, 2)],
        "{s}[::2]",
        kinds=_LISTS,
    ),
    Rule(
        "odd_places",
        ("Use only {items} at odd indices (1, 3, ...).", "Look only at the second, fourth, sixth, ... {item}."),
        lambda s: [i for n, i in enumerate(s) if n in range(1, 99, 2)],
        "{s}[1::2]",
        kinds=_LISTS,
    ),
    Rule(
        "backwards",
        ("Go from the last {item} to the first.", "Process the {items} in reverse order."),
        lambda s: list(reversed(s)),
        "{s}[::-1]",
        kinds=_LISTS,
        needs="order",
    ),
    Rule(
        "distinct",
        ("Use repeated {items} only once, at their first place.", "Of equal {items}, keep only the first."),
        lambda s: [i for n, i in enumerate(s) if i not in s[:n]],
        "dict.fromkeys({s})",
        kinds=_FLAT,
        needs="multiplicity",
    ),
    Rule(
        "rising",
        (
            "Only {items} larger than the {item} right before count.",
            "Skip the first {item} and any that is not above its predecessor.",
        ),
        lambda s: [i for n, i in enumerate(s) if n and i > s[n - 1]],
        previous="{x} > {p}",
        kinds=_INTS | {"digits"},
    ),
    Rule(
        "changed",
        (
            "Only {items} different from the {item} right before count; the first never does.",
            "Skip the first {item} and any equal to its predecessor.",
        ),
        lambda s: [i for n, i in enumerate(s) if n and i != s[n - 1]],
        previous="{x} != {p}",
        kinds=_FLAT,
    ),
    Rule(
        "until_negative",
        ("Stop at the first negative {item}.", "Nothing from the first negative {item} on counts."),
        lambda s: _stop(s, lambda i: i < 0),
        stop="{x} < 0",
        kinds=_INTS,
    ),
    Rule(
        "until_zero",
        ("Stop at the first 0.", "Ignore the first 0 and everything after it."),
        lambda s: _stop(s, lambda i: i == 0),
        stop="{x} == 0",
        kinds=_INTS | {"digits"},
    ),
    Rule(
        "until_above",
        ("Stop before the first {item} above {a}.", "Ignore everything from the first {item} greater than {a} on."),
        lambda s, a: _stop(s, lambda i: i > a),
        stop="{x} > {a}",
        constants=((7,), (8,), (9,)),
        kinds=_INTS,
    ),
    Rule(
        "until_long",
        (
            "Stop at the first {item} with more than {a} letters.",
            "Ignore everything from the first {item} longer than {a} letters on.",
        ),
        lambda s, a: _stop(s, lambda i: len(i) > a),
        stop="len({x}) > {a}",
        constants=((4,), (5,)),
        kinds=frozenset({"words", "text"}),
    ),
    Rule(
        "until_letter",
        ("Stop at the first {item} that contains '{a}'.", "Ignore everything from the first {item} with an '{a}' on."),
        lambda s, a: _stop(s, lambda i: a in i),
        stop="{a!r} in {x}",
        constants=LETTERS,
        kinds=frozenset({"words", "text"}),
    ),
    Rule(
        "last_wins",
        (
            "If a {key} occurs twice, only the last entry counts.",
            "A later entry replaces an earlier one with the same {key}.",
        ),
        lambda s: [i for n, i in enumerate(s) if i[0] not in [j[0] for j in s[n + 1 :]]],
        "dict({s}).items()",
        kinds=frozenset({"pairs", "log"}),
        needs="no order",
    ),
    Rule(
        "until_low",
        (
            "Stop at the first {item} with a {value} below {a}.",
            "Ignore everything from the first {value} below {a} on.",
        ),
        lambda s, a: _stop(s, lambda i: i[1] < a),
        stop="{v} < {a}",
        constants=((0,), (1,), (2,)),
        kinds=frozenset({"dict", "pairs", "log"}),
    ),
)


ROW_VIEWS: Mapping[str, tuple[str, str, Callable[[Any], int]]] = {
    "sum": ("sum({x})", "sums", lambda r: sum(r)),
    "maximum": ("max({x})", "maxima", lambda r: sorted(r)[-1]),
    "minimum": ("min({x})", "minima", lambda r: sorted(r)[0]),
    "first element": ("{x}[0]", "first elements", lambda r: next(iter(r))),
    "last element": ("{x}[-1]", "last elements", lambda r: list(r).pop()),
}
