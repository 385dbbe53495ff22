"""The input kinds of procedural problems: their wordings, the code that reads them, and random inputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflectioncoder.problems.procedural.parts import ItemType

WORDS = (
    "apple bob level noon anna sun tree river stone Rain Table otter lemon radar note Orange bee salt area Nest moon "
    "tot Eel rose bat label err art Bob Stats robot eel on a Sea banana stars Lost torn oboe else be alto no"
).split()
NAMES = "ann bob lee Otto ben sara noel Tess eve abe rosa nat stan Leo anna ros tob".split()


@dataclass(frozen=True)
class Theme:
    """The words for one wording of an input.

    Args:
        param: name of the parameter.
        variables: names of the loop variables.
        item, items: English noun for an item, singular and plural.
        describe: descriptions of the input.
        key, value: nouns for the parts of a pair; empty for other kinds.
    """

    param: str
    variables: tuple[str, ...]
    item: str
    items: str
    describe: tuple[str, ...]
    key: str = ""
    value: str = ""


@dataclass(frozen=True)
class Kind:
    """An input kind.

    Args:
        key: name of the kind.
        item_type: type of its items.
        themes: its wordings.
        sequence: source of the expression that yields the items of the parameter {p}.
        parse: returns the items of an input, independently of the source text.
        sample: draws a random input, near the given constants of the problem.
        edges: inputs that are edge cases, the empty input first.
        prelude: source lines to insert before `sequence`.
        named: `prelude` to use if the sequence needs a variable name.
    """

    key: str
    item_type: ItemType
    themes: tuple[Theme, ...]
    sequence: str
    parse: Callable[[Any], list[Any]]
    sample: Callable[[random.Random, Sequence[Any]], Any]
    edges: tuple[Any, ...]
    prelude: tuple[str, ...] = ()
    named: tuple[str, ...] = ()  # prelude to use if the sequence needs a variable name


def _ints(rng: random.Random, constants: Sequence[Any], size: int | None = None) -> list[int]:
    near = [c + d for c in constants if isinstance(c, int) for d in (-1, 0, 0, 1, c)]
    chosen: list[int] = []
    for _ in range(rng.randint(3, 7) if size is None else size):
        source = rng.random()
        if chosen and source < 0.2:
            chosen.append(rng.choice(chosen[-2:]))
        elif near and source < 0.5:
            chosen.append(rng.choice(near) * rng.choice((1, 1, 1, -1)))
        else:
            chosen.append(rng.choice((rng.randint(-9, 12), rng.randint(0, 9), rng.randint(10, 36))))
    return chosen


def _digits(rng: random.Random, constants: Sequence[Any]) -> int:
    digits = [abs(n) % 10 for n in _ints(rng, constants)]
    return int("".join(map(str, digits))) * rng.choice((1, 1, 1, -1))


def _words(
    rng: random.Random, constants: Sequence[Any], vocabulary: Sequence[str] = WORDS, size: int | None = None
) -> list[str]:
    letters = {c for c in constants if isinstance(c, str)}
    near = [w for w in vocabulary if letters & set(w.lower())] or list(vocabulary)
    chosen: list[str] = []
    for _ in range(rng.randint(3, 6) if size is None else size):
        source = rng.random()
        chosen.append(rng.choice(chosen if chosen and source < 0.15 else near if source < 0.6 else vocabulary))
    return chosen


def _pairs(rng: random.Random, constants: Sequence[Any]) -> list[tuple[str, int]]:
    names = _words(rng, constants, NAMES)
    return list(zip(names, _ints(rng, constants, len(names)), strict=True))


def _matrix(rng: random.Random, constants: Sequence[Any], width: int = 0) -> list[list[int]]:
    return [_ints(rng, constants, width or rng.randint(1, 3)) for _ in range(rng.randint(3, 5))]


def _entries(pairs: Sequence[tuple[str, int]]) -> str:
    return " ".join(f"{name}:{value}" for name, value in pairs)


def _read_entries(text: str) -> list[tuple[str, int]]:
    fields = [entry.partition(":") for entry in text.split()]
    return [(name, int(value)) for name, _, value in fields]


_INT_THEMES = (
    Theme("numbers", ("n",), "number", "numbers", ("a list of integers", "a list of whole numbers")),
    Theme(
        "readings",
        ("reading",),
        "reading",
        "readings",
        ("a list of integer readings", "a list of sensor readings (integers)"),
    ),
    Theme(
        "temps",
        ("t",),
        "temperature",
        "temperatures",
        ("a list of temperatures (integers)", "a list of integer temperatures"),
    ),
    Theme("amounts", ("amount",), "amount", "amounts", ("a list of integer amounts", "a list of amounts (integers)")),
    Theme("nums", ("x",), "number", "numbers", ("an integer list", "a list of ints")),
)
_PAIR_WORDS = (
    ("scores", "name", "score", "player", "players"),
    ("stock", "item", "amount", "product", "products"),
    ("ages", "name", "age", "person", "people"),
    ("prices", "label", "price", "article", "articles"),
)


def _pair_themes(param: str, *describe: str) -> tuple[Theme, ...]:
    return tuple(
        Theme(param or plural, (key, value), item, items, tuple(d.format(k=key, v=value) for d in describe), key, value)
        for plural, key, value, item, items in _PAIR_WORDS
    )


PROBLEM_KINDS: Mapping[str, Kind] = {
    kind.key: kind
    for kind in (
        Kind("ints", "int", _INT_THEMES, "{p}", list, _ints, ([], [5], [-4], [0], [6, 6, 6], [-3, -2, -7])),
        Kind(
            "line",
            "int",
            (
                Theme("line", ("n",), "number", "numbers", ("a string of integers separated by spaces",)),
                Theme(
                    "text",
                    ("x",),
                    "number",
                    "numbers",
                    ("a string such as '4 -1 7' that holds integers", "a line of space-separated integers"),
                ),
            ),
            "numbers",
            lambda text: [int(t) for t in text.replace(" ", ",").split(",") if t],
            lambda rng, constants: " ".join(map(str, _ints(rng, constants))),
            ("", "5", "-4", "0", "6 6 6", "-3 -2 -7"),
            ("numbers = [int(part) for part in {p}.split()]",),
        ),
        Kind(
            "digits",
            "int",
            (
                Theme(
                    "n", ("d",), "digit", "digits", ("an integer, of which only the digits matter (ignore the sign)",)
                ),
                Theme(
                    "number",
                    ("digit",),
                    "digit",
                    "digits",
                    ("an integer (without its sign), digit by digit", "the decimal digits of an integer, sign ignored"),
                ),
            ),
            "digits",
            lambda n: [ord(c) - ord("0") for c in str(n) if c != "-"],
            _digits,
            (0, 7, 2, -35, 444, 1001),
            ("digits = [int(c) for c in str(abs({p}))]",),
        ),
        Kind(
            "words",
            "str",
            (
                Theme("words", ("word",), "word", "words", ("a list of words",)),
                Theme("names", ("name",), "name", "names", ("a list of names", "a list of names (non-empty strings)")),
                Theme("tags", ("tag",), "tag", "tags", ("a list of tags", "a list of non-empty tags")),
            ),
            "{p}",
            list,
            _words,
            ([], ["a"], ["Tree"], ["noon", "noon"], ["on", "be", "no"]),
        ),
        Kind(
            "text",
            "str",
            (
                Theme(
                    "text",
                    ("word",),
                    "word",
                    "words",
                    ("a string of words separated by spaces", "a text of space-separated words"),
                ),
                Theme(
                    "sentence",
                    ("w",),
                    "word",
                    "words",
                    ("a sentence without punctuation", "a sentence (words and spaces only)"),
                ),
            ),
            "{p}.split()",
            lambda text: [t for t in text.split(" ") if t],
            lambda rng, constants: " ".join(_words(rng, constants)),
            ("", "a", "Tree", "noon noon", "on be no"),
            named=("words = {p}.split()", "words"),
        ),
        Kind(
            "dict",
            "pair",
            _pair_themes("", "a dict from {k} to {v}", "a dict that maps each {k} to an integer {v}"),
            "{p}.items()",
            lambda d: [(k, d[k]) for k in d],
            lambda rng, constants: dict(_pairs(rng, constants)),
            ({}, {"bob": 5}, {"Tess": -4}, {"ann": 3, "lee": 3}),
        ),
        Kind(
            "pairs",
            "pair",
            _pair_themes("pairs", "a list of ({k}, {v}) pairs", "a list of tuples ({k}, {v})"),
            "{p}",
            list,
            _pairs,
            ([], [("bob", 5)], [("Tess", -4)], [("ann", 3), ("lee", 3)], [("ann", 4), ("ann", 1)]),
        ),
        Kind(
            "log",
            "pair",
            _pair_themes(
                "log",
                "a string of entries '{k}:{v}' separated by spaces",
                "a text like 'ann:3 bob:5' of {k}:{v} entries",
            ),
            "entries",
            _read_entries,
            lambda rng, constants: _entries(_pairs(rng, constants)),
            ("", "bob:5", "Tess:-4", "ann:3 lee:3", "ann:4 ann:1"),
            (
                "entries = []",
                "for part in {p}.split():",
                "    {k}, {v} = part.split(':')",
                "    entries.append(({k}, int({v})))",
            ),
        ),
        Kind(
            "matrix",
            "row",
            (
                Theme(
                    "matrix",
                    ("row",),
                    "row",
                    "rows",
                    ("a list of non-empty rows of integers", "a matrix (list of rows, none empty)"),
                ),
                Theme("table", ("row",), "row", "rows", ("a table (list of non-empty integer rows)",)),
            ),
            "{p}",
            list,
            _matrix,
            ([], [[5]], [[-4, 2]], [[1], [1], [1]], [[3, 3], [2, 4]]),
        ),
        Kind(
            "columns",
            "row",
            (
                Theme(
                    "grid",
                    ("column",),
                    "column",
                    "columns",
                    ("a grid (list of equally long rows)", "a list of equally long rows"),
                ),
                Theme("matrix", ("col",), "column", "columns", ("a rectangular matrix (list of rows)",)),
            ),
            "zip(*{p})",
            lambda m: [tuple(row[i] for row in m) for i in range(len(m[0]))] if m else [],
            lambda rng, constants: _matrix(rng, constants, rng.randint(3, 4))[:3],
            ([], [[5]], [[-4, 2]], [[1, 1], [1, 1]], [[3, 2], [3, 4]]),
        ),
    )
}
