"""Whether asserts test a function: is it called, and does what it returns reach an assert?

Works on syntax trees alone, and follows a value through assignments, loops and wrapping functions. It does not see
whether an assert could ever fail: `assert f(1) == f(1)` counts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from reflectioncoder.syntax.trees import names_in, walk

# calls that get a function without calling it
ABOUT = frozenset({"callable", "isinstance", "issubclass", "hasattr", "getattr", "type", "id", "repr", "str", "print"})
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def exercised(asserts: ast.AST, defined: Sequence[ast.AST], entry_point: str | None) -> bool:
    """Whether an assert gets a value that comes from calling a function.

    Args:
        asserts: tree of the code whose asserts count.
        defined: trees of all code that runs with it, itself included.
        entry_point: the function or class; None for any that the code defines. An assert inside a function is not a
            test of that function, but a check of its arguments.
    """
    nodes = [node for tree in defined for node in walk(tree)]
    functions = {node.name for node in nodes if isinstance(node, Definition)}
    if entry_point is not None:
        functions = {entry_point}
    return any(_comes_from(node.test, *_reached(nodes, functions - {inside})) for inside, node in _asserts(asserts))


def _asserts(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.Assert]]:
    """All asserts, each with the outermost function or class that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assert):
            yield inside, child
        yield from _asserts(child, inside or (child.name if isinstance(child, Definition) else ""))


def _reached(nodes: Sequence[ast.AST], functions: set[str]) -> tuple[set[str], set[str]]:
    """Names of functions that lead to the given ones, and names of values that come from calling them."""
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
                functions |= names  # another name for it, or a list of functions
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
