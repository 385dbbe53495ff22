"""A problem: instruction, and optionally solution, tests, entry point, source and licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """An instruction, and where known a way to check an answer.

    Args:
        id: unique name within its source.
        instruction: the request, as a user would write it.
        solution: reference code that passes `tests`, standing alone.
        tests: single `assert` statements as source text, each of which stands alone after the solution.
        entry_point: name of the function or class that the tests use.
        source: name of the data set.
        licence: of the problem's text and solution.
        level: difficulty from 1, where known.
        extra: whatever else the source says.
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
