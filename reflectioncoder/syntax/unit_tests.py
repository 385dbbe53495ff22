"""Takes single asserts out of test functions: those of pytest and `unittest`, with their loops and parameters.

Only asserts that can stand alone are taken: values assigned once in a test, parameters of `pytest.mark.parametrize`,
loops over literals and attributes that `setUp` assigns are put in their place. Asserts on state that other statements
change, on fixtures, or on exceptions are left out. Nothing is run.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence

from reflectioncoder.syntax.trees import names_in, walk

COMPARED: Mapping[str, type[ast.cmpop]] = {
    **dict.fromkeys(("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertSetEqual"), ast.Eq),
    **dict.fromkeys(("assertTupleEqual", "assertSequenceEqual", "assertMultiLineEqual"), ast.Eq),
    "assertNotEqual": ast.NotEq,
    "assertIs": ast.Is,
    "assertIsNot": ast.IsNot,
    "assertIn": ast.In,
    "assertNotIn": ast.NotIn,
    "assertGreater": ast.Gt,
    "assertGreaterEqual": ast.GtE,
    "assertLess": ast.Lt,
    "assertLessEqual": ast.LtE,
}
TESTS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST_CASES = 50  # of one loop or one list of parameters
Values = dict[str, ast.expr]  # name, or "self.name", to the expression that stands for it


class _Replace(ast.NodeTransformer):
    """Puts expressions in the place of names and of attributes of `self`."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return copy.deepcopy(self.values.get(node.id, node))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "self" and f"self.{node.attr}" in self.values:
            return copy.deepcopy(self.values[f"self.{node.attr}"])
        return self.generic_visit(node)


def asserts_of_functions(tree: ast.Module) -> list[ast.Assert]:
    """Return the asserts of all test functions of a module that can stand alone, in their order."""
    foreign = set(_standard_names(tree.body))
    foreign |= {
        item.name for item in tree.body if isinstance(item, (*TESTS, ast.ClassDef)) and not item.name.startswith("test")
    }
    found: list[ast.Assert] = []
    for item in tree.body:
        if isinstance(item, TESTS) and item.name.startswith("test"):
            found += _of_function(item, {}, foreign)
        elif isinstance(item, ast.ClassDef):
            shared: Values = {}
            for method in item.body:
                if isinstance(method, TESTS) and method.name in ("setUp", "setup_method", "setUpClass"):
                    shared |= _attributes(method.body)
            for method in item.body:
                if isinstance(method, TESTS) and method.name.startswith("test"):
                    found += _of_function(method, shared, foreign)
    return found


def _standard_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module imports, except from the module under test: a solution need not have them."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
            if not node.level and (root in sys.stdlib_module_names or root in ("pytest", "numpy", "hypothesis")):
                yield from (alias.asname or alias.name for alias in node.names)


def _attributes(body: Sequence[ast.stmt]) -> Values:
    found: Values = {}
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Attribute):
            found[f"self.{node.targets[0].attr}"] = _Replace(found).visit(copy.deepcopy(node.value))
    return found


def _of_function(
    function: ast.FunctionDef | ast.AsyncFunctionDef, shared: Values, foreign: set[str]
) -> list[ast.Assert]:
    given = {arg.arg for arg in function.args.args} - {"self", "cls"}
    cases: list[Values] = [{}]
    for decorator in function.decorator_list:
        read = _parameters(decorator)
        if read is not None:
            cases = [{**one, **two} for one in cases for two in read][:MOST_CASES]
    # an object that a method is called on, or that is assigned again, has a state: its asserts cannot stand alone
    stateful = foreign | {name for statement in function.body for name in _changed(statement)}
    found: list[ast.Assert] = []
    for case in cases:
        found += _of_block(function.body, {**shared, **case}, stateful | given - case.keys())
    return found


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Yield the names and attributes of `self` that a statement may change; a first assignment changes none."""
    for node in statement.body if isinstance(statement, (ast.For, ast.With)) else [statement]:
        if isinstance(node, (ast.For, ast.With)):
            yield from _changed(node)
        elif isinstance(node, (ast.AugAssign, ast.Delete, ast.If, ast.While, ast.Try)) or (
            isinstance(node, ast.Expr) and _checked(node.value) is None
        ):
            yield from _touched(node)


def _touched(node: ast.AST) -> Iterator[str]:
    """Yield the names and attributes of `self` in a statement, except those of functions that it calls."""
    called = {id(item.func) for item in walk(node) if isinstance(item, ast.Call)}
    yield from (item.id for item in walk(node) if isinstance(item, ast.Name) and id(item) not in called)
    yield from _self_names(node)


def _self_names(node: ast.AST) -> Iterator[str]:
    for item in walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self":
            yield f"self.{item.attr}"


def _of_block(body: Sequence[ast.stmt], values: Values, barred: set[str]) -> list[ast.Assert]:
    found: list[ast.Assert] = []
    values = dict(values)
    barred = set(barred)
    for statement in body:
        if isinstance(statement, ast.Assert):
            test: ast.expr | None = statement.test
        elif isinstance(statement, ast.Expr):
            test = _checked(statement.value)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name) and target.id not in values:
                values[target.id] = _Replace(values).visit(copy.deepcopy(statement.value))
            else:
                barred |= names_in(target)
            continue
        elif isinstance(statement, ast.For):
            for case in _cases(statement.target, _Replace(values).visit(copy.deepcopy(statement.iter))) or ():
                found += _of_block(statement.body, {**values, **case}, barred)
            continue
        elif isinstance(statement, ast.With) and all("subTest" in ast.dump(item) for item in statement.items):
            found += _of_block(statement.body, values, barred)
            continue
        else:
            barred |= set(_touched(statement)) - {"self"}
            continue
        if test is None or names_in(test) & barred or set(_self_names(test)) & barred:
            continue
        shown = _Replace(values).visit(copy.deepcopy(test))
        if not names_in(shown) & (barred | {"self"}):
            found.append(ast.Assert(shown, None))
    return found


def _checked(call: ast.expr) -> ast.expr | None:
    """Return the expression that a method of `unittest.TestCase` asserts; None if it is not such a call."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
        return None
    if not (isinstance(call.func.value, ast.Name) and call.func.value.id == "self"):
        return None
    name, first = call.func.attr, call.args[0]
    if name in ("assertTrue", "assert_"):
        return first
    if name == "assertFalse":
        return ast.UnaryOp(ast.Not(), first)
    if name in ("assertIsNone", "assertIsNotNone"):
        return ast.Compare(first, [ast.Is() if name == "assertIsNone" else ast.IsNot()], [ast.Constant(None)])
    if len(call.args) < 2:
        return None
    second = call.args[1]
    if name == "assertIsInstance":
        return ast.Call(ast.Name("isinstance", ast.Load()), [first, second], [])
    if name == "assertAlmostEqual" and not call.keywords:
        digits = call.args[2] if len(call.args) > 2 else ast.Constant(7)
        rounded = ast.Call(ast.Name("round", ast.Load()), [ast.BinOp(first, ast.Sub(), second), digits], [])
        return ast.Compare(rounded, [ast.Eq()], [ast.Constant(0)])
    return ast.Compare(first, [COMPARED[name]()], [second]) if name in COMPARED else None


def _parameters(decorator: ast.expr) -> list[Values] | None:
    """Return the cases of `pytest.mark.parametrize`; None if it is another decorator or its cases are no literals."""
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute) and len(decorator.args) >= 2):
        return None
    if decorator.func.attr != "parametrize":
        return None
    names, cases = decorator.args[:2]
    if isinstance(names, ast.Constant) and isinstance(names.value, str):
        listed = [name.strip() for name in names.value.split(",") if name.strip()]
    elif isinstance(names, (ast.List, ast.Tuple)) and all(isinstance(name, ast.Constant) for name in names.elts):
        listed = [str(name.value) for name in names.elts if isinstance(name, ast.Constant)]
    else:
        return None
    targets: list[ast.expr] = [ast.Name(name, ast.Store()) for name in listed]
    return _cases(targets[0] if len(targets) == 1 else ast.Tuple(targets, ast.Store()), cases)


def _cases(target: ast.expr, values: ast.expr) -> list[Values] | None:
    """Return what a loop over literals binds in each pass; None if it is not written out."""
    if not isinstance(values, (ast.List, ast.Tuple)) or len(values.elts) > MOST_CASES:
        return None
    found: list[Values] = []
    for value in values.elts:
        if isinstance(target, ast.Name):
            found.append({target.id: value})
        elif (
            isinstance(target, (ast.Tuple, ast.List))
            and isinstance(value, (ast.Tuple, ast.List))
            and len(target.elts) == len(value.elts)
            and all(isinstance(name, ast.Name) for name in target.elts)
        ):
            pairs = zip(target.elts, value.elts, strict=True)
            found.append({name.id: one for name, one in pairs if isinstance(name, ast.Name)})
        else:
            return None
    return found
