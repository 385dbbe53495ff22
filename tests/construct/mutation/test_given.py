"""Bugs are planted in the solution only: given code is run, never changed, and not part of the text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reflectioncoder.construct.filters.determinism import unstable
from reflectioncoder.construct.filters.sequence import Rejected, code_fails, final_code, final_code_fails
from reflectioncoder.construct.mutation.sequence import reflect_by_mutation
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.problem import Problem

GIVEN = """class Node:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


def node_of(values):
    head = None
    for value in reversed(values):
        head = Node(value, head)
    return head


def values_of(node):
    found = []
    while node:
        found.append(node.val)
        node = node.next
    return found
"""
SOLUTION = """def doubled(head: Node):
    node = head
    while node:
        node.val = node.val * 2
        node = node.next
    return head
"""
TESTS = (
    "assert values_of(doubled(node_of([1, 2]))) == [2, 4]",
    "assert values_of(doubled(node_of([]))) == []",
    "assert values_of(doubled(node_of([5]))) == [10]",
)
PROBLEM = Problem("list", "Double the values of a linked list.", SOLUTION, TESTS, "doubled", given=GIVEN)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as one:
        yield one


@pytest.mark.slow
def test_given_code_is_run_and_neither_changed_nor_shown(interpreter: Interpreter) -> None:
    for seed in range(12):
        dialogue = reflect_by_mutation(PROBLEM, interpreter, seed)
        assert isinstance(dialogue, Dialogue), dialogue
        text = "\n".join(block.content for message in dialogue.messages for block in message.blocks)
        assert all(line not in text for line in ("class Node", "def node_of", "def values_of", "reversed("))
        assert "Cell In[0]" not in text and "Cell In[2]" not in text
        codes = [block.content for block in dialogue.first_round if block.type == "code"]
        assert all(code.startswith("def doubled(head") for code in codes)
        assert final_code(dialogue) == SOLUTION.strip()
        assert (
            "The interpreter already has `Node`, `node_of` and `values_of`." in dialogue.messages[0].blocks[0].content
        )
        assert dialogue.messages[2].blocks[0].content == PROBLEM.instruction
        for place, block in enumerate(dialogue.first_round):
            if block.type == "execution":
                code = dialogue.first_round[place - 1].content
                assert interpreter.run(code, given=GIVEN).text == block.content
        assert final_code_fails(dialogue, PROBLEM, interpreter) is None
        assert unstable(dialogue, PROBLEM, interpreter) is None


def test_given_code_that_fails_is_named(interpreter: Interpreter) -> None:
    broken = Problem("b", "Double.", SOLUTION, TESTS, "doubled", given="import nothing_of_this_name\n")
    made = reflect_by_mutation(broken, interpreter, 0)
    assert isinstance(made, Rejected)
    assert made.reason == "given code fails"
    assert "nothing_of_this_name" in made.detail


def test_final_code_is_checked_after_the_given_code(interpreter: Interpreter) -> None:
    assert code_fails(SOLUTION, PROBLEM, interpreter) is None
    assert "AssertionError" in (code_fails(SOLUTION.replace("* 2", "* 3"), PROBLEM, interpreter) or "")


def test_the_interpreter_does_not_number_given_code(interpreter: Interpreter) -> None:
    first, second = interpreter.run(["1 / 0", "f(0)"], given="def f(x):\n    return 1 / x\n")
    assert "Cell In[1], line 1" in first.text
    assert "Cell In[2], line 1" in second.text and "Cell In[0], line 2, in f(x)" in second.text
    assert interpreter.run("1 / 0").text == interpreter.run("1 / 0", given="x = 1").text
