"""All kinds of realistic bugs, and where each could be planted in a verified solution.

The kinds are those that people and small models really make: boundaries, comparisons, starting values, missing edge
cases, wrong operators, swapped arguments, lost returns, mutable defaults, slices, integer division, wrong keys,
premature returns, and name, type and attribute errors. Not every mutation here makes a test fail.
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
    """Every bug of the given kinds that could be planted, in a fixed order.

    Args:
        solution: source text of the verified solution.
        kinds: the finders to use, by name.

    Returns:
        Mutations that each give a program that parses and whose syntax tree differs from the solution's.

    Raises:
        SyntaxError: the solution does not parse.
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
