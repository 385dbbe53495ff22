"""Decides whether asserts really test a function: whether a value that comes from calling it reaches an assert.

The analysis uses syntax trees only. It follows values through assignments, loops and wrapper functions. It does not
check whether an assert can fail: `assert f(1) == f(1)` counts as a test.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from reflectioncoder.syntax.trees import names_in, walk

# builtins that receive a function without calling it
ABOUT = frozenset({"callable", "isinstance", "issubclass", "hasattr", "getattr", "type", "id", "repr", "str", "print"})
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def exercised(asserts: ast.AST, defined: Sequence[ast.AST], entry_point: str | None) -> bool:
    """Whether some assert uses a value that comes from calling the given function.

    An assert inside a function does not count as a test of that function; it is a check of its arguments.

    Args:
        asserts: tree of the code whose asserts count.
        defined: trees of all code that runs with it, `asserts` included.
        entry_point: name of the function or class; None for any that the code defines.
    """
    nodes = [node for tree in defined for node in walk(tree)]
    functions = {node.name for node in nodes if isinstance(node, Definition)}
    if entry_point is not None:
        functions = {entry_point}
    return any(_comes_from(node.test, *_reached(nodes, functions - {inside})) for inside, node in _asserts(asserts))


def _asserts(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.Assert]]:
    """Yield each assert with the name of the outermost function or class around it (empty if none)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assert):
            yield inside, child
        yield from _asserts(child, inside or (child.name if isinstance(child, Definition) else ""))


def _reached(nodes: Sequence[ast.AST], functions: set[str]) -> tuple[set[str], set[str]]:
    """Return the names of functions that use the given ones, and the names of values that come from calling them."""
    functions, values = set(functions), set[str]()
    while True:
        before = len(functions), len(values)
        for node in nodes:
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
                targets, value = [node.target], node.value
            elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
                targets, value = [node.target], node.iter
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                targets, value = [node.optional_vars], node.context_expr
            elif isinstance(node, Definition):
                if any(isinstance(item, ast.expr) and _comes_from(item, functions, values) for item in walk(node)):
                    functions.add(node.name)
                continue
            else:
                continue
            names = {name for target in targets for name in names_in(target)}
            if _comes_from(value, functions, values):
                values |= names
            elif names_in(value) & functions and not any(isinstance(item, ast.Call) for item in walk(value)):
                functions |= names  # an alias of a function, or a list of functions
        if before == (len(functions), len(values)):
            return functions, values


def _comes_from(expression: ast.expr, functions: set[str], values: set[str]) -> bool:
    if names_in(expression) & values:
        return True
    for node in walk(expression):
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if names_in(node.func) & functions:
                return True
            if called not in ABOUT and any(names_in(item) & functions for item in given):
                return True
    return False
