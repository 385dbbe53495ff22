"""Values that programs return: how they come out of the interpreter, and how they are compared as by evalplus."""

import json
import math
import re
import resource

import pytest
from plus import LIMITS

from reflectioncoder.interpreter.calls import bounded, call_all, decoded
from reflectioncoder.interpreter.interpreter import Limits
from reflectioncoder.interpreter.judge import VALUE_CHARS
from reflectioncoder.sandbox import caller, values
from reflectioncoder.tasks.evalplus.compare import first_wrong

pytestmark = pytest.mark.slow

# --- returned values ------------------------------------------------------------------------------------------------


def records(pool, program, inputs=((1,), (2,)), mode="value", seconds=2.0):
    packed = caller.pack_program([list(arguments) for arguments in inputs])
    with pool[0].session(LIMITS, module=True) as session:
        return call_all(session, program, "f", packed, [seconds] * len(inputs), LIMITS, mode)


def test_values_come_back_in_order_whatever_the_program_prints(pool):
    calls = records(
        pool, "import sys\ndef f(x):\n    print('x' * 100000)\n    sys.stderr.write('y')\n    return x, 'é'"
    )
    assert (calls.outcome, calls.records) == ("ok", (["t", [1, "é"]], ["t", [2, "é"]]))


STUBBORN = """
import time
def f(x):
    while True:
        try:
            time.sleep(9)
        except Exception: pass
"""
MEDDLING = """
import os
def f(x):
    for fd in range(3, 250):
        try: os.write(fd, b'[[[[\\n')
        except OSError: pass
    return x
"""


@pytest.mark.parametrize(
    ("program", "outcome", "error"),
    [
        ("def f(x:", "error", "SyntaxError"),
        ("def g(x): return x", "error", "KeyError: 'f'"),
        ("def f(x):\n    raise ValueError('no\\nmore')", "error", "ValueError: no$"),
        ("def f(x):\n    while True: pass", "timeout", "ran out of its time"),
        (STUBBORN, "timeout", "over 3 s"),
        ("import os\ndef f(x): os._exit(0)", "killed", "status 0"),
        ("def f(x): exit()", "error", "NameError|SystemExit"),
        ("def f(x): return f(x)", "error", "RecursionError"),
    ],
)
def test_programs_that_fail_say_how(pool, program, outcome, error):
    limits = Limits(3.0, 512, 100_000)
    with pool[0].session(limits, module=True) as session:
        calls = call_all(session, program, "f", caller.pack_program([[1]]), [0.5], limits)
    assert calls.outcome == outcome and re.search(error, calls.error) and not calls.records


def test_what_a_program_writes_among_the_records_is_no_right_value(pool):
    calls = records(pool, MEDDLING)
    assert calls.outcome != "ok" and not calls.records


# --- comparison by evalplus's rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "expected", "atol", "right"),
    [
        ("1.0", "1", 0, True),
        ("True", "1", 0, True),
        ("[1, 2]", "(1, 2)", 0, False),
        ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}", 0, True),
        ("__import__('collections').namedtuple('P', 'a b')(1, 2)", "(1, 2)", 0, True),
        ("{'a': 1}.keys()", "{'a'}", 0, True),
        ("0.1 + 0.2", "0.3", 0, True),  # floats are compared with a tolerance
        ("0.3001", "0.3", 0, False),
        ("[0.1 + 0.2, 1.0]", "[0.3, 1.0]", 0, True),
        ("[0.1 + 0.2, 1]", "[0.3, 1]", 0, False),  # not all items are floats: exact comparison
        ("__import__('numpy').float64(0.1 + 0.2)", "0.3", 0, False),  # another type: exact comparison
        ("__import__('numpy').float64(0.5)", "0.5", 0, True),
        ("__import__('numpy').array([1, 2])", "[1, 2]", 0, False),
        ("3", "2.9999", 1e-3, False),  # int and float are different types: exact comparison
        ("2.9995", "2.9999", 1e-3, True),
        ("float('nan')", "float('nan')", 0, False),
        ("'x' * 20000", "'x' * 20000", 0, True),
        ("'x' * 20000", "'x' * 20001", 0, False),
        ("[float(i) for i in range(20000)]", "list(range(20000))", 0, True),  # large values, equal as numbers
        ("tuple(range(20000))", "list(range(20000))", 0, False),
        ("[i + 0.5 for i in range(5000)]", "[i + 0.5 for i in range(5000)]", 0, True),
        ("[(i + 0.5, 1.0) for i in range(110000)]", "[(i + 0.5, 1) for i in range(110000)]", 0, True),  # by hash
        ("[(i + 0.5, 1) for i in range(110000)]", "[(i + 0.5, 2) for i in range(110000)]", 0, False),
        ("__import__('fractions').Fraction(1, 2)", "0.5", 0, True),
        ("{__import__('fractions').Fraction(4, 2): __import__('decimal').Decimal(1)}", "{2: 1}", 0, True),
        ("__import__('fractions').Fraction(1, 3)", "1 / 3", 0, False),  # another type: exact comparison
        ("__import__('decimal').Decimal('0.5')", "0.5", 0, True),
        ("__import__('decimal').Decimal('0.1')", "0.1", 0, False),
        ("__import__('decimal').Decimal('sNaN')", "1", 0, False),
        ("__import__('decimal').Decimal('1e999999999')", "1", 0, False),
        ("__import__('fractions').Fraction(10 ** 99999)", "10 ** 99999", 0, False),  # evalplus accepts this one
        ("[__import__('decimal').Decimal(i) for i in range(30000)]", "list(range(30000))", 0, True),  # by hash
        ("__import__('collections').UserList(range(30000))", "list(range(30000))", 0, True),
        ("list(__import__('numpy').arange(30000))", "list(range(30000))", 0, True),
        ("[__import__('numpy').float64(i) for i in range(30000)]", "list(range(30000))", 0, True),
        ("__import__('collections').UserList([1, 2])", "[1, 2]", 0, True),
        ("__import__('collections').UserList([1, 2])", "(1, 2)", 0, False),
        ("type('L', (__import__('collections').UserList,), {})([1, 2])", "[1, 2]", 0, True),
        ("[__import__('collections').UserDict({'a': 1})]", "[{'a': 1}]", 0, True),
        ("__import__('collections').UserString('ab')", "'ab'", 0, True),
        ("__import__('collections').ChainMap({'a': 1}, {'b': 2})", "{'a': 1, 'b': 2}", 0, True),
        ("__import__('types').MappingProxyType({'a': 1})", "{'a': 1}", 0, True),
        ("__import__('types').MappingProxyType({'a': 1})", "{'a': 2}", 0, False),
        ("{'a': 1}.items()", "{('a', 1)}", 0, True),
        ("{'a': 1}.values()", "[1]", 0, False),
        ("__import__('collections').deque([1])", "[1]", 0, False),
        ("memoryview(b'ab')", "b'ab'", 0, True),
        ("__import__('numpy').uint8(3)", "3", 0, True),
        ("__import__('numpy').bool_(True)", "True", 0, True),
        ("__import__('numpy').float32(0.1)", "0.1", 0, True),  # numpy 2 compares in the narrower precision
        ("[__import__('numpy').float32(0.1)]", "[0.1]", 0, True),
        ("__import__('numpy').complex64(0.1 + 1j)", "0.1 + 1j", 0, True),
        ("__import__('numpy').longdouble(0.1)", "0.1", 0, True),
        ("__import__('numpy').matrix([[1]])", "1", 0, True),
        ("type('A', (), {'__eq__': lambda *a: True})()", "1", 0, False),  # evalplus accepts this one
        ("type('A', (), {'__eq__': lambda self, other: other == 1})()", "1", 0, False),  # and this one, which is honest
        ("type('A', (int,), {'__eq__': lambda *a: True})(2)", "1", 0, False),
    ],
)
def test_values_are_compared_as_by_evalplus(pool, returned, expected, atol, right):
    given = records(pool, f"__name__ = 'm'\ndef f(x): return {returned}", [(0,)]).records
    wanted = records(pool, f"def f(x): return {expected}", [(0,)]).records
    assert len(given) == len(wanted) == 1
    assert first_wrong("humaneval", "f", [(0,)], given, wanted, atol) == (None if right else 0)


def test_a_float_makes_the_calls_after_it_tolerant():
    near = [0.30000000000000004, ["v", "list", '["l", "list", [["l", "list", [["f", "0x1.3333333333334p-2"]]]]]']]
    exact = [0.3, ["v", "list", '["l", "list", [["l", "list", [["f", "0x1.3333333333333p-2"]]]]]']]
    assert first_wrong("mbpp", "f", [(), ()], near, exact, 0) is None
    assert first_wrong("mbpp", "f", [(), ()], [1, near[1]], [1, exact[1]], 0) == 1


def encoded(kind, value):
    return ["v", kind, values.encode_value(value)]


COLLIDING = encoded("set", {number * (2**61 - 1) for number in range(20)})  # equal hashes: quadratic decoding time
COLLIDING[2] = COLLIDING[2].replace("[[", "[" + '["i", "0x0"], ' * 20_000 + "[", 1)


@pytest.mark.parametrize("record", [COLLIDING, [*COLLIDING, "more"]])
def test_values_far_larger_than_expected_are_not_decoded(record):
    assert decoded(bounded(record, 1))[1] != decoded(record)[1]
    assert bounded(["s", record, 1], ["s", 1, 1]) == ["s", bounded(record, 1), 1]
    assert bounded(record, record) is record
    for mode, name in (record, "f"), (["s", record, record], "Diff"):
        assert first_wrong("mbpp", name, [()], [mode], [["s", 1, 1] if name == "Diff" else 1], 1e-3) == 0


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (["v", "str", ["deep"]], 1.5),
        (encoded("numpy.ndarray", ["x" * 50_000] + [""] * 12_000), encoded("list", [1.5] * 12_001)),  # 2 GB of text
        (encoded("list", ["x" * 50_000] + [""] * 12_000), encoded("list", [1.5] * 12_001)),
        (["l", [[[0]] * 3000] * 300], ["l", [1.5] * 300]),  # 270 million items when broadcast
        (["l", [0] * 5000 + [json.loads("[" * 900 + "]" * 900)]], ["#", "list", "0" * 64]),
    ],
)
def test_values_that_are_costly_to_compare_are_wrong(record, expected):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert first_wrong("mbpp", "f", [()], [record], [expected], 1e-3) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # KiB


def test_many_broken_numbers_leave_as_a_digest_unless_they_may_be_compared_with_a_tolerance():
    tuples = [(number + 0.5, number) for number in range(caller.MANY)]
    assert caller.record_of(tuples)[0] == "#" and caller.record_of(tuples[:1000])[0] == "v"
    assert caller.record_of([number + 0.5 for number in range(caller.MANY + 1)])[0] == "v"
    assert caller.record_of([*tuples, math.nan])[0] == "v"  # NaN equals nothing, so a hash cannot be compared


def test_a_value_as_large_as_the_expected_one_is_compared():
    large = dict.fromkeys(range(30_000), 0.5)
    text = encoded("dict", large)
    assert len(text[2]) > VALUE_CHARS
    assert first_wrong("mbpp", "f", [()], [text], [text], 0) is None
    assert first_wrong("mbpp", "f", [()], [text], [encoded("dict", {**large, 7: 0.25})], 0) == 0
    assert first_wrong("mbpp", "f", [()], [text], [1], 0) == 0


def test_special_rules_of_single_problems():
    roots = [([-6, 11, -6, 1],), ([0, 1],)]
    assert first_wrong("humaneval", "find_zero", roots, [3, 1e-5], [1, 0], 1e-4) is None
    assert first_wrong("humaneval", "find_zero", roots, [3, ["l", [0]]], [1, 0], 1e-4) == 1
    assert first_wrong("humaneval", "find_zero", [([1, 1],)], [math.inf], [-1], 1e-4) == 0
    assert first_wrong("mbpp", "are_equivalent", [(1, 2)], [None], [True], 0) is None
    assert first_wrong("mbpp", "sum_div", [(7,)], [0], [1], 0) is None
    assert first_wrong("mbpp", "digit_distance_nums", [(23, 5)], [4], [9], 0) is None  # |2 - 0| + |3 - 5|
    assert first_wrong("mbpp", "digit_distance_nums", [(23, 5)], [2], [9], 0) == 0
    assert first_wrong("mbpp", "surface_Area", [(3, 4)], [35], [33], 0) is None  # 9 + 6 * sqrt(1.5 ** 2 + 4 ** 2)


def test_sets_and_presence(pool):
    given = records(pool, "def f(x): return (n for n in (2, 1, 1))", [(0,)], "set").records
    wanted = records(pool, "def f(x): return [1, 2]", [(0,)], "set").records
    assert first_wrong("mbpp", "Diff", [(0,)], given, wanted, 0) is None
    assert records(pool, "def f(x): return [[]]", [(0,)], "set").outcome == "error"
    wanted = [["+"], None]
    for answers, wrong in ([True, False], None), ([["+"], None], None), ([False, None], 0), ([["+"], ["+"]], 1):
        assert first_wrong("mbpp", "check_str", [(), ()], answers, wanted, 0) == wrong
