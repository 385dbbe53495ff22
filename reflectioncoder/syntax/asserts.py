"""Converts the test formats of different data sets to single assert statements, using syntax trees only."""

from __future__ import annotations

import ast
import doctest
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.trees import names_in, parse, walk
from reflectioncoder.syntax.unit_tests import asserts_of_functions

DOCTEST = re.compile(r"^[ \t]*>>>(?: |$)", re.MULTILINE)  # a prompt at the start of a line, not the operator


class _Substitute(ast.NodeTransformer):
    """Replaces a name by an expression."""

    def __init__(self, name: str, expression: ast.expr) -> None:
        self.name, self.expression = name, expression

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.expression if node.id == self.name else node


@dataclass(frozen=True)
class ReadTests:
    """The tests of a row.

    Args:
        asserts: source of each assert.
        unread: why there are none although the row has tests; "" otherwise.
    """

    asserts: tuple[str, ...]
    unread: str = ""


def read_tests(value: Any, entry_point: str = "") -> ReadTests:
    """Convert the tests of a data set, and say why if none of them can be used; see `split_tests`."""
    asserts = split_tests(value, entry_point)
    if asserts or value is None or not len(value):
        return ReadTests(asserts)
    text = value if isinstance(value, str) else "\n".join(item for item in value if isinstance(item, str))
    if not text.strip():
        return ReadTests(asserts, "examples whose output is no literal" if not isinstance(value, str) else "")
    if isinstance(_decoded(text), Mapping):
        return ReadTests(asserts, "inputs and outputs of a program, not asserts")
    try:
        nodes = walk(parse(text))
    except SyntaxError:
        return ReadTests(asserts, "examples whose output is no literal")
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if any(isinstance(node, ast.Assert) for node in nodes) or "assert" in text:
        return ReadTests(asserts, "asserts that cannot stand alone: they use fixtures or state of other statements")
    if "print" in called:
        return ReadTests(asserts, "calls of `print` without expected values")
    return ReadTests(asserts, "code without an assert")


def split_tests(value: Any, entry_point: str = "") -> tuple[str, ...]:
    """Convert the tests of a data set to single assert statements.

    An assert that uses a name set by another statement of the same code is left out, because it cannot stand alone.

    Args:
        value: a list of assert statements; a list of [source, expected output] pairs as in a doctest; code with asserts
            at the top level or in `def check(candidate)`, else in test functions of pytest or `unittest`; a text with
            doctests; or any of these lists as JSON in a text. None and "" mean no tests.
        entry_point: expression that replaces `candidate`.

    Returns:
        the source of each assert.

    Raises:
        UserError: `value` has none of these formats, or a test is not valid Python.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        decoded = _decoded(value)
        if isinstance(decoded, list):
            return split_tests(decoded, entry_point)
        return () if isinstance(decoded, Mapping) else _asserts_of_code(value, entry_point)
    if isinstance(value, Mapping):
        raise UserError(f"expected asserts, found an object with {', '.join(map(str, value)) or 'nothing'}")
    if not isinstance(value, Iterable) or isinstance(value, (Mapping, bytes)):
        raise UserError(f"expected a list of asserts or code, found {type(value).__name__}")
    items = list(value)
    if all(isinstance(item, str) for item in items):
        return tuple(test for item in items for test in _asserts_of_code(item, entry_point))
    if all(isinstance(item, (list, tuple)) and list(map(type, item)) == [str, str] for item in items):
        return _asserts_of_doctests(items)
    raise UserError("expected asserts as text or [source, expected] pairs")


def _decoded(text: str) -> Any:
    """Return the list or object that a text holds as JSON or as a Python literal; None if it holds something else."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, (list, dict)) else None
    return None


def _asserts_of_code(code: str, entry_point: str) -> tuple[str, ...]:
    try:
        tree = parse(code.replace("\r\n", "\n"))
    except SyntaxError as error:
        if DOCTEST.search(code):
            try:
                examples = doctest.DocTestParser().get_examples(code)
            except ValueError as bad:
                raise UserError(f"not a doctest: {bad}") from None
            return _asserts_of_doctests([(item.source, item.want) for item in examples])
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
    if not tests and isinstance(tree, ast.Module):
        tests = [ast.unparse(ast.fix_missing_locations(item)) for item in asserts_of_functions(tree)]
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
