"""Tasks: prompts of appendix D, and verdicts on real programs in the real interpreter."""

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.answers.dialects import defines
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.humaneval import HumanEval
from reflectioncoder.tasks.problem_sets import ProblemTask
from reflectioncoder.tasks.registry import get_task
from reflectioncoder.tasks.run_tests import run_tests

LIMITS = Limits(5.0, 512, 1_000_000)
DOUBLE = Problem("double", "Write double(x).", tests=("assert double(2) == 4", "assert double([1]) == [1, 1]"))


@pytest.fixture(scope="module")
def interpreter():
    with Interpreter(LIMITS) as opened:
        yield opened


def check(code, interpreter, limits=LIMITS):
    return ProblemTask("mine", [DOUBLE], 64).check("double", code, interpreter, limits)


def test_a_right_answer_passes(interpreter):
    verdict = check("def double(x):\n    print('chatter')\n    return x * 2\n", interpreter)
    assert verdict.passed and verdict.outcome == "ok" and verdict.error == ""


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("def double(x):\n    return x\n", "error"),
        ("def double(x:\n", "error"),
        ("", "error"),
        ("raise ValueError('at once')\ndef double(x):\n    return x * 2\n", "error"),
    ],
)
def test_wrong_answers_fail_with_their_outcome(code, outcome, interpreter):
    verdict = check(code, interpreter)
    assert (verdict.passed, verdict.outcome) == (False, outcome)
    assert verdict.error


@pytest.mark.parametrize(
    "code",
    [
        "import os\ndef double(x):\n    os._exit(0)\n",
        "import sys\nsys.exit(0)\n",
        "import sys\ndef double(x):\n    sys.exit(0)\n",
        "def double(x):\n    raise SystemExit\n",
        "import os\nos._exit(0)\n",
        "class Any:\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return Any()\n",
        "class Any(int):\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Any() if x == 2 else [Any()] * 2\n",
        "class Any:\n    __module__ = 'builtins'\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Any()\n",
        "class Any(list):\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return Any()\n",
        "class Any:\n    def __eq__(self, other):\n        return isinstance(other, (int, list))\n"
        "def double(x):\n    return Any()\n",
        "class Same(type):\n    def __eq__(self, other):\n        return True\n    __hash__ = type.__hash__\n"
        "class Any(metaclass=Same):\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Any()\n",
        "class Any(int):\n    def __eq__(self, other):\n        return True\n"
        "class Hiding(list):\n    def __iter__(self):\n        return iter(())\n"
        "def double(x):\n    return 4 if x == 2 else Hiding([Any(), Any()])\n",
        "import builtins\nbuiltins.AssertionError = SystemExit\ndef double(x):\n    return 0\n",
        "import unittest.mock\ndef double(x):\n    return unittest.mock.ANY\n",
    ],
)
def test_leaving_early_or_equalling_everything_does_not_pass(code, interpreter):
    assert not check(code, interpreter).passed


def test_an_endless_answer_runs_out_of_time(interpreter):
    verdict = check("def double(x):\n    while True: pass\n", interpreter, Limits(0.5, 512, 1000))
    assert (verdict.passed, verdict.outcome) == (False, "timeout")


def test_classes_of_the_answer_may_compare_as_they_like(interpreter):
    code = (
        "class P:\n    def __init__(self, x):\n        self.x = x\n"
        "    def __eq__(self, other):\n        return isinstance(other, P) and self.x == other.x\n"
    )
    assert run_tests([code], "assert P(1) == P(1)\nassert not P(1) == P(2)", interpreter, LIMITS).passed


def test_classes_that_compare_with_their_own_kind_only_and_those_of_libraries_pass(interpreter):
    code = (
        "import collections, fractions\nP = collections.namedtuple('P', 'a b')\n"
        "class Q:\n    def __init__(self, x):\n        self.x = x\n"
        "    def __eq__(self, other):\n        return self.x == other.x\n"
    )
    tests = (
        "assert Q(1) == Q(1)\nassert P(1, 2) == (1, 2)\nassert collections.Counter('aab') == {'a': 2, 'b': 1}\n"
        "assert fractions.Fraction(1, 2) == 0.5\nassert [Q(1), {2: Q(3)}] == [Q(1), {2: Q(3)}]\n"
        "assert {'a': 1}.keys() == {'a'}\nassert collections.deque([1]) == collections.deque([1])"
    )
    verdict = run_tests([code], tests, interpreter, LIMITS)
    assert verdict.passed, verdict
    assert not run_tests([code], "assert [Q(1)] == [Q(2)]", interpreter, LIMITS).passed


def test_tests_that_are_not_python_are_named(interpreter):
    with pytest.raises(UserError, match="tests are not Python"):
        run_tests(["x = 1"], "assert (", interpreter, LIMITS)


def test_humaneval_prompt_is_that_of_appendix_d():
    prompt = HumanEval(TaskOptions(limit=1)).prompts()[0]
    assert prompt.task_id == "HumanEval/0"
    assert prompt.instruction.startswith(
        "Write a complete Python function for the problem.\n\nfrom typing import List\n\n\ndef has_close_elements("
    )
    assert prompt.continuation == prompt.instruction.split("\n\n", 1)[1]
    assert len(HumanEval().prompts()) == 164


def test_humaneval_takes_whole_functions_and_bodies(interpreter):
    task = HumanEval(TaskOptions(limit=1))
    body = "    s = sorted(numbers)\n    return any(b - a < threshold for a, b in zip(s, s[1:]))\n"
    whole = "def has_close_elements(numbers: List[float], threshold: float) -> bool:\n" + body
    for completion in (body, whole):  # both use List, which the prompt imports
        assert task.check("HumanEval/0", completion, interpreter, LIMITS).passed
    assert not task.check("HumanEval/0", body.replace("<", ">"), interpreter, LIMITS).passed


def test_helper_functions_of_the_prompt_are_there_for_whole_functions():
    cells = HumanEval().cells("HumanEval/38", "def decode_cyclic(s):\n    return encode_cyclic(encode_cyclic(s))\n")
    assert "def encode_cyclic" in cells[0] and "def decode_cyclic" not in cells[0]


def test_defines_looks_at_the_top_level_only():
    assert defines("def f(): pass", "f") and defines("class f: pass", "f") and defines("f = len", "f")
    assert defines("def f(x):\n  return (", "f")  # does not parse
    assert not defines("class A:\n    def f(self): pass", "f")
    assert not defines("    return f(x)\n", "f")


def test_unknown_names_are_errors(interpreter):
    with pytest.raises(UserError, match=r"task 'humanevil': not one of heldout"):
        get_task("humanevil")
    with pytest.raises(UserError, match="no problem 'HumanEval/999'"):
        HumanEval().check("HumanEval/999", "", interpreter, LIMITS)


def test_problems_without_tests_or_with_one_id_twice_are_refused():
    with pytest.raises(UserError, match="'double' has no tests"):
        ProblemTask("mine", [Problem("double", "Write double(x).")], 64)
    with pytest.raises(UserError, match="1 problem ids occur more than once"):
        ProblemTask("mine", [DOUBLE, DOUBLE], 64)


def test_the_handwritten_problems_are_a_task(interpreter):
    task = get_task("handwritten", TaskOptions(limit=3))
    assert len(task.prompts()) == 3
    for problem in task.problems.values():
        assert task.check(problem.id, problem.solution, interpreter, LIMITS).passed


def test_held_out_problems_are_the_same_for_a_seed():
    ids = [[prompt.instruction for prompt in get_task("heldout", TaskOptions(seed, 8)).prompts()] for seed in (0, 0, 1)]
    assert len(ids[0]) == 8 and ids[0] == ids[1] != ids[2]


def test_a_file_of_problems_is_a_task(tmp_path, interpreter):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"id": "a", "instruction": "Write inc(x).", "solution": "def inc(x):\\n    return x + 1", '
        '"tests": ["assert inc(1) == 2"], "entry_point": "inc"}\n'
    )
    task = get_task(str(path))
    (prompt,) = task.prompts()
    assert prompt.instruction == "Write inc(x)."
    assert task.check(prompt.task_id, "def inc(x):\n    return x + 1\n", interpreter, LIMITS).passed


def test_a_candidate_runs_as_a_module_and_not_as_a_notebook(interpreter):
    candidate = """
import asyncio, sys, unittest
async def later(x):
    return x
def f(x):
    return asyncio.run(later(x))
if __name__ == "__main__":
    unittest.main()
assert len(sys.argv) == 1
"""
    verdict = run_tests([candidate], "assert f(3) == 3", interpreter, Limits(seconds=10))
    assert verdict.passed, verdict
