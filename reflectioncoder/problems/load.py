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
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.rows import iter_rows
from reflectioncoder.problems.given import split_given
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.asserts import DOCTEST, read_tests
from reflectioncoder.syntax.trees import parse


@dataclass(frozen=True)
class FieldMap:
    """Which column of a row holds which part of a problem.

    A dotted name addresses nested objects. In a list of messages, a role addresses the first message of that role, as
    in "messages.user". A column that is named explicitly must exist; one with a default name may be missing, except the
    instruction. A part with an empty column name is not read.

    Args:
        instruction: the request. It is cut before the first line that starts with a doctest's `>>>`. If it does not
            mention the entry point, a sentence that names it is added.
        id: id of the problem; without it, problems are numbered.
        solution: reference code; a block under `if __name__ == "__main__"` is removed.
        tests: tests, in any format of `split_tests`. If none of them can be used, the problem has no tests, and `extra`
            says why under "unread_tests".
        entry_point: name, or an expression such as `Solution().twoSum`; if empty, it is inferred from the tests.
        setup: given code, which runs before every program and is no part of an answer. Imports that the solution uses
            are put before it.
        level: difficulty, a number from 1 or one of easy, medium, hard.
        require: column that must be true, or "column=value"; other rows are left out.
        ranges: for files that contain all splits: first and last id of each, as in "train:601-974 test:11-510".
        source: name of the data set; by default the file name.
        licence: licence of its problems.
    """

    instruction: str = "instruction"
    id: str = "id"
    solution: str = "solution"
    tests: str = "tests"
    entry_point: str = "entry_point"
    setup: str = ""
    level: str = ""
    require: str = ""
    ranges: str = ""
    source: str = ""
    licence: str = ""

    @classmethod
    def parse(cls, text: str) -> FieldMap:
        """Parse a preset name, pairs like "instruction=text,tests=test_list", or both, separated by commas.

        Raises:
            UserError: unknown preset or part; the message lists the known ones.
        """
        chosen = cls()
        parts = {item.name for item in dataclasses.fields(cls)}
        for item in filter(None, (item.strip() for item in text.split(","))):
            key, equals, value = (piece.strip() for piece in item.partition("="))
            if not equals and key in PRESETS:
                chosen = PRESETS[key]
            elif not equals:
                raise UserError(f"fields: unknown preset '{key}'; use {', '.join(PRESETS)}, or write part=column")
            elif key not in parts:
                raise UserError(f"fields: unknown part '{key}'; use one of {', '.join(sorted(parts))}")
            else:
                chosen = dataclasses.replace(chosen, **{key: value})
        return chosen


LEETCODE_COLUMNS = FieldMap(
    "query", "task_id", "completion", "test", "entry_point", setup="prompt", level="meta.difficulty",
    source="LeetCodeDataset", licence="MIT (statements: LeetCode)",
)  # fmt: skip
THEALGORITHMS_COLUMNS = FieldMap(
    "docstring", "task_id", "module_source", "examples", "entry_point", require="doctest_pass",
    source="TheAlgorithms", licence="MIT",
)  # fmt: skip
MBPP_COLUMNS = FieldMap(
    "text", "task_id", "code", "test_list", "", setup="test_setup_code",
    ranges="train:601-974 validation:511-600 test:11-510 prompt:1-10", source="MBPP", licence="CC-BY-4.0",
)  # fmt: skip
# requests only, for chat models: the answers in instruction data sets are not self-contained code
CODEFEEDBACK_COLUMNS = FieldMap("query", "", "", "", "", source="CodeFeedback", licence="Apache-2.0")
MESSAGES_COLUMNS = FieldMap("messages.user", "", "", "", "")
PRESETS: Mapping[str, FieldMap] = {
    "leetcode": LEETCODE_COLUMNS, "thealgorithms": THEALGORITHMS_COLUMNS, "mbpp": MBPP_COLUMNS,
    "codefeedback": CODEFEEDBACK_COLUMNS,
    "messages": MESSAGES_COLUMNS,
}  # fmt: skip
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
) -> list[Problem]:
    """Load problems from a JSONL, JSON or Parquet file or a Hugging Face data set.

    Args:
        source: a file (`.jsonl`, `.json`, both also `.gz`, `.parquet`), a data set directory, or a name on the hub
            as "owner/name" or "owner/name:configuration".
        fields: which columns to read: a `FieldMap`, a preset (see `PRESETS`) or pairs like
            "instruction=text,tests=test_list".
        split: split of a data set, or of a file whose field map has `ranges`; "all" ignores the ranges.
        limit: maximum number of problems; 0 means no limit.
        skipped: if given, unreadable rows are left out and the reasons are appended to it. Otherwise the first such
            row raises.
        renamed: if given, a line is appended to it for each problem that got a new id, because its own was already
            taken.

    Raises:
        UserError: no such source, a missing column (the message lists the columns), a bad row, or no problems.
    """
    columns = FieldMap.parse(fields) if isinstance(fields, str) else fields
    ids = _id_range(columns, split)
    name = columns.source or Path(source).name.split(".")[0]
    problems: list[Problem] = []
    seen: dict[str, tuple[int, str]] = {}  # id: (number of rows with it, position of the first)
    rows = 0
    for where, row in iter_rows(source, split):
        rows += 1
        try:
            if not isinstance(row, Mapping):
                raise UserError(f"expected an object with columns, found {type(row).__name__}")
            _check_columns(row, columns)
            if columns.require and not _is_required(row, columns.require):
                continue
            if ids is not None and not ids[0] <= int(_get(row, columns.id)) <= ids[1]:
                continue
            problem = _problem(row, columns, f"{name}/{rows}", name)
        except UserError as error:
            if skipped is None:
                raise UserError(f"{where}: {error}") from None
            skipped.append(f"{where}: {error}")
            continue
        count, first = seen.get(problem.id, (0, where))
        seen[problem.id] = count + 1, first
        if count:  # a build needs unique ids
            if renamed is not None:
                renamed.append(f"{where}: id '{problem.id}' is that of {first} too; kept as '{problem.id}#{count + 1}'")
            problem = dataclasses.replace(problem, id=f"{problem.id}#{count + 1}")
        problems.append(problem)
        if limit and len(problems) == limit:
            break
    if not problems:
        reason = f"; the first of {len(skipped)} bad rows: {skipped[0]}" if skipped else ""
        raise UserError(f"{source}: no problems in its {rows} rows{reason}")
    return problems


def _get(row: Mapping[str, Any], name: str) -> Any:
    """Return the value at a dotted name; None if there is none."""
    value: Any = row
    for key in name.split("."):
        if isinstance(value, list):
            value = next((_said(item) for item in value if isinstance(item, Mapping) and item.get("role") == key), None)
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _said(message: Mapping[str, Any]) -> Any:
    """Return the text of a message, whose content is a string or a list of blocks."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(block, Mapping) for block in content):
        return "\n\n".join(str(block.get("content", "")) for block in content)
    return content


def _is_required(row: Mapping[str, Any], require: str) -> bool:
    name, equals, value = require.partition("=")
    return str(_get(row, name)) == value if equals else bool(_get(row, name))


def _check_columns(row: Mapping[str, Any], columns: FieldMap) -> None:
    for part in ("instruction", "id", "solution", "tests", "entry_point", "setup", "level", "require"):
        name = getattr(columns, part).partition("=")[0]
        needed = name and (part == "instruction" or name != getattr(FieldMap(), part))
        if needed and name.split(".")[0] not in row:
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
    value = _get(row, name) if name else None
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
        found = read_tests(_get(row, columns.tests) if columns.tests else None, expression)
    except (UserError, SyntaxError) as error:
        raise UserError(f"tests: {error}") from None
    tests = found.asserts
    entry_point = expression.split("(")[0].split(".")[0] or _entry_point(tests, solution)
    instruction = DOCTEST.split(_text(row, columns.instruction), maxsplit=1)[0].strip()
    if not instruction:
        raise UserError(f"column '{columns.instruction}' has no text to use as an instruction")
    if entry_point and not _mentions(instruction, entry_point):
        kind = "class" if f"class {entry_point}" in solution else "function"
        instruction += f"\n\nThe {kind} should be called `{entry_point}`."
    id = _get(row, columns.id) if columns.id else None
    level = _get(row, columns.level) if columns.level else None
    return Problem(
        str(id) if id not in (None, "") else number,
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
    marked = rf"`{name}\b|\b{name}\s?\(|\b(def|class|named|called)\s+{name}\b"
    spelled = "_" in name or not name.islower()
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
