"""Finds all places of a verified solution in which realistic bugs can be planted.

The kinds of bugs are those that people and small models make: boundaries, comparisons, initial values, missing edge
cases, wrong operators, swapped arguments, missing returns, mutable defaults, slices, integer division, wrong keys,
premature returns, and name, type and attribute errors. Not every mutation makes a test fail.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from reflectioncoder.construct.mutation.bugs_expressions import EXPRESSION_KINDS, Finder
from reflectioncoder.construct.mutation.bugs_statements import STATEMENT_KINDS
from reflectioncoder.construct.mutation.edits import Edit, Mutation, SourceTree, apply_edits

BUG_KINDS: Mapping[str, Finder] = {**EXPRESSION_KINDS, **STATEMENT_KINDS}
__all__ = ["BUG_KINDS", "Edit", "Mutation", "SourceTree", "apply_edits", "find_mutations"]


def find_mutations(solution: str, kinds: Mapping[str, Finder] = BUG_KINDS) -> list[Mutation]:
    """Return every bug of the given kinds that can be planted, in a fixed order.

    Args:
        solution: source code of the verified solution.
        kinds: the finders to use, by name of the kind.

    Returns:
        mutations, each of which yields a valid program whose syntax tree differs from that of the solution.

    Raises:
        SyntaxError: the solution is not valid Python.
    """
    source = SourceTree(solution)
    seen = {ast.dump(source.tree)}
    found = []
    for finder in kinds.values():
        for mutation in finder(source):
            try:
                tree = ast.dump(ast.parse(apply_edits(solution, [mutation])))
            except (SyntaxError, ValueError):
                continue
            if tree not in seen:
                seen.add(tree)
                found.append(mutation)
    return found
