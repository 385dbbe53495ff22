"""Cells of a conversation: whether one tests something or needs earlier ones, and the tests for a final program."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from reflectioncoder.syntax.trees import bound_names, free_names, names_in, parse_cached, walk

ASSERT = re.compile(r"^assert\b", re.MULTILINE)
TEST_NAMES = ("test", "check", "run", "_test", "assert")


def asserts_something(code: str) -> bool:
    """Whether a program, when run, tests itself with an assert.

    An assert inside a function counts only if the program's top level uses that function and the function looks like a
    test (it is called `test_f`, `check` or the like, or has no parameters), because a solution may check its arguments
    with asserts. If the text is not valid Python, any line that starts with `assert` counts.
    """
    try:
        body = _body(code)
    except SyntaxError:
        return bool(ASSERT.search(code))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    program = [item for item in body if not isinstance(item, functions)]
    if any(_asserts(item) for item in program):
        return True
    used = {name for item in program for name in names_in(item)}
    return any(
        item.name in used and _asserts(item) and (item.name.lower().startswith(TEST_NAMES) or not item.args.args)
        for item in body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def _asserts(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Assert) for node in walk(statement))


def uses_earlier(code: str, earlier: Sequence[str]) -> bool:
    """Whether a cell reads a name that an earlier cell, but not the cell itself, binds. False if not valid Python."""
    missing = free_names(code)
    if not missing:
        return False
    for cell in earlier:
        try:
            if missing & bound_names(parse_cached(cell)):
                return True
        except SyntaxError:
            continue
    return False


def checks_for(final: str, last: str, earlier: Sequence[str] = ()) -> str | None:
    """Return the tests of the last program, to be run after the final code.

    The tests are the last program without the definitions that the final code contains as well.

    Args:
        final: the final code.
        last: the last program, whose asserts passed.
        earlier: cells that `last` needs. Their definitions, imports and assignments come first.

    Returns:
        Python source, or None if the tests use nothing that the final code defines.

    Raises:
        SyntaxError: `final` or `last` is not valid Python.
    """
    own = {name for statement in _body(final) for name in _defined(statement)}
    kept: list[ast.stmt] = []
    for cell in earlier:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
        try:
            kept += [item for item in _body(cell) if isinstance(item, kinds) and not set(_defined(item)) & own]
        except SyntaxError:
            continue
    rest = [item for item in _body(last) if not set(_defined(item)) & own]
    if not any(names_in(item) & own for item in rest):
        return None
    rest = [item for item in kept + rest if not (isinstance(item, ast.ImportFrom) and item.module == "__future__")]
    return "\n".join(map(ast.unparse, rest))  # __future__ imports are dropped: they would have to come first


def _body(code: str) -> list[ast.stmt]:
    return parse_cached(code).body


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement defines: a function, a class, or a lambda (`f = lambda: ...`)."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []
