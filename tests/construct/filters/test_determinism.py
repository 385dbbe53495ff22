"""The last round is rerun under the same conditions and must give the same result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reflectioncoder.construct.filters.determinism import last_program, unstable
from reflectioncoder.dialogues.dialogue import Block, Dialogue, reflection_dialogue
from reflectioncoder.errors import InfrastructureError
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter
from reflectioncoder.problems.problem import Problem

PROBLEM = Problem("p", "Write `f`.")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as opened:
        yield opened


def sequence(*rounds: tuple[str, str]) -> Dialogue:
    blocks = [item for code, text in rounds for item in (Block("code", code), Block("execution", text))]
    return reflection_dialogue("Write and test `f`.", blocks, PROBLEM.instruction, "def f(): ...")


def reason(dialogue: Dialogue, interpreter: Interpreter, repeats: int = 2) -> str:
    rejected = unstable(dialogue, PROBLEM, interpreter, repeats)
    if rejected is not None:
        assert (rejected.problem_id, rejected.reason) == ("p", "non_deterministic")
    return rejected.detail if rejected else ""


@pytest.mark.parametrize(
    ("code", "printed", "detail"),
    [
        ("print(1 + 1)\nassert True", "2\n", ""),
        ("print(object())\nassert True", "<object object at 0x7f0a11>\n", ""),
        ("import random\nrandom.seed(1)\nprint(random.random())", "0.13436424411240122\n", ""),
        ("import random\nprint(random.random())", "0.25", "run again (1), the last round prints otherwise"),
        ("import time\nassert time.time() < 1000", "",
         "run again (1), the last round ends with error: AssertionError"),
        ("import os\nassert os.getpid() == 1_000_000_007, os.getpid()", "", "ends with error: AssertionError"),
    ],
)  # fmt: skip
def test_only_what_comes_out_the_same_is_stable(code: str, printed: str, detail: str, interpreter: Interpreter) -> None:
    found = reason(sequence(("bad", "NameError"), (code, printed)), interpreter)
    assert detail in found
    assert bool(detail) == bool(found)
    assert reason(sequence((code, printed)), interpreter, repeats=0) == ""


def test_what_differs_from_run_to_run_is_found(interpreter: Interpreter) -> None:
    code = "import random\nassert random.random() < 0.5"
    rejected = [bool(reason(sequence((code, "")), interpreter, repeats=20)) for _ in range(2)]
    assert rejected == [True, True]  # passes 20 times in a row with probability 1e-6


def test_a_notebook_needs_its_earlier_cells_and_a_whole_program_does_not(interpreter: Interpreter) -> None:
    define, test = ("def f(x):\n    return 2 * x", ""), ("assert f(1) == 2", "")
    assert last_program(sequence(define, test)) == ([define[0], test[0]], "")
    assert reason(sequence(define, test), interpreter) == ""
    whole = (f"{define[0]}\n{test[0]}", "")
    assert last_program(sequence(define, whole)) == ([whole[0]], "")
    lost = ("f = 3\nwhile True: pass", "The interpreter was stopped (over 5 s) and has lost its state.")
    assert last_program(sequence(lost, define, test)) == ([define[0], test[0]], "")


def test_a_failure_of_ours_is_not_the_programs() -> None:
    class Broken:
        def run(self, cells: list[str], limits: object = None, given: str = "") -> list[CellResult]:
            return [CellResult("infrastructure", "", message="gone")]

    with pytest.raises(InfrastructureError, match="gone"):
        unstable(sequence(("x = 1", "")), PROBLEM, Broken())  # type: ignore[arg-type]
