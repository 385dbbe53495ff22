"""Checks that the last round of a sequence is deterministic, by running it again.

Asserts on random numbers, clocks or addresses pass by chance, so such sequences must not be trained on. All sessions
have the same hash seed, so an order that depends only on string hashes is not detected.
"""

from __future__ import annotations

import re

from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import InfrastructureError
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.interpreter.portable import run_portably
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.cells import uses_earlier

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+\b")
STOPPED = "The interpreter was stopped ("  # an execution block with this text means that the session's state was lost


def last_program(dialogue: Dialogue) -> tuple[list[str], str]:
    """Return the cells of the last round and its output; they include earlier cells only if it uses their names."""
    earlier: list[str] = []
    code = ""
    pairs = []
    for block in dialogue.first_round:
        if block.type == "code":
            code = block.content
        elif block.type == "execution":
            pairs.append((code, block.content))
    for cell, printed in pairs[:-1]:
        if STOPPED in printed:
            earlier.clear()
        else:
            earlier.append(cell)
    last, printed = pairs[-1]
    return [*(earlier if uses_earlier(last, earlier) else ()), last], printed


def unstable(dialogue: Dialogue, problem: Problem, interpreter: Interpreter, repeats: int = 2) -> Rejected | None:
    """Rerun the last round in fresh sessions, and compare outcome and output, ignoring addresses.

    Args:
        dialogue: a sequence whose last round succeeded.
        problem: the sequence's problem.
        interpreter: an open interpreter.
        repeats: number of reruns.

    Returns:
        a rejection if a rerun differs, otherwise None.

    Raises:
        InfrastructureError: the interpreter failed, so there is no verdict on the sequence.
    """
    cells, printed = last_program(dialogue)
    for number in range(1, repeats + 1):
        result = run_portably(interpreter, cells, given=problem.given)[-1]
        if result.outcome == "infrastructure":
            raise InfrastructureError(result.message)
        if not result.ok:
            why = f"{result.outcome}: {result.exception or ''} {result.message or ''}".strip()
            return Rejected(problem.id, "non_deterministic", f"run again ({number}), the last round ends with {why}")
        if _plain(result.text) != _plain(printed):
            return Rejected(problem.id, "non_deterministic", f"run again ({number}), the last round prints otherwise")
    return None


def _plain(text: str) -> str:
    return ADDRESS.sub("0x", text).strip()
