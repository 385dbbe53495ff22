"""Splits a row's code into code that is given and the solution, and finds the imports that the solution needs.

Given code is what the environment provides, such as the tree and list classes of LeetCode. It runs before the solution
and is no part of an answer. The solution keeps the imports of the given code that it uses, so that it reads as a
program of its own. Nothing of a row runs here.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import symtable
from collections.abc import Iterator

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.trees import lines_of, names_in, parse, walk

# Modules whose names are looked up for `from module import *`: importing them has no effects.
LOOKED_UP = frozenset(
    "abc array bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal enum fractions"
    " functools heapq itertools json math numbers operator queue random re statistics string textwrap time typing"
    " types".split()
)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def split_given(setup: str, solution: str) -> tuple[str, str]:
    """Split set-up code and solution into given code and a solution with the imports that it uses.

    The part that runs only as a script (`if __name__ == ...`) is left out. If the set-up ends within a statement, such
    as the head of the function that the solution completes, the whole statement belongs to the solution.

    Args:
        setup: code that comes before the solution; may be empty.
        solution: reference code; if empty, there is no solution.

    Returns:
        the given code and the solution; each is empty, or ends with one line break.

    Raises:
        UserError: the code is not Python.
    """
    if not solution.strip():
        return "", ""
    before = setup.rstrip() if setup.strip() else ""
    code = "\n".join(part for part in (before, solution.rstrip()) if part)
    if "\xa0" in code and not _parses(code):  # outside literals Python refuses the no-break spaces of web pages
        code = code.replace("\xa0", " ")
    try:
        body: list[ast.stmt] = parse(code).body  # type: ignore[attr-defined]
    except SyntaxError as error:
        raise UserError(f"solution is not Python: {error.msg} (line {error.lineno})") from None
    lines = lines_of(code)
    split = len(lines_of(before))
    first = next((item for item in body if (item.end_lineno or 0) > split), None)
    if first is not None:
        split = min([split, *(node.lineno - 1 for node in (first, *getattr(first, "decorator_list", ())))])
    for statement in reversed(body):
        if isinstance(statement, ast.If) and "__name__" in names_in(statement.test):
            del lines[statement.lineno - 1 : statement.end_lineno]
            split -= (statement.end_lineno or 0) - statement.lineno + 1 if statement.lineno <= split else 0
    given, own = ("\n".join(part).strip("\n") for part in (lines[:split], lines[split:]))
    if not given.strip():
        return "", f"{own.strip()}\n"
    return f"{given}\n", f"{_with_imports(used_imports(given, own), own.strip())}\n"


def _parses(code: str) -> bool:
    try:
        parse(code)
    except SyntaxError:
        return False
    return True


def used_imports(given: str, solution: str) -> list[str]:
    """Return the imports of given code that a solution uses, one statement a line, without names that it does not use.

    Of `from module import *` the used names are imported by name; if the module is not one of `LOOKED_UP`, the
    statement is kept as it is where a name of the solution is found nowhere else.
    """
    needed = names_read(solution)
    imports = list(_imports(parse(given)))
    source: dict[str, int] = {}  # needed name: index of the import that binds it last
    unknown = []
    for at, node in enumerate(imports):
        for alias in node.names:
            bound = [(alias.asname or alias.name).split(".")[0]]
            if alias.name == "*":
                public = _public_names(node.module or "") if isinstance(node, ast.ImportFrom) else None
                if public is None:
                    unknown.append(at)
                bound = sorted((public or set()) - set(dir(builtins)))
            source |= dict.fromkeys(needed.intersection(bound), at)
    nowhere = needed - source.keys() - set(dir(builtins)) - _defined(given)
    lines = []
    for at, node in enumerate(imports):
        mine = sorted(name for name, last in source.items() if last == at)
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            lines.append(ast.unparse(node))
        elif at in unknown:
            lines += [ast.unparse(node)] if nowhere else []
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            lines += [f"from {node.module} import {', '.join(mine)}"] if mine else []
        else:
            used = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in mine]
            if used:
                node.names = used
                lines.append(ast.unparse(node))
    return list(dict.fromkeys(lines))


def names_read(code: str) -> set[str]:
    """Return the names that a program reads but does not bind, with names in annotations; empty if it is no program."""
    try:
        table = symtable.symtable(code, "solution", "exec")
        tree = parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return set()
    own = {item.get_name() for item in table.get_symbols() if item.is_assigned() or item.is_imported()}
    read: set[str] = set()
    tables = [table]
    for scope in tables:  # the list grows during the loop
        tables += scope.get_children()
        for item in scope.get_symbols():
            if item.is_declared_global() and item.is_assigned():
                own.add(item.get_name())
            if item.is_referenced() and (scope is table or item.is_global()):
                read.add(item.get_name())
    local = {node.id for node in walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    local |= {node.arg for node in walk(tree) if isinstance(node, ast.arg)}
    local |= {node.name for node in walk(tree) if isinstance(node, DEFINITIONS)}
    # with `from __future__ import annotations` a symbol table leaves out the names in annotations
    return (read | (names_in(tree) - local)) - own


def defined_names(given: str) -> list[str]:
    """Return the functions and classes that given code defines, in their order."""
    body: list[ast.stmt] = parse(given).body  # type: ignore[attr-defined]

    return list(dict.fromkeys(item.name for item in body if isinstance(item, DEFINITIONS)))


def _defined(given: str) -> set[str]:
    """Return all names that given code binds without an import."""
    stored = {
        node.id for node in walk(parse(given)) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }
    return stored | set(defined_names(given))


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports of a module, also those in `try` and `if`, but not those in functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not isinstance(child, (*DEFINITIONS, ast.Lambda)):
            yield from _imports(child)


def _public_names(module: str) -> set[str] | None:
    """Return what `from module import *` binds; None if that is not known."""
    if module not in LOOKED_UP:
        return None
    found = importlib.import_module(module)
    return set(getattr(found, "__all__", None) or (name for name in dir(found) if not name.startswith("_")))


def _with_imports(imports: list[str], solution: str) -> str:
    """Put imports before a solution, behind its docstring and its own `__future__` imports."""
    if not imports:
        return solution
    lines, after = lines_of(solution), 0
    for statement in parse(solution).body:  # type: ignore[attr-defined]
        doc = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not doc and not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            break
        after = statement.end_lineno or 0
    future = [line for line in imports if line.startswith("from __future__ ")]
    return "\n".join([*future, *lines[:after], *(line for line in imports if line not in future), *lines[after:]])
