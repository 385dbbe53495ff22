"""Kinds of bugs inside one expression: comparisons, operators, arguments, indices, names, calls.

Each function takes a solution and yields every place where its kind of bug can be planted. `sequence.py` runs the
result to see whether a test fails. The wordings are in `wordings.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reflectioncoder.construct.mutation.edits import Edit, Mutation, SourceTree

Finder = Callable[[SourceTree], Iterator[Mutation]]
EXPRESSION_KINDS: dict[str, Finder] = {}

BOUNDARY = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
DIRECTION = {ast.Lt: ("<", ">"), ast.Gt: (">", "<"), ast.LtE: ("<=", ">="), ast.GtE: (">=", "<=")}
INVERTED = {ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in")}
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
DIVISIONS = {ast.FloorDiv: ("//", "/"), ast.Div: ("/", "//")}
# Names that people know from other languages or from other built-in types.
WRONG_METHODS = {
    "append": "push",
    "add": "append",
    "extend": "concat",
    "lower": "lowercase",
    "upper": "uppercase",
    "strip": "trim",
    "startswith": "startsWith",
    "endswith": "endsWith",
    "isdigit": "is_digit",
    "isalpha": "is_alpha",
    "isupper": "is_upper",
    "islower": "is_lower",
    "isalnum": "is_alnum",
    "items": "entries",
    "get": "get_or_default",
    "index": "indexOf",
    "count": "count_of",
    "replace": "replaceAll",
    "popleft": "pop_left",
    "setdefault": "set_default",
    "values": "vals",
}
CONVERSIONS = ("str", "int", "float", "list", "tuple")
DROPPABLE = ("abs", "set", "sorted", "reversed", "len")
NORMALISERS = ("lower", "upper", "strip", "lstrip", "rstrip", "casefold", "copy", "title", "capitalize")


def expression_kind(finder: Finder) -> Finder:
    """Register a finder of bugs under its function name."""
    EXPRESSION_KINDS[finder.__name__] = finder
    return finder


def named_call(node: ast.AST, *names: str) -> bool:
    """Whether a node calls one of the named functions."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _compared(src: SourceTree, kind: str, table: Mapping[Any, tuple[str, str]]) -> Iterator[Mutation]:
    for node in src.nodes:
        if not isinstance(node, ast.Compare):
            continue
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            old, new = table.get(type(op), ("", ""))
            place = src.gap(left, right, old) if old else None
            if place:
                sides = {"left": src.of(left), "right": src.of(right), "old": old, "new": new}
                bad, good = f"{sides['left']} {new} {sides['right']}", f"{sides['left']} {old} {sides['right']}"
                yield src.mutation(kind, [Edit(*place, new)], bad, good, **sides)


@expression_kind
def boundary(src: SourceTree) -> Iterator[Mutation]:
    """`<` instead of `<=` and the like."""
    yield from _compared(src, "boundary", BOUNDARY)


@expression_kind
def comparison(src: SourceTree) -> Iterator[Mutation]:
    """A comparison in the wrong direction."""
    yield from _compared(src, "comparison", DIRECTION)


@expression_kind
def inverted_test(src: SourceTree) -> Iterator[Mutation]:
    """`!=` instead of `==`, `not in` instead of `in`, or vice versa."""
    yield from _compared(src, "inverted_test", INVERTED)


def _calculated(src: SourceTree, kind: str, table: Mapping[Any, tuple[str, str]]) -> Iterator[Mutation]:
    for node in src.nodes:
        if isinstance(node, ast.BinOp):
            left, right, mark = node.left, node.right, ""
        elif isinstance(node, ast.AugAssign):
            left, right, mark = node.target, node.value, "="
        else:
            continue
        old, new = table.get(type(node.op), ("", ""))
        place = src.gap(left, right, old + mark) if old else None
        if place:
            a, b = src.of(left), src.of(right)
            words = {"left": a, "right": b, "old": old + mark, "new": new + mark}
            yield src.mutation(
                kind, [Edit(*place, new + mark)], f"{a} {new}{mark} {b}", f"{a} {old}{mark} {b}", **words
            )


@expression_kind
def operator(src: SourceTree) -> Iterator[Mutation]:
    """A wrong arithmetic operator."""
    yield from _calculated(src, "operator", OPERATORS)


@expression_kind
def division(src: SourceTree) -> Iterator[Mutation]:
    """True division instead of floor division, or vice versa."""
    yield from _calculated(src, "division", DIVISIONS)


@expression_kind
def swapped_arguments(src: SourceTree) -> Iterator[Mutation]:
    """The first two arguments of a call in the wrong order."""
    for node in src.nodes:
        if isinstance(node, ast.Call) and len(node.args) >= 2 and not named_call(node, "isinstance", "min", "max"):
            first, second = node.args[:2]
            if isinstance(first, ast.Starred) or isinstance(second, ast.Starred) or src.of(first) == src.of(second):
                continue
            edits = [Edit(*src.span(first), src.of(second)), Edit(*src.span(second), src.of(first))]
            start, end = src.span(node)
            middle = src.text[edits[0].end : edits[1].start]
            bad = src.text[start : edits[0].start] + edits[0].new + middle + edits[1].new + src.text[edits[1].end : end]
            words = {"first": src.of(first), "second": src.of(second), "callee": src.of(node.func)}
            yield src.mutation("swapped_arguments", edits, bad, src.of(node), **words)


@expression_kind
def swapped_operands(src: SourceTree) -> Iterator[Mutation]:
    """`b - a` instead of `a - b`, and the like."""
    order_matters = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
    for node in src.nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, order_matters):
            operands = (node.left, node.right)
            symbol = {**OPERATORS, **DIVISIONS}[type(node.op)][0]
            if all(isinstance(o, (ast.Name, ast.Call, ast.Subscript, ast.Attribute, ast.Constant)) for o in operands):
                a, b = src.of(node.left), src.of(node.right)
                if a != b:
                    yield src.replace("swapped_operands", node, f"{b} {symbol} {a}", left=a, right=b)


def _minus_one(src: SourceTree, node: ast.expr) -> str:
    """Return source for `node - 1` as a person would write it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and src.of(node.right) == "1":
        return src.of(node.left)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return str(node.value - 1)
    fits = isinstance(node, (*atoms_and_signs, ast.BinOp))
    return f"{src.of(node)} - 1" if fits else f"({src.of(node)}) - 1"


atoms_and_signs = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.UnaryOp)


@expression_kind
def slice_bound(src: SourceTree) -> Iterator[Mutation]:
    """A slice that starts or ends one item too early or too late, or runs in the wrong direction."""
    for node in src.nodes:
        if not isinstance(node, ast.Slice):
            continue
        low, high, step = (src.of(part) if part else "" for part in (node.lower, node.upper, node.step))
        owner = src.parent[node]
        value = src.of(owner.value) if isinstance(owner, ast.Subscript) else ""
        tail = f":{step}" if step else ""
        variants = []
        if node.upper is not None:
            variants.append(f"{low}:{'' if high == '-1' else _minus_one(src, node.upper)}{tail}")
        if node.lower is not None:
            variants.append(f":{high}{tail}" if high != "" or low in ("1", "2") else f"{low} + 1:{high}{tail}")
        elif not step:
            variants.append(f"1:{high}{tail}")
        if step:
            variants.append(f"{low}:{high}")
        for new in variants:
            good = src.of(node)
            yield src.replace("slice_bound", node, new, value=value, was=f"{value}[{good}]", now=f"{value}[{new}]")


@expression_kind
def index(src: SourceTree) -> Iterator[Mutation]:
    """The neighbouring element of a sequence."""
    for node in src.nodes:
        if not isinstance(node, ast.Subscript) or isinstance(node.slice, ast.Slice):
            continue
        at = node.slice
        if isinstance(at, ast.Constant) and isinstance(at.value, int):
            new = str(at.value - 1) if at.value else "1"
        elif isinstance(at, ast.UnaryOp) and src.of(at) == "-1":
            new = "0"
        elif isinstance(at, ast.BinOp) and isinstance(at.op, (ast.Add, ast.Sub)) and src.of(at.right) == "1":
            new = src.of(at.left)
        elif isinstance(at, ast.Name) and isinstance(node.ctx, ast.Load):
            new = f"{at.id} - 1"
        else:
            continue
        value, was = src.of(node.value), src.of(node)
        yield src.replace("index", at, new, value=value, was=was, now=f"{value}[{new}]")


@expression_kind
def wrong_key(src: SourceTree) -> Iterator[Mutation]:
    """A dictionary key that is spelled differently from the existing one."""
    for node in src.nodes:
        if isinstance(node, ast.Subscript):
            key, value = node.slice, node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            key, value = node.args[0] if node.args else node, node.func.value
        else:
            continue
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isidentifier():
            new = key.value[:-1] if key.value.endswith("s") and len(key.value) > 2 else key.value + "s"
            quote = src.of(key)[0]
            yield src.replace("wrong_key", key, f"{quote}{new}{quote}", value=src.of(value))


def misspell(name: str, at: int) -> str:
    """Return a likely misspelling of a name; `at` picks the variant."""
    if at % 3 == 0 and name.endswith("s"):
        return name[:-1]
    if at % 3 == 1 and len(name) > 4 and name[-2] != name[-1]:
        return name[:-2] + name[-1] + name[-2]
    return name + "s" if not name.endswith("s") else name[:-1]


@expression_kind
def misspelt_name(src: SourceTree) -> Iterator[Mutation]:
    """A misspelt variable name in an expression that reads it."""
    known = {n.id for n in ast.walk(src.tree) if isinstance(n, ast.Name)} | {
        n.arg for n in ast.walk(src.tree) if isinstance(n, ast.arg)
    }
    for node in src.nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and len(node.id) >= 3:
            new = misspell(node.id, src.span(node)[0])
            if node.id in src.variables(node) and new not in known:
                yield src.replace("misspelt_name", node, new)


@expression_kind
def wrong_method(src: SourceTree) -> Iterator[Mutation]:
    """A method that the object does not have."""
    for node in src.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRONG_METHODS:
            end = src.span(node.func)[1]
            name, value = node.func.attr, src.of(node.func.value)
            new = WRONG_METHODS[name]
            yield src.mutation("wrong_method", [Edit(end - len(name), end, new)], new, name, value=value)


@expression_kind
def wrong_attribute(src: SourceTree) -> Iterator[Mutation]:
    """A misspelt attribute of `self` in an expression that reads it."""
    for node in src.nodes:
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Load)
            and src.of(node.value) == "self"
            and not isinstance(src.parent[node], ast.Call)
        ):
            end = src.span(node)[1]
            new = misspell(node.attr, end)
            yield src.mutation("wrong_attribute", [Edit(end - len(node.attr), end, new)], new, node.attr)


def _unwrapped(src: SourceTree, kind: str, names: tuple[str, ...]) -> Iterator[Mutation]:
    for node in src.nodes:
        if (
            isinstance(node, ast.Call)
            and named_call(node, *names)
            and len(node.args) == 1
            and not node.keywords
            and not isinstance(node.args[0], ast.Starred)
        ):
            top = isinstance(src.parent[node], (ast.Return, ast.Assign, ast.Call))
            inner = src.of(node.args[0]) if top else src.atom(node.args[0])
            yield src.replace(kind, node, inner, callee=src.of(node.func), inner=src.of(node.args[0]))


@expression_kind
def missing_conversion(src: SourceTree) -> Iterator[Mutation]:
    """A forgotten `str()`, `int()`, `list()` and the like."""
    yield from _unwrapped(src, "missing_conversion", CONVERSIONS)


@expression_kind
def missing_call(src: SourceTree) -> Iterator[Mutation]:
    """A forgotten `abs()`, `set()`, `sorted()` and the like."""
    yield from _unwrapped(src, "missing_call", DROPPABLE)


@expression_kind
def negated_condition(src: SourceTree) -> Iterator[Mutation]:
    """A negated condition, or a forgotten `not`."""
    for node in src.nodes:
        tests: list[ast.expr] = []
        if isinstance(node, (ast.If, ast.IfExp)):
            tests = [node.test]
        elif isinstance(node, ast.comprehension):
            tests = node.ifs
        for test in tests:
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                yield src.replace("negated_condition", test, src.of(test.operand))
            elif not isinstance(test, ast.Compare):  # other kinds cover comparisons
                yield src.replace("negated_condition", test, f"not {src.atom(test)}")


@expression_kind
def and_or(src: SourceTree) -> Iterator[Mutation]:
    """`or` instead of `and`, or vice versa."""
    for node in src.nodes:
        if isinstance(node, ast.BoolOp) and len(node.values) == 2:
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            left, right = node.values
            place = src.gap(left, right, old)
            if place:
                a, b = src.of(left), src.of(right)
                words = {"left": a, "right": b, "old": old, "new": new}
                yield src.mutation("and_or", [Edit(*place, new)], f"{a} {new} {b}", f"{a} {old} {b}", **words)


def _renamed(src: SourceTree, kind: str, pairs: Mapping[str, str]) -> Iterator[Mutation]:
    for node in src.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in pairs:
            yield src.replace(kind, node.func, pairs[node.func.id], call=src.of(node))


@expression_kind
def min_max(src: SourceTree) -> Iterator[Mutation]:
    """`max` instead of `min`, or vice versa."""
    yield from _renamed(src, "min_max", {"min": "max", "max": "min"})


@expression_kind
def any_all(src: SourceTree) -> Iterator[Mutation]:
    """`any` instead of `all`, or vice versa."""
    yield from _renamed(src, "any_all", {"any": "all", "all": "any"})


@expression_kind
def range_bound(src: SourceTree) -> Iterator[Mutation]:
    """A range that starts one item too late or ends one item too early."""
    for node in src.nodes:
        if isinstance(node, ast.Call) and named_call(node, "range") and node.args:
            texts = [src.of(argument) for argument in node.args]
            stop = 0 if len(texts) == 1 else 1
            shorter = [*texts]
            shorter[stop] = "0" if texts[stop] == "-1" else _minus_one(src, node.args[stop])
            variants = [("end", shorter)]
            if stop == 0:
                variants.append(("start", ["1", texts[0]]))
            elif texts[0].isdigit():
                variants.append(("start", [str(int(texts[0]) + 1), *texts[1:]]))
            for which, new in variants:
                yield src.replace("range_bound", node, f"range({', '.join(new)})", which=which)


@expression_kind
def constant(src: SourceTree) -> Iterator[Mutation]:
    """A number that is off by one."""
    for node in src.nodes:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            parent = src.parent[node]
            if isinstance(parent, (ast.Subscript, ast.Slice, ast.Assign, ast.UnaryOp)) or named_call(parent, "range"):
                continue
            yield src.replace("constant", node, str(node.value + 1))
            if node.value > 1:
                yield src.replace("constant", node, str(node.value - 1))


@expression_kind
def truth_value(src: SourceTree) -> Iterator[Mutation]:
    """`True` instead of `False`, or vice versa."""
    for node in src.nodes:
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, bool)
            and isinstance(src.parent[node], (ast.Return, ast.IfExp, ast.Assign))
        ):
            yield src.replace("truth_value", node, str(not node.value))


@expression_kind
def separator(src: SourceTree) -> Iterator[Mutation]:
    """A wrong string to join or split with, or to return."""
    for node in src.nodes:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            continue
        parent = src.parent[node]
        joins = isinstance(parent, ast.Attribute) and parent.attr == "join"
        if joins or isinstance(parent, ast.Return):
            new = {"": " ", " ": "", ", ": ","}.get(node.value, node.value.swapcase())
            if new != node.value:
                yield src.replace("separator", node, repr(new))
