"""Gives the reference solution the attempt's names, so that other names of variables are no differences."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping

from reflectioncoder.construct.attempts.differences import TreeComparison, normal_tree
from reflectioncoder.construct.mutation.edits import Edit, FunctionNode, Mutation, SourceTree, apply_edits

ANY = "_"  # stands for every variable when two programs are aligned for the first time


def with_names_of(attempt: SourceTree, reference: SourceTree) -> SourceTree:
    """Rename the variables of a reference solution to those of an attempt that play the same part.

    Parameters correspond by place, other variables by where they stand in the aligned trees. Functions, classes and
    attributes keep their names.

    Args:
        attempt: the tree of a program from `normal_tree`.
        reference: the same of the solution.

    Returns:
        the renamed solution; the solution itself if nothing has to be renamed, or if its text cannot be renamed.
    """
    theirs, mine = variables_in(reference.tree), variables_in(attempt.tree)
    names = _chosen(_fixed(attempt.tree, reference.tree), _votes(attempt, reference, mine, theirs), mine, theirs)
    if all(old == new for old, new in names.items()):
        return reference
    try:
        renamed = normal_tree(_renamed(reference, names))
    except SyntaxError:
        return reference
    expected = ast.dump(_Renaming(names).visit(normal_tree(reference.text).tree))
    return renamed if ast.dump(renamed.tree) == expected else reference


def variables_in(tree: ast.AST) -> list[str]:
    """Return the parameters and the names that are assigned inside functions, in order and without repetition."""
    found: dict[str, None] = {}
    for function in ast.walk(tree):
        if isinstance(function, FunctionNode):
            for node in ast.walk(function):
                if isinstance(node, ast.arg):
                    found[node.arg] = None
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found[node.id] = None
    return list(found)


def _functions(tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            yield node.name, node


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    rest = [item for item in (given.vararg, given.kwarg) if item is not None]
    return [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)]


def _fixed(attempt: ast.AST, reference: ast.AST) -> dict[str, str]:
    """Return the names of parameters, which correspond by their places in functions of the same name."""
    mine = dict(_functions(attempt))
    names: dict[str, str] = {}
    for name, function in _functions(reference):
        if name in mine:
            ours, theirs = _parameters(mine[name]), _parameters(function)
            if len(ours) == len(theirs):
                for old, new in zip(theirs, ours, strict=True):
                    names.setdefault(old, new)
    return names


def _votes(attempt: SourceTree, reference: SourceTree, mine: list[str], theirs: list[str]) -> Counter[tuple[str, str]]:
    """Count how often a variable of the reference stands where one of the attempt does in the aligned trees."""
    trees = []
    for source, names in ((attempt, mine), (reference, theirs)):
        copy = normal_tree(source.text)
        for node in ast.walk(copy.tree):
            if isinstance(node, ast.Name) and node.id in names:
                node.was, node.id = node.id, ANY  # type: ignore[attr-defined]
            elif isinstance(node, ast.arg) and node.arg in names:
                node.was, node.arg = node.arg, ANY  # type: ignore[attr-defined]
        trees.append(copy)
    comparison = TreeComparison(*trees)
    votes = Counter({(name, name): 1 for name in theirs if name in mine})
    if len(list(ast.walk(attempt.tree))) * len(list(ast.walk(reference.tree))) > 400_000:
        return votes
    for left, right in comparison.pairs(trees[0].tree, trees[1].tree):
        if hasattr(left, "was") and hasattr(right, "was"):
            votes[right.was, left.was] += 1
    return votes


def _chosen(
    fixed: Mapping[str, str], votes: Counter[tuple[str, str]], mine: list[str], theirs: list[str]
) -> dict[str, str]:
    """Choose one name of the attempt for each variable, most votes first; no two variables get the same name."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for old, new in [
        *fixed.items(),
        *(pair for pair, _ in sorted(votes.items(), key=lambda item: (-item[1], item[0]))),
    ]:
        if old not in names and new not in taken:
            names[old] = new
            taken.add(new)
    for old in theirs:
        if old not in names:  # the attempt has nothing like it: its own name, if that is free
            free = (old, *(f"{old}{number}" for number in range(2, len(mine) + len(theirs) + 3)))
            names[old] = next(name for name in free if name not in taken and (name not in mine))
            taken.add(names[old])
    return names


def _renamed(source: SourceTree, names: Mapping[str, str]) -> str:
    """Rename in the text, so that its layout stays."""
    edits = []
    for node in ast.walk(source.tree):
        name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
        if names.get(name, name) != name:
            start = source.at(node.lineno, node.col_offset)  # type: ignore[attr-defined]
            edits.append(Edit(start, start + len(name), names[name]))
    unique = {(edit.start, edit.end): edit for edit in edits}
    return apply_edits(source.text, [Mutation("", tuple(unique.values()), "", "", 1)])


class _Renaming(ast.NodeTransformer):
    """Renames variables and parameters in a tree."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self.names.get(node.arg, node.arg)
        return node
