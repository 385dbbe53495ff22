"""Generators of problems by name: `build --problems NAME` and `pretrain --family NAME` take every name here.

Add yours to `GENERATORS`, or from outside the package with `GENERATORS.add`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from reflectioncoder.errors import UserError
from reflectioncoder.problems import arithmetic
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural import problems as procedural
from reflectioncoder.problems.procedural.families import FAMILIES, Family, Split
from reflectioncoder.registry import Registry


@dataclass(frozen=True)
class Generator:
    """A source of problems that are made, not read. All arguments are (seed, split, levels).

    Args:
        problems: yields distinct problems; the same seed, split and levels always give the same ones, and no problem of
            one split is like one of another.
        texts: yields instructions with their answers without end, for the documents of `pretrain`; None if there is no
            split `pretrain`.
    """

    problems: Callable[[int, Split, Sequence[int]], Iterator[Problem]]
    texts: Callable[[int, Split, Sequence[int]], Iterator[tuple[str, str]]] | None = None


def _procedural(family: Family) -> Generator:
    def texts(seed: int, split: Split, levels: Sequence[int]) -> Iterator[tuple[str, str]]:
        for instruction, solution in procedural.iter_texts(seed, split, levels, family):
            yield instruction, f"```python\n{solution}```"

    return Generator(partial(procedural.iter_problems, family=family), texts)


GENERATORS: Registry[Generator] = Registry(
    "generator of problems",
    {
        **{name: _procedural(family) for name, family in FAMILIES.items()},
        "arithmetic": Generator(arithmetic.iter_story_problems, arithmetic.iter_story_texts),
        # add yours here
    },
)


def generated_problems(name: str, count: int, seed: int, split: Split, levels: Sequence[int]) -> list[Problem]:
    """Return the first `count` problems of a generator; a longer list begins with every shorter one.

    Raises:
        UserError: an unknown generator, split or level, or `count` exceeds the number of problems.
    """
    if count < 0:
        raise UserError(f"count of {name} problems must not be negative, got {count}")
    return list(itertools.islice(GENERATORS.choose(name).problems(seed, split, levels), count))
