"""Converts the test formats of different data sets to single assert statements, using syntax trees only."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.trees import names_in, parse, walk


class _Substitute(ast.NodeTransformer):
    """Replaces a name by an expression."""

    def __init__(self, name: str, expression: ast.expr) -> None:
        self.name, self.expression = name, expression

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.expression if node.id == self.name else node


def split_tests(value: Any, entry_point: str = "") -> tuple[str, ...]:
    """Convert the tests of a data set to single assert statements.

    An assert that uses a name set by another statement of the same code is left out, because it cannot stand alone.

    Args:
        value: a list of assert statements; a list of [source, expected output] pairs as in a doctest; or code with
            asserts at the top level or in `def check(candidate)`. None and "" mean no tests.
        entry_point: expression that replaces `candidate`.

    Returns:
        the source of each assert.

    Raises:
        UserError: `value` has none of these formats, or a test is not valid Python.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return _asserts_of_code(value, entry_point)
    if not isinstance(value, Iterable) or isinstance(value, (Mapping, bytes)):
        raise UserError(f"expected a list of asserts or code, found {type(value).__name__}")
    items = list(value)
    if all(isinstance(item, str) for item in items):
        return tuple(test for item in items for test in _asserts_of_code(item, entry_point))
    if all(isinstance(item, (list, tuple)) and list(map(type, item)) == [str, str] for item in items):
        return _asserts_of_doctests(items)
    raise UserError("expected asserts as text or [source, expected] pairs")


def _asserts_of_code(code: str, entry_point: str) -> tuple[str, ...]:
    try:
        tree = parse(code.replace("\r\n", "\n"))
    except SyntaxError as error:
        raise UserError(f"not Python: {error.msg}") from None
    body: list[ast.stmt] = tree.body  # type: ignore[attr-defined]
    parameter = ""
    for statement in body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "check" and statement.args.args:
            body, parameter = statement.body, statement.args.args[0].arg
    own = {
        name.id
        for statement in body
        for name in walk(statement)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store) and not isinstance(statement, ast.Assert)
    }
    tests = []
    for statement in body:
        if isinstance(statement, ast.Assert) and not names_in(statement) & own:
            if parameter and entry_point:
                expression = parse(entry_point, "eval").body  # type: ignore[attr-defined]
                statement = _Substitute(parameter, expression).visit(statement)
            tests.append(ast.unparse(statement))
    return tuple(tests)


def _asserts_of_doctests(examples: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Convert the examples that compare one expression with a literal and use no name set by another example."""
    own: set[str] = set()
    tests = []
    for source, expected in examples:
        try:
            tree = parse(source)
            literal = parse(expected.strip() or "None", "eval").body  # type: ignore[attr-defined]
        except SyntaxError:
            continue
        body: list[ast.stmt] = tree.body  # type: ignore[attr-defined]
        for node in walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.alias):
                own.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
        if len(body) != 1 or not isinstance(body[0], ast.Expr) or not expected.strip() or names_in(tree) & own:
            continue
        value = body[0].value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print":
            continue
        try:
            ast.literal_eval(literal)
        except (ValueError, TypeError):
            continue
        tests.append(f"assert {ast.unparse(value)} == {ast.unparse(literal)}")
    return tuple(tests)
