"""Applying all differences turns an attempt into the reference, in the attempt's names."""

from __future__ import annotations

import ast
import itertools
import re

import pytest

from reflectioncoder.construct.attempts.differences import TreeDifference, differences, normal_tree
from reflectioncoder.construct.attempts.names import with_names_of
from reflectioncoder.problems.procedural.problems import procedural_problems

SUM = """def f(values):
    result = 0
    for v in values:
        if v > 0:
            result += v
    return result
"""


def found(attempt: str, reference: str) -> list[TreeDifference]:
    ours = normal_tree(attempt)
    return differences(ours, with_names_of(ours, normal_tree(reference)))


def applied(attempt: str, chosen: list[TreeDifference]) -> str:
    """Apply edits from the last to the first; of those at one place, additions stand in their order."""
    for item in sorted(chosen, key=lambda d: (d.edit.start, d.edit.end, d.order), reverse=True):
        attempt = attempt[: item.edit.start] + item.edit.new + attempt[item.edit.end :]
    return attempt


def test_pairs_of_programs_become_equal() -> None:
    problems = procedural_problems(30, 3, "train", (1, 2, 3, 4))
    compared = 0
    for one, other in itertools.pairwise(problems):
        assert one.solution and other.solution and one.entry_point and other.entry_point
        renamed = re.sub(rf"\b{other.entry_point}\b", one.entry_point, other.solution)
        attempt, reference = normal_tree(one.solution), normal_tree(renamed)
        reference = with_names_of(attempt, reference)
        chosen = differences(attempt, reference)
        if chosen:
            compared += 1
            result = normal_tree(applied(one.solution, chosen)).tree
            assert ast.dump(result) == ast.dump(reference.tree), one.solution + renamed
    assert compared >= 25


def test_other_names_and_comments_and_annotations_are_no_differences() -> None:
    attempt = "def f(xs: list) -> int:\n    '''Sums.'''\n    total: int = 0  # start\n    for item in xs:\n"
    attempt += "        if item > 0:\n            total += item\n    return total\n"
    assert found(attempt, SUM) == []


def test_a_difference_is_as_small_as_the_trees_allow() -> None:
    attempt = SUM.replace("> 0", ">= 1").replace("return result", "return result + 1")
    assert [(d.old, d.new, d.what) for d in found(attempt, SUM)] == [
        ("v >= 1", "v > 0", "condition"),
        ("result + 1", "result", "result"),
    ]


def test_added_and_removed_steps_and_branches() -> None:
    attempt = "def f(x):\n    x = x + 1\n    if x:\n        y = 1\n    return y\n"
    reference = "def f(x):\n    if x:\n        y = 1\n    else:\n        y = 2\n    y += x\n    return y\n"
    assert [(d.old, d.new, d.what) for d in found(attempt, reference)] == [
        ("x = x + 1", "", "removed"),
        ("", "else:\n    y = 2", "added"),
        ("", "y += x", "added"),
    ]


@pytest.mark.parametrize(
    ("attempt", "reference", "result"),
    [
        ("return a * b", "return (a + 1) * b", "(a + 1) * b"),
        ("return sum(x for x in a)", "return sum([x * 2 for x in a])", "sum([x * 2 for x in a])"),
        ("if a: return 1\n    return 2", "if a: return 3\n    return 2", "if a: return 3"),
        (
            "if a:\n        return 1\n    elif a > 2:\n        return 2\n    return 0",
            "if a:\n        return 1\n    elif a > 3:\n        return 2\n    return 0",
            "elif a > 3:",
        ),
        ("ö = 'ß' + a\n    return ö", "c = 'ß' + a + a\n    return c", "ö = 'ß' + a + a"),
    ],
)
def test_expressions_keep_their_meaning_in_their_new_place(attempt: str, reference: str, result: str) -> None:
    attempt, reference = (f"def f(a, b):\n    {body}\n" for body in (attempt, reference))
    program = applied(attempt, found(attempt, reference))
    assert result in program
    ours = normal_tree(attempt)
    assert ast.dump(normal_tree(program).tree) == ast.dump(with_names_of(ours, normal_tree(reference)).tree)


def test_two_variables_never_get_one_name() -> None:
    attempt = "def f(a):\n    total = a\n    return total\n"
    reference = "def f(x):\n    first = x\n    total = first + x\n    return total * first\n"
    ours = normal_tree(attempt)
    renamed = with_names_of(ours, normal_tree(reference))
    scope: dict[str, object] = {}
    exec(renamed.text, scope)
    assert scope["f"](3) == 18  # type: ignore[operator]


def test_programs_that_are_too_large_are_not_compared() -> None:
    long = "def f(x):\n" + "    x = x + 1 - 1\n" * 400 + "    return x\n"
    assert found(long, long.replace("+ 1", "+ 2")) == []
