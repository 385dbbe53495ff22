"""Names that a program defines, shadows or assigns to builtins change neither our code nor its verdicts."""

from collections.abc import Iterator

import pytest

from reflectioncoder.interpreter.calls import call_all
from reflectioncoder.interpreter.exchange import OwnCode
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.judge import Example, judge
from reflectioncoder.sandbox import caller
from reflectioncoder.tasks.run_tests import run_tests

LIMITS = Limits(seconds=20)
NAMES = (
    "list type next any all object float int str bool dict set tuple frozenset bytes bytearray range complex len"
    " isinstance issubclass iter map zip sorted hasattr getattr vars repr eval exec compile id hash print open"
    " Exception BaseException AssertionError __import__ __build_class__ __name__ json os sys types values caller"
    " equality program answer guarded serve marshal time signal"
).split()
FUNCTION = "def f(x):\n    if x < 0:\n        raise ValueError('negative')\n    return {x: [x, 'a', 1.5, (x,)]}\n"
EXAMPLES = [Example((1,), {1: [1, "a", 1.5, (1,)]}), Example((-1,), raises="ValueError")]
RIGHT_TESTS = """
def check(candidate):
    assert candidate(1) == {1: [1, 'a', 1.5, (1,)]}
    assert candidate(2) == {2: [2, 'a', 1.5, (2,)]}
check(f)
"""
ALWAYS = """
class Always:
    def __eq__(self, other):
        return True
    __hash__ = None
def f(x):
    return Always()
"""
# values that would make our comparison accept everything if it resolved names in the program's globals
ACCEPTING = [
    "def any(values): return False",
    "def type(value): return int",
    "def all(values): return True",
    "def next(*values): return None",
    "def issubclass(*values): return False",
    "class object:\n    __eq__ = lambda self, other: False",
    "bool = lambda value: False",
    "import builtins\nbuiltins.any = lambda values: False",
    "import builtins\nbuiltins.type = lambda value: int",
    "import builtins\nbuiltins.issubclass = lambda *values: False",
    "__builtins__ = {'any': lambda values: False}",
    "for name in [n for n in globals() if n.startswith('_same')]:\n    globals()[name] = lambda a, b: True",
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter(LIMITS) as opened:
        yield opened


def shadowed(name: str) -> str:
    return f"{FUNCTION}{name} = ['shadowed']\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_right_program_may_shadow_any_name(interpreter: Interpreter, name: str) -> None:
    got = judge(shadowed(name), "f", EXAMPLES, interpreter)
    assert [(g.passed, g.detail) for g in got] == [(True, ""), (True, "raised ValueError")]
    verdict = run_tests([shadowed(name)], RIGHT_TESTS, interpreter, LIMITS)
    assert (verdict.passed, verdict.error) == (True, "")


@pytest.mark.parametrize("name", NAMES)
def test_a_right_program_may_shadow_any_name_when_called(interpreter: Interpreter, name: str) -> None:
    packed = caller.pack_program([[1], [-1]])
    with interpreter.session(LIMITS, module=True) as session:
        made = call_all(session, shadowed(name), "f", packed, [5.0, 5.0], LIMITS)
    assert len(made.records) == 1 and made.error == "ValueError: negative"


@pytest.mark.parametrize("name", ["any", "all", "next", "sorted", "zip", "map", "type", "eval", "bool", "open"])
def test_a_right_program_may_assign_to_a_builtin(interpreter: Interpreter, name: str) -> None:
    program = f"import builtins\n{FUNCTION}builtins.{name} = None\n"
    assert judge(program, "f", EXAMPLES[:1], interpreter)[0].passed
    assert run_tests([program], RIGHT_TESTS, interpreter, LIMITS).passed


def test_a_program_has_the_builtins_of_its_interpreter(interpreter: Interpreter) -> None:
    program = "import builtins\nbuiltins.answer = 42\ndef f(x): return answer, __builtins__ is vars(builtins)"
    with interpreter.session(LIMITS, module=True) as session:
        made = call_all(session, program, "f", caller.pack_program([[1]]), [5.0], LIMITS)
    assert made.records == (["t", [42, True]],)


@pytest.mark.parametrize("accepting", ACCEPTING)
def test_a_value_that_equals_everything_does_not_pass(interpreter: Interpreter, accepting: str) -> None:
    for program in (f"{accepting}\n{ALWAYS}", f"{ALWAYS}\n{accepting}"):
        verdict = run_tests([program], "assert f(1) == 2", interpreter, LIMITS)
        assert (verdict.passed, verdict.outcome) == (False, "error")
        assert not judge(program, "f", [Example((1,), 2)], interpreter)[0].passed


@pytest.mark.parametrize("raised", ["KeyError", "ValueError", "Mine"])
def test_the_type_of_an_exception_is_its_own(interpreter: Interpreter, raised: str) -> None:
    program = f"class Mine(Exception): pass\ndef f(x): raise {raised}('x')\nclass type:\n    __name__ = 'ValueError'\n"
    got = judge(f"{program}    def __init__(self, error): pass", "f", [Example((1,), raises="ValueError")], interpreter)
    assert (got[0].passed, got[0].detail) == (raised == "ValueError", f"raised {raised}")


def test_our_code_leaves_no_names_in_the_program(interpreter: Interpreter) -> None:
    program = "before = set(globals())\ndef f(x):\n    return sorted(set(globals()) - before - {'f', 'before'})"
    assert judge(program, "f", [Example((1,), [])], interpreter)[0].passed
    with interpreter.session(LIMITS, module=True) as session:
        assert session.run("names = sorted(globals())").ok
        assert session.run(OwnCode("word = 1\nimport fractions\nprogram['names'] = len(program['names'])")).ok
        assert session.run("word").exception == session.run("fractions").exception == "NameError"
        assert session.run(OwnCode("assert word == 1 and fractions.Fraction(1)")).ok


def test_failing_own_code_is_no_success(interpreter: Interpreter) -> None:
    for wrong in ("1 / 0", "raise SystemExit", "x ="):
        with interpreter.session(LIMITS, module=True) as session:
            assert not session.run_together(["y = 1", OwnCode(wrong)]).ok
