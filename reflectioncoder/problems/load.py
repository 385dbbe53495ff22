"""Loads programming problems from the shipped set, JSONL, JSON and Parquet files, and Hugging Face data sets.

`procedural/problems.py` generates problems. Loading runs no code: whether a solution passes its tests is checked in the
interpreter when the problem is used.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.fields import FieldMap, column
from reflectioncoder.files.json_text import LIMITS, ReadLimits, leave_out
from reflectioncoder.files.rows import iter_rows
from reflectioncoder.files.shapes import check_text, request_of
from reflectioncoder.problems.given import split_given
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.asserts import DOCTEST, read_tests
from reflectioncoder.syntax.trees import parse

NAMED_LEVELS = {"easy": 1, "medium": 2, "hard": 3}


def handwritten() -> list[Problem]:
    """Return the problems written for this project, in their shipped order: an evaluation set, never trained on."""
    problems = []
    for name in ("handwritten_a.jsonl", "handwritten_b.jsonl"):
        text = resources.files("reflectioncoder.problems").joinpath(name).read_text(encoding="utf-8")
        for line in text.splitlines():
            row = json.loads(line)
            problems.append(
                Problem(
                    row["id"],
                    row["instruction"],
                    row["solution"],
                    tuple(row["tests"]),
                    row["entry_point"],
                    source="handwritten",
                    licence="Apache-2.0",
                    extra={"topic": row["topic"]},
                )
            )
    return problems


def load_problems(
    source: str,
    fields: FieldMap | str = "",
    split: str = "train",
    limit: int = 0,
    skipped: list[str] | None = None,
    renamed: list[str] | None = None,
    limits: ReadLimits = LIMITS,
) -> list[Problem]:
    """Load problems from a file of JSON or Parquet, a folder or a data set.

    The request is cut before the first line that starts with a doctest's `>>>`. If it does not mention the entry point,
    a sentence that names it is added. If none of the tests can be used, the problem has no tests, and `extra` says why
    under "unread_tests". Given code (`setup`) runs before every program and is no part of an answer; imports that the
    solution uses are put before it.

    Args:
        source: see `files_of`.
        fields: which columns to read: a `FieldMap`, a preset (see `PRESETS`) or pairs like
            "instruction=text,tests=test_list".
        split: split of a data set, or of a file whose field map has `ranges`; "all" ignores the ranges.
        limit: maximum number of problems; 0 means no limit.
        skipped: if given, unreadable rows are left out and the reasons are appended to it. Otherwise the first such
            row raises.
        renamed: if given, a line is appended to it for each problem that got a new id, because its own was already
            taken.
        limits: the most that one file may hold.

    Raises:
        UserError: no such source, a missing column (the message lists the columns), a bad row, or no problems.
    """
    columns = FieldMap.parse(fields) if isinstance(fields, str) else fields
    ids = _id_range(columns, split)
    name = columns.source or Path(source).name.split(".")[0]
    problems: list[Problem] = []
    places: list[str] = []
    rows = 0
    for where, row in iter_rows(source, split, limits, skipped):
        rows += 1
        try:
            if not isinstance(row, Mapping):
                raise UserError(f"expected an object with columns, found {type(row).__name__}")
            _check_columns(row, columns)
            if columns.require and not _is_required(row, columns.require):
                continue
            if ids is not None and not ids[0] <= _number(row, columns.id) <= ids[1]:
                continue
            problems.append(_problem(row, columns, f"{name}/{rows}", name))
            places.append(where)
        except (ValueError, RecursionError) as error:  # a UserError, or what Python's parser cannot take
            reason = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
            leave_out(f"{where}: {reason}", skipped)
        if limit and len(problems) == limit:
            break
    if not problems:
        reason = f"; the first of {len(skipped)} bad rows: {skipped[0]}" if skipped else ""
        raise UserError(f"{source}: no problems in its {rows} rows{reason}")
    return _with_unique_ids(problems, places, renamed)


def _with_unique_ids(problems: list[Problem], places: Sequence[str], renamed: list[str] | None) -> list[Problem]:
    """Give every problem an id of its own, as a build needs it. A made-up id is none that any row has."""
    taken = {problem.id for problem in problems}
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    found = []
    for problem, where in zip(problems, places, strict=True):
        id = problem.id
        if id in first:
            count = counts.get(id, 1) + 1
            while f"{id}#{count}" in taken:
                count += 1
            counts[id] = count
            if renamed is not None:
                renamed.append(f"{where}: id '{id}' is that of {first[id]} too; kept as '{id}#{count}'")
            problem = dataclasses.replace(problem, id=f"{id}#{count}")
            taken.add(problem.id)
        else:
            first[id] = where
        found.append(problem)
    return found


def _is_required(row: Mapping[str, Any], require: str) -> bool:
    name, equals, value = require.partition("=")
    return str(column(row, name)) == value if equals else bool(column(row, name))


def _number(row: Mapping[str, Any], name: str) -> int:
    try:
        return int(column(row, name))
    except (TypeError, ValueError):
        raise UserError(f"column '{name}' must hold a number, because the split is a range of ids") from None


def _check_columns(row: Mapping[str, Any], columns: FieldMap) -> None:
    for part in ("instruction", "id", "solution", "tests", "entry_point", "setup", "level", "require"):
        name = columns.names(part).partition("=")[0]
        if name and name not in row and name.split(".")[0] not in row:
            raise UserError(f"no column '{name}' for '{part}'; there are {', '.join(map(str, row))}")


def _id_range(columns: FieldMap, split: str) -> tuple[int, int] | None:
    """Return the first and last id of a split; None if all rows belong to it."""
    if not columns.ranges or split == "all":
        return None
    ranges = dict(item.split(":", 1) for item in columns.ranges.split() if ":" in item)
    if split not in ranges:
        raise UserError(f"no split '{split}'; there are {', '.join(ranges)}, all")
    try:
        low, high = map(int, ranges[split].split("-"))
    except ValueError:
        raise UserError(f"fields: range '{ranges[split]}' of split '{split}' is not first-last") from None
    return low, high


def _text(row: Mapping[str, Any], name: str) -> str:
    value = column(row, name) if name else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"column '{name}' must hold text, found {type(value).__name__}")
    return value.replace("\r\n", "\n")


def _problem(row: Mapping[str, Any], columns: FieldMap, number: str, name: str) -> Problem:
    expression = _text(row, columns.entry_point).strip()
    given, solution = split_given(_text(row, columns.setup), _text(row, columns.solution))
    try:
        if expression:
            parse(expression, "eval")
        found = read_tests(column(row, columns.tests) if columns.tests else None, expression)
    except (UserError, SyntaxError) as error:
        raise UserError(f"tests: {error}") from None
    tests = found.asserts
    entry_point = expression.split("(")[0].split(".")[0].strip() or _entry_point(tests, solution)
    if entry_point and not entry_point.isidentifier():
        raise UserError(f"column '{columns.entry_point}' must hold a name or an expression like Solution().f")
    request = request_of(row, columns)
    if request is None:
        raise UserError(f"no column 'instruction' for 'instruction'; there are {', '.join(map(str, row))}")
    instruction = DOCTEST.split(request.replace("\r\n", "\n"), maxsplit=1)[0].strip()
    if not instruction:
        raise UserError(f"column '{columns.instruction or 'messages'}' has no text to use as an instruction")
    if entry_point and not _mentions(instruction, entry_point):
        kind = "class" if f"class {entry_point}" in solution else "function"
        instruction += f"\n\nThe {kind} should be called `{entry_point}`."
    id = column(row, columns.id) if columns.id else None
    level = column(row, columns.level) if columns.level else None
    id = number if id is None or id == "" else str(id)
    check_text(id, instruction, solution, given, entry_point, *tests)
    return Problem(
        id,
        instruction,
        solution or None,
        tests,
        entry_point or None,
        name,
        columns.licence,
        level if isinstance(level, int) else NAMED_LEVELS.get(str(level).lower()),
        extra={"unread_tests": found.unread} if found.unread else {},
        given=given,
    )


def _mentions(text: str, name: str) -> bool:
    """Whether a text mentions a function as code, or by a name that cannot be an ordinary word."""
    spelled = "_" in name or not name.islower()
    name = re.escape(name)
    marked = rf"`{name}\b|\b{name}\s?\(|\b(def|class|named|called)\s+{name}\b"
    return bool(re.search(rf"\b{name}\b" if spelled else marked, text))


def _entry_point(tests: Sequence[str], solution: str) -> str:
    """Return the first function or class of the solution that the tests call; "" if there is none."""
    own = set()
    if solution:
        body: list[ast.stmt] = parse(solution).body  # type: ignore[attr-defined]
        own = {item.name for item in body if isinstance(item, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))}
    for test in tests:
        for node in ast.walk(parse(test)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (not own or node.func.id in own):
                return node.func.id
    return ""
