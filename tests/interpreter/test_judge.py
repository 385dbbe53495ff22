"""The outside judge and its encoding of values."""

import math
from collections import ChainMap, UserDict, UserList, UserString
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.judge import Example, Judgement, judge
from reflectioncoder.sandbox.values import Opaque, decode_value, encode_value, same


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter(Limits(seconds=20)) as opened:
        yield opened


def one(interpreter: Interpreter, program: str, example: Example, **options: float) -> Judgement:
    return judge(program, "f", [example], interpreter, **options)[0]


# --- values ---------------------------------------------------------------------------------------------------------

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner) | st.sets(KEYS) | st.frozensets(KEYS)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_values_come_back_equal_and_of_the_same_type(value: object) -> None:
    back = decode_value(encode_value(value))
    assert type(back) is type(value)
    assert back == value
    assert same(back, value)


def test_surrogates_long_integers_infinities_and_nan_come_back() -> None:
    assert decode_value(encode_value(-(7**9000))) == -(7**9000)  # exceeds Python's limit on decimal digits
    for value in ("\ud800", -math.inf, 0.1 + 0.2, -0.0, bytearray(b"\xff")):
        assert repr(decode_value(encode_value(value))) == repr(value)
    assert math.isnan(decode_value(encode_value(math.nan)))


def test_what_is_not_plain_leaves_by_name_only_and_equals_nothing() -> None:
    class Always:
        def __eq__(self, other: object) -> bool:
            return True

    class Number(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    for value in (Always(), Number(3), [Always()], {"a": Number(3)}, print):
        back = decode_value(encode_value(value))
        assert not same(back, 3) and not same(back, [3]) and not same(back, {"a": 3}) and not same(back, back)
    assert decode_value(encode_value(Always())).kind == "Always"
    loop: list[object] = []
    loop.append(loop)
    assert "Opaque" not in repr(decode_value(encode_value(loop))) and not same(
        decode_value(encode_value(loop)), loop[:0]
    )


def test_numpy_values_leave_as_numbers_and_lists() -> None:
    value = (numpy.float64(0.5), numpy.int32(3), numpy.array([[1, 2], [3, 4]]), numpy.bool_(True))
    assert decode_value(encode_value(value)) == (0.5, 3, [[1, 2], [3, 4]], True)


def test_numbers_and_wrappers_of_the_standard_library_are_plain() -> None:
    third, ratio = Fraction(1, 3), Decimal("-0.10")
    assert decode_value(encode_value([third, ratio])) == [third, ratio]
    assert same(decode_value(encode_value(Fraction(1, 2))), 0.5)
    assert not same(decode_value(encode_value(Decimal("sNaN"))), 1)
    held = [
        UserList([1]),
        UserDict(a=1),
        UserString("b"),
        ChainMap({"a": 1}),
        MappingProxyType({"a": 1}),
        {1: 2}.items(),
    ]
    assert decode_value(encode_value(held)) == [[1], {"a": 1}, "b", {"a": 1}, {"a": 1}, {(1, 2)}]
    assert decode_value(encode_value(numpy.float32(0.1))).dtype == numpy.float32
    for value in (Fraction(16**5000), Decimal("1" * 5000), type("L", (UserList,), {})([1])):
        assert isinstance(decode_value(encode_value(value)), Opaque)


@pytest.mark.parametrize("text", ['["h", "system", "x"]', '["q", "0x1", "0x0"]', '["m", "x"]', '["h", "float32", "x"]'])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_value(text)


@pytest.mark.parametrize("text", ["", "{}", "[]", '["x"]', '["i", "zz"]', '["l", "object", []]', '["s"]', "[" * 99999])
def test_text_that_is_no_encoding_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_value(text)


@pytest.mark.parametrize(
    ("left", "right", "tolerance", "equal"),
    [
        (1, 1.0, 0.0, True),
        (True, 1, 0.0, True),
        ("1", 1, 0.0, False),
        ([1], (1,), 0.0, False),
        (0.1 + 0.2, 0.3, 0.0, False),
        (0.1 + 0.2, 0.3, 1e-9, True),
        ([{"a": (1.0, 2.0000001)}], [{"a": (1.0, 2.0)}], 1e-6, True),
        ([{"a": (1.0, 2.1)}], [{"a": (1.0, 2.0)}], 1e-6, False),
        ({1, 2, 3}, {3, 2, 1}, 0.0, True),
        ({1.0, 2.0}, {2.0000000001, 1.0}, 1e-6, True),
        ({1.0, 2.0}, {2.1, 1.0}, 1e-6, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 0.0, True),
        ({"a": 1}, {"a": 1, "b": 2}, 0.0, False),
        ({0.30000000000000004: 1}, {0.3: 1}, 1e-9, True),
        (math.nan, math.nan, 0.0, True),
        ([1, 2], [2, 1], 0.0, False),
        (3, 4, 1.0, False),
        (10**400, 1.0, 1e-6, False),
        (1 + 1e-12j, 1.0, 1e-9, True),
    ],
)
def test_comparison(left: object, right: object, tolerance: float, equal: bool) -> None:
    assert same(left, right, tolerance) is equal
    assert same(right, left, tolerance) is equal


@given(VALUES)
def test_an_opaque_value_equals_nothing(value: object) -> None:
    assert not same(Opaque("A"), value) and not same(value, Opaque("A"))


# --- the judge ------------------------------------------------------------------------------------------------------


def test_right_and_wrong_values_and_exceptions(interpreter: Interpreter) -> None:
    program = "def f(x, plus=0):\n    if x < 0:\n        raise ValueError('negative')\n    return {x: [x + plus]}"
    examples = [
        Example((1,), {1: [1]}),
        Example((1,), {1: [3]}, {"plus": 2}),
        Example((1,), {1: [2]}),
        Example((-1,), raises="ValueError"),
        Example((-1,), {}),
        Example((1,), raises="ValueError"),
    ]
    got = judge(program, "f", examples, interpreter)
    assert [g.passed for g in got] == [True, True, False, True, False, False]
    assert [g.outcome for g in got] == ["ok", "ok", "wrong", "ok", "error", "wrong"]
    assert got[2].value == {1: [1]} and got[4].detail == "raised ValueError"


@pytest.mark.parametrize(
    "program",
    [
        "class A:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return A()",
        "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(5)",
        "class A(list):\n    def __eq__(self, other): return True\ndef f(x): return [A()]",
        "import builtins, json\nbuiltins.AssertionError = int\njson.dumps = lambda *a, **k: 'true'\ndef f(x): return 1",
        "import os\ndef f(x):\n    os._exit(0)",
        "import sys\ndef f(x):\n    sys.exit(0)",
        "def f(x):\n    print('2')",
        'import os\nw = os.write\nos.write = lambda fd, data: w(fd, b\'["value", "true"]\')\ndef f(x): return 0',
        "def f(x):\n    return " + "[" * 80 + "]" * 80,
    ],
)
def test_tricks_that_fool_asserts_do_not_pass(interpreter: Interpreter, program: str) -> None:
    assert not one(interpreter, program, Example((1,), 2)).passed


def test_expected_values_never_enter_the_program(interpreter: Interpreter) -> None:
    program = """
import gc, sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found += [repr(frame.f_globals), repr(frame.f_locals), repr(frame.f_code.co_consts)]
        frame = frame.f_back
    return chr(55) * 30 in "".join(found)
"""
    got = one(interpreter, program, Example((1,), "7" * 30))
    assert got.value is False and got.outcome == "wrong"


def test_after_a_broken_limit_the_rest_is_judged_in_a_fresh_session(interpreter: Interpreter) -> None:
    program = "import time\ncalls = []\ndef f(x):\n    calls.append(x)\n    time.sleep(x)\n    return len(calls)"
    examples = [Example((0,), 1), Example((30,), 2), Example((0,), 1)]
    got = judge(program, "f", examples, interpreter, Limits(seconds=1))
    assert [g.outcome for g in got] == ["ok", "timeout", "ok"]


def test_a_program_that_does_not_run_fails_every_example(interpreter: Interpreter) -> None:
    got = judge("def f(x) return x", "f", [Example((1,), 1)] * 2, interpreter)
    assert [(g.passed, g.outcome, g.detail[:11]) for g in got] == [(False, "error", "SyntaxError")] * 2


@pytest.mark.slow
def test_tolerance_methods_and_large_values(interpreter: Interpreter) -> None:
    assert one(interpreter, "def f(x): return x / 3", Example((1.0,), 0.333333), tolerance=1e-4).passed
    assert not one(interpreter, "def f(x): return x / 3", Example((1.0,), 0.333333)).passed
    program = "class Solution:\n    def solve(self, n):\n        return list(range(n))"
    got = judge(program, "Solution().solve", [Example((100_000,), list(range(100_000)))], interpreter)
    assert got[0].passed


def test_bad_requests_are_named(interpreter: Interpreter) -> None:
    with pytest.raises(UserError, match=r"entry point 'f\(1\)': not the name of a function"):
        judge("def f(x): return x", "f(1)", [], interpreter)
    with pytest.raises(UserError, match="example 1: expected must be plain data"):
        judge("def f(x): return x", "f", [Example((1,), 1), Example((1,), object())], interpreter)
