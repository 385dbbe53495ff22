"""Kinds of bugs in the control flow of a function, in its variables and in the methods called on them.

The counterpart of `bugs_expressions.py` for statements: returns, branches, loops, initial values, updates.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

from reflectioncoder.construct.mutation.bugs_expressions import NORMALISERS, Finder, named_call
from reflectioncoder.construct.mutation.edits import Edit, Mutation, SourceTree

STATEMENT_KINDS: dict[str, Finder] = {}
LOOPS = (ast.For, ast.While)


def statement_kind(finder: Finder) -> Finder:
    """Register a finder of bugs under its function name."""
    STATEMENT_KINDS[finder.__name__] = finder
    return finder


@statement_kind
def initial_value(src: SourceTree) -> Iterator[Mutation]:
    """A variable with a wrong initial value before a loop."""
    wrong = {"0": "1", "1": "0", "''": "' '", '""': '" "', "-1": "0", "None": "0"}
    for _, block in src.bodies():
        for i, statement in enumerate(block):
            followed = any(isinstance(node, LOOPS) for later in block[i + 1 :] for node in ast.walk(later))
            if not (isinstance(statement, ast.Assign) and followed and isinstance(statement.targets[0], ast.Name)):
                continue
            old = src.of(statement.value)
            new = wrong.get(old, "0" if isinstance(statement.value, ast.Subscript) else "")
            if new:
                yield src.replace("initial_value", statement.value, new, name=statement.targets[0].id)


@statement_kind
def missing_edge_case(src: SourceTree) -> Iterator[Mutation]:
    """A missing guard for a special case."""
    for _, block in src.bodies():
        for statement in block[:-1]:
            if not isinstance(statement, ast.If) or statement.orelse or not src.alone(statement):
                continue
            last = statement.body[-1]
            if isinstance(last, (ast.Return, ast.Raise, ast.Continue)):
                does = src.of(last).split("\n")[0]
                words = {"test": src.of(statement.test), "does": does}
                edit = Edit(*src.block([statement]), "")
                yield src.mutation("missing_edge_case", [edit], "", src.first_line(statement), **words)


@statement_kind
def lost_return(src: SourceTree) -> Iterator[Mutation]:
    """A forgotten final `return`."""
    for owner, block in src.bodies():
        last = block[-1]
        if isinstance(last, ast.Return) and last.value is not None and src.alone(last):
            if isinstance(owner, ast.FunctionDef) and len(block) > 1 and isinstance(last.value, ast.Name):
                line = src.first_line(last)
                yield src.mutation("lost_return", [Edit(*src.block([last]), "")], "", line, value=src.of(last.value))
            elif isinstance(last.value, (ast.Call, ast.BinOp, ast.Subscript)):
                start = src.span(last)[0]
                value = src.of(last.value)
                edit = Edit(start, src.span(last.value)[0], "")
                if "\n" not in value:
                    yield src.mutation("lost_return", [edit], value, f"return {value}", value=value)


@statement_kind
def mutable_default(src: SourceTree) -> Iterator[Mutation]:
    """A mutable default argument, which is created once and shared by all calls."""
    for owner, block in src.bodies():
        if not isinstance(owner, ast.FunctionDef) or owner.args.vararg or owner.args.kwonlyargs or owner.args.kwarg:
            continue
        for statement in block[:-1]:
            if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
                continue
            value, name = src.of(statement.value), statement.targets[0].id
            if value in ("[]", "{}", "set()", "dict()", "list()") and owner.args.args and src.alone(statement):
                last = owner.args.args[-1]
                after = src.span(owner.args.defaults[-1] if owner.args.defaults else last)[1]
                edits = [Edit(after, after, f", {name}={value}"), Edit(*src.block([statement]), "")]
                yield src.mutation("mutable_default", edits, f"{name}={value}", f"{name} = {value}", name=name)


@statement_kind
def premature_return(src: SourceTree) -> Iterator[Mutation]:
    """A `return` that should follow a loop but is indented into it."""
    for _, block in src.bodies():
        for loop, after in itertools.pairwise(block):
            if (
                isinstance(loop, LOOPS)
                and isinstance(after, ast.Return)
                and not loop.orelse
                and src.alone(after)
                and loop.body[0].lineno > loop.lineno
                and after.lineno == after.end_lineno
            ):
                indent = " " * (loop.body[0].col_offset - after.col_offset)
                at = src.span(after)[0]
                line = src.first_line(after)
                yield src.mutation(
                    "premature_return", [Edit(at, at, indent)], line, line, loop=src.first_line(loop).rstrip(":")
                )


@statement_kind
def branch_removed(src: SourceTree) -> Iterator[Mutation]:
    """A missing `else` or `elif` branch."""
    for node in src.nodes:
        if isinstance(node, ast.If) and node.orelse and src.alone(node.body[-1]) and src.alone(node.orelse[-1]):
            first = node.orelse[0]
            start = src.block([node.body[-1]])[1]
            line = src.line(start)
            keyword = src.lines[line - 1].strip()
            if keyword.startswith(("else", "elif")) and first.lineno >= line:
                edit = Edit(start, src.block(node.orelse)[1], "")
                words = {"test": src.of(node.test), "branch": keyword.rstrip(":")}
                yield src.mutation("branch_removed", [edit], "", keyword, **words)


@statement_kind
def wrong_return(src: SourceTree) -> Iterator[Mutation]:
    """A `return` of a variable that does not hold the answer."""
    for node in src.nodes:
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Name):
            for other in src.variables(node):
                if other != node.value.id:
                    yield src.replace("wrong_return", node.value, other)


@statement_kind
def plain_assignment(src: SourceTree) -> Iterator[Mutation]:
    """`=` instead of `+=`."""
    for node in src.nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            value, name = src.of(node.value), node.target.id
            old = src.text[src.span(node.target)[1] : src.span(node.value)[0]].strip()
            place = src.gap(node.target, node.value, old)
            if place:
                good = f"{name} {old} {value}"
                yield src.mutation("plain_assignment", [Edit(*place, "=")], f"{name} = {value}", good, name=name)


@statement_kind
def append_extend(src: SourceTree) -> Iterator[Mutation]:
    """`extend` instead of `append`, or vice versa."""
    pairs = {"append": "extend", "extend": "append", "add": "update"}
    for node in src.nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in pairs
            and len(node.args) == 1
        ):
            old, end = node.func.attr, src.span(node.func)[1]
            words = {"value": src.of(node.func.value), "item": src.of(node.args[0])}
            edit = Edit(end - len(old), end, pairs[old])
            yield src.mutation("append_extend", [edit], pairs[old], old, **words)


@statement_kind
def break_continue(src: SourceTree) -> Iterator[Mutation]:
    """`break` instead of `continue`, or vice versa."""
    for node in src.nodes:
        if isinstance(node, (ast.Break, ast.Continue)):
            above = src.parent[node]
            test = src.of(above.test) if isinstance(above, ast.If) else "this point is reached"
            yield src.replace("break_continue", node, "continue" if isinstance(node, ast.Break) else "break", test=test)


@statement_kind
def missing_step(src: SourceTree) -> Iterator[Mutation]:
    """A missing statement in a loop."""
    for owner, block in src.bodies():
        if not isinstance(owner, (ast.For, ast.If)) or len(block) < 2:
            continue
        for statement in block:
            call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            if (call or isinstance(statement, (ast.AugAssign, ast.Assign))) and src.alone(statement):
                edit = Edit(*src.block([statement]), "")
                yield src.mutation("missing_step", [edit], "", src.first_line(statement))


@statement_kind
def reset_in_loop(src: SourceTree) -> Iterator[Mutation]:
    """A variable that is initialised again in every iteration of a loop."""
    for _, block in src.bodies():
        for before, loop in itertools.pairwise(block):
            if not (isinstance(before, ast.Assign) and isinstance(before.targets[0], ast.Name) and src.alone(before)):
                continue
            if isinstance(loop, ast.For) and loop.body[0].lineno > loop.lineno:
                start, end = src.block([before])
                inside = src.starts[loop.body[0].lineno - 1]
                indent = " " * loop.body[0].col_offset
                edits = [Edit(start, end, ""), Edit(inside, inside, f"{indent}{src.of(before)}\n")]
                line = src.first_line(before)
                words = {"name": src.of(before.targets[0]), "loop": src.first_line(loop).rstrip(":")}
                if "\n" not in src.of(before):
                    yield src.mutation("reset_in_loop", edits, line, line, **words)


@statement_kind
def wrong_variable(src: SourceTree) -> Iterator[Mutation]:
    """A wrong variable of the function in an expression."""
    for node in src.nodes:
        if not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
            continue
        parent = src.parent[node]
        if isinstance(parent, ast.Return) or (isinstance(parent, ast.Call) and parent.func is node):
            continue
        names = src.variables(node)
        if node.id in names and not src.scoped(node):
            others = [name for name in names if name != node.id]
            if others:
                yield src.replace("wrong_variable", node, others[src.span(node)[0] % len(others)])


def _without_keyword(src: SourceTree, call: ast.Call, name: str) -> Edit | None:
    """Return the edit that removes a keyword argument and the comma before it."""
    for keyword in call.keywords:
        if keyword.arg == name:
            start, end = src.span(keyword)
            comma = src.text.rfind(",", src.span(call.func)[1], start)
            return Edit(comma if comma >= 0 else start, end, "")
    return None


def _sorting(src: SourceTree) -> Iterator[ast.Call]:
    for node in src.nodes:
        if isinstance(node, ast.Call) and (
            named_call(node, "sorted") or (isinstance(node.func, ast.Attribute) and node.func.attr == "sort")
        ):
            yield node


@statement_kind
def sort_order(src: SourceTree) -> Iterator[Mutation]:
    """Sorting in the wrong direction."""
    for node in _sorting(src):
        end = src.span(node)[1] - 1
        bare = not node.args and not node.keywords
        cut = _without_keyword(src, node, "reverse")
        edit = cut or Edit(end, end, "reverse=True" if bare else ", reverse=True")
        bad_way, good_way = ("ascending", "descending") if cut else ("descending", "ascending")
        start = src.span(node)[0]
        bad = src.text[start : edit.start] + edit.new + src.text[edit.end : end + 1]
        yield src.mutation("sort_order", [edit], bad, src.of(node), bad_way=bad_way, good_way=good_way)


@statement_kind
def missing_sort_key(src: SourceTree) -> Iterator[Mutation]:
    """Sorting, `min` or `max` without the key."""
    calls = [*_sorting(src), *(n for n in src.nodes if isinstance(n, ast.Call) and named_call(n, "min", "max"))]
    for node in calls:
        cut = _without_keyword(src, node, "key")
        if cut:
            start, end = src.span(node)
            bad = src.text[start : cut.start] + src.text[cut.end : end]
            key = src.text[cut.start : cut.end].lstrip(", ")
            yield src.mutation("missing_sort_key", [cut], bad, src.of(node), key=key)


@statement_kind
def missing_normalisation(src: SourceTree) -> Iterator[Mutation]:
    """A forgotten `.lower()`, `.strip()` and the like."""
    for node in src.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in NORMALISERS:
            end, total = src.span(node.func.value)[1], src.span(node)[1]
            value, call = src.of(node.func.value), src.text[end:total]
            yield src.mutation("missing_normalisation", [Edit(end, total, "")], value, src.of(node), call=call)


@statement_kind
def missing_default(src: SourceTree) -> Iterator[Mutation]:
    """`d[k]` instead of `d.get(k, default)`."""
    for node in src.nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and len(node.args) == 2
        ):
            value, key, default = src.of(node.func.value), src.of(node.args[0]), src.of(node.args[1])
            yield src.replace("missing_default", node, f"{value}[{key}]", value=value, key=key, default=default)


@statement_kind
def missing_items(src: SourceTree) -> Iterator[Mutation]:
    """A loop over pairs without `.items()`, `enumerate` or `zip`."""
    for node in src.nodes:
        if not (isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.target, ast.Tuple)):
            continue
        call = node.iter
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "items":
            yield src.replace("missing_items", call, src.of(call.func.value), target=src.of(node.target))
        elif named_call(call, "enumerate") and isinstance(call, ast.Call) and call.args:
            yield src.replace("missing_items", call, src.of(call.args[0]), target=src.of(node.target))


@statement_kind
def in_place_result(src: SourceTree) -> Iterator[Mutation]:
    """Use of the result of a method that modifies its object in place and returns None."""
    for node in src.nodes:
        if isinstance(node, ast.Call) and named_call(node, "sorted") and len(node.args) == 1:
            value, rest = node.args[0], src.text[src.span(node.args[0])[1] : src.span(node)[1]].lstrip(", ")
            if isinstance(value, ast.Name) and isinstance(src.parent[node], (ast.Return, ast.Assign)):
                yield src.replace("in_place_result", node, f"{value.id}.sort({rest}", name=value.id)


@statement_kind
def missing_filter(src: SourceTree) -> Iterator[Mutation]:
    """A comprehension without its condition."""
    for node in src.nodes:
        if isinstance(node, ast.comprehension) and node.ifs:
            start, end = src.span(node.iter)[1], src.span(node.ifs[-1])[1]
            dropped = src.text[start:end]
            # A closing bracket before `if` belongs to the iterable, one after `if` to the condition.
            at = dropped.find("if ")
            if dropped[:at].strip() == "" and "\n" not in dropped and src.text[end : end + 1] in (")", "]", "}"):
                edit = Edit(start, end, "")
                if dropped.count("(") == dropped.count(")"):
                    test = dropped.strip()[3:]
                    yield src.mutation("missing_filter", [edit], "", dropped.strip(), test=test)
