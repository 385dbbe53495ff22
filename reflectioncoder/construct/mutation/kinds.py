"""Finds all places of a verified solution in which realistic bugs can be planted.

The kinds of bugs are those that people and small models make: boundaries, comparisons, initial values, missing edge
cases, wrong operators, swapped arguments, missing returns, mutable defaults, slices, integer division, wrong keys,
premature returns, and name, type and attribute errors. Not every mutation makes a test fail.

The kinds of the package are the decorated functions of `bugs_expressions.py` and `bugs_statements.py`, with their
templates in `wordings.py`. Add yours to `BUG_KINDS`, or from outside the package with `BUG_KINDS.add`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reflectioncoder.construct.mutation.bugs_expressions import EXPRESSION_KINDS, Finder
from reflectioncoder.construct.mutation.bugs_statements import STATEMENT_KINDS
from reflectioncoder.construct.mutation.edits import Edit, Mutation, SourceTree, apply_edits
from reflectioncoder.construct.mutation.wordings import WORDING
from reflectioncoder.errors import UserError
from reflectioncoder.problems.problem import GivenMistake
from reflectioncoder.registry import Registry

# These kinds fit nearly every solution; with weight 1 they would dominate.
WEIGHTS = {"misspelt_name": 0.2, "lost_return": 0.4, "wrong_variable": 0.4, "wrong_return": 0.5, "wrong_method": 0.5}


@dataclass(frozen=True)
class BugKind:
    """A kind of bug: where it can be planted, and how an analysis explains it.

    Args:
        find: gets the solution as a `SourceTree` and yields a mutation for every place where the bug can be planted;
            the `kind` of each is the name under which this is registered.
        causes: templates of a clause that names the cause; the fields are in `wordings.py`.
        repairs: templates of a clause that names the repair, in the imperative.
        weight: how readily it is chosen among the kinds that fit a solution; 1 is normal, above 0.
    """

    find: Finder
    causes: tuple[str, ...]
    repairs: tuple[str, ...]
    weight: float = 1.0


BUG_KINDS: Registry[BugKind] = Registry(
    "bug kind",
    {
        **{
            name: BugKind(finder, *WORDING[name], WEIGHTS.get(name, 1.0))
            for name, finder in {**EXPRESSION_KINDS, **STATEMENT_KINDS}.items()
        },
        # add yours here
    },
)


def given_mutations(solution: str, mistakes: Sequence[GivenMistake]) -> list[Mutation]:
    """Return the mistakes that a problem brings along as bugs of its solution.

    Args:
        solution: source code of the verified solution.
        mistakes: see `Problem.mistakes`.

    Raises:
        UserError: the solution has no such line.
    """
    lines, found = solution.split("\n"), []
    for mistake in mistakes:
        if not 1 <= mistake.line <= len(lines):
            raise UserError(f"mistake '{mistake.kind}': the solution has no line {mistake.line}")
        good = lines[mistake.line - 1]
        start = sum(len(line) + 1 for line in lines[: mistake.line - 1])
        edits = (Edit(start, start + len(good), mistake.wrong),)
        clauses = (mistake.cause, mistake.repair)
        found.append(Mutation(mistake.kind, edits, mistake.wrong.strip(), good.strip(), mistake.line, {}, clauses))
    return found


def find_mutations(solution: str, kinds: Mapping[str, BugKind] = BUG_KINDS) -> list[Mutation]:
    """Return every bug of the given kinds that can be planted, in a fixed order.

    Args:
        solution: source code of the verified solution.
        kinds: the kinds to use, by name.

    Returns:
        mutations, each of which yields a valid program whose syntax tree differs from that of the solution.

    Raises:
        SyntaxError: the solution is not valid Python.
        UserError: a registered kind gives mutations of another kind.
    """
    source = SourceTree(solution)
    seen = {ast.dump(source.tree)}
    found = []
    for name, kind in kinds.items():
        for mutation in kind.find(source):
            if kinds is BUG_KINDS and mutation.kind != name:
                raise UserError(f"bug kind '{name}': its mutations have the kind '{mutation.kind}', not that name")
            try:
                tree = ast.dump(ast.parse(apply_edits(solution, [mutation])))
            except (SyntaxError, ValueError):
                continue
            if tree not in seen:
                seen.add(tree)
                found.append(mutation)
    return found
