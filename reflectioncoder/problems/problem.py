"""The data class of a programming problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class GivenMistake(NamedTuple):
    """A mistake that a problem brings along, to be planted in its solution: one line is replaced.

    Args:
        kind: name of the kind of mistake, for provenance.
        line: number of the line of the solution, from 1.
        wrong: what stands in its place, with its indentation.
        cause: what is wrong, as a clause.
        repair: what to do, as an imperative.
    """

    kind: str
    line: int
    wrong: str
    cause: str
    repair: str


@dataclass(frozen=True)
class Problem:
    """A programming problem: an instruction and, if available, what is needed to check an answer.

    Args:
        id: unique name within its source.
        instruction: the request, as a user would write it.
        solution: reference code that passes `tests` after the given code.
        tests: source of single `assert` statements. Each runs on its own after the solution.
        entry_point: name of the function or class that the tests use.
        source: name of the data set.
        licence: licence of the instruction and the solution.
        level: difficulty from 1; None if unknown.
        extra: further fields of the source.
        given: code that the environment provides, such as the classes of a tree; it runs before every program and is no
            part of an answer.
        answer: the final answer, where that is text with a number (`syntax/answers/number.py`) and not the solution;
            `entry_point` is then a function without parameters that returns the number.
        plan: text before the first attempt of a reflection sequence; may be empty.
        mistakes: what `--sampler mutation` plants; without them it looks for bugs of the kinds in `BUG_KINDS`.

    Example:
        Problem("double", "Write `double(x)`.", "def double(x):\\n    return 2 * x\\n", ("assert double(3) == 6",))
    """

    id: str
    instruction: str
    solution: str | None = None
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    source: str = ""
    licence: str = ""
    level: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    given: str = ""
    answer: str = ""
    plan: str = ""
    mistakes: tuple[GivenMistake, ...] = ()
