"""HumanEval(+) and MBPP(+): data, comparison and verdicts, compared with evalplus itself as far as that is fast."""

import dataclasses
import gzip
import json
import math
import os
import re
import resource
import subprocess
import sys
import threading

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.check import check_all
from reflectioncoder.evaluate.evaluate import read_completions
from reflectioncoder.evaluate.results import summarize
from reflectioncoder.generate.completions import Completion
from reflectioncoder.interpreter.calls import bounded, call_all, decoded
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.judge import VALUE_CHARS
from reflectioncoder.sandbox import caller, values
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.evalplus.compare import first_wrong
from reflectioncoder.tasks.evalplus.data import HUMANEVAL_SOURCE, MBPP_SOURCE, decode_arguments, find_plus, read_plus
from reflectioncoder.tasks.registry import get_task

LIMITS = Limits(10.0, 4096, 1_000_000)
# Problems whose references are slow or return gigabytes. The commands in docs/evaluation.md run all problems.
SLOW = {"HumanEval/15", "HumanEval/94", "HumanEval/130", "HumanEval/139", "Mbpp/255", "Mbpp/599", "Mbpp/389"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFLECTIONCODER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pool():
    with Interpreter(LIMITS) as one, Interpreter(LIMITS) as two:
        yield [one, two]


def task_of(name, data):
    return get_task(name, TaskOptions(data=str(data)))


def only(task, keep):
    task.problems = {task_id: problem for task_id, problem in task.problems.items() if keep(task_id)}
    return task


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


# --- data -----------------------------------------------------------------------------------------------------------


def test_arguments_are_what_evalplus_makes_of_them(data):
    pytest.importorskip("evalplus", reason="evalplus is not installed; run: pip install --no-deps evalplus")
    from evalplus.data.mbpp import mbpp_deserialize_inputs

    problems, _ = read_plus(MBPP_SOURCE, find_plus(MBPP_SOURCE, str(data)))
    with gzip.open(data / "mbpp_plus/MbppPlus.jsonl.gz", "rt") as lines:
        rows = {row["task_id"]: row for row in map(json.loads, lines)}
    for problem in problems:
        for group in ("base", "plus"):
            theirs = mbpp_deserialize_inputs(problem.task_id, rows[problem.task_id][f"{group}_input"])
            assert repr([list(given) for given in problem.inputs[group]]) == repr([list(given) for given in theirs])


def test_arguments_become_tuples_sets_and_complex_numbers():
    assert decode_arguments("Mbpp/2", [[1], [2]]) == [(1,), (2,)]
    assert decode_arguments("Mbpp/124", ["1", "2j"]) == [1.0, 2j]
    assert decode_arguments("Mbpp/115", [[[1], []]]) == [[{1}, {}]]
    assert decode_arguments("HumanEval/2", [[1]]) == [[1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds neither humaneval_plus/HumanEvalPlus.jsonl.gz"),
        (b"\x1f\x8b\x08\x00broken", "cannot be read"),
        (b'{"task_id": "HumanEval/0"', "line 1: not JSON"),
        (b'{"task_id": "HumanEval/0"}\n', "line 1: not a problem of HumanEvalPlus"),
        (b'{"a": 1}\n', "line 1: not a problem with a 'task_id'"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"", "0 problems in it, but HumanEvalPlus v0.1.10 has 164"),
    ],
)
def test_data_that_is_missing_or_damaged_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "HumanEvalPlus.jsonl.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        get_task("humaneval_plus", TaskOptions(data=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        get_task("mbpp", TaskOptions(data=str(tmp_path / "none")))


def test_without_evalplus_data_humaneval_is_judged_by_its_own_asserts(data, pool, monkeypatch, tmp_path):
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval/HumanEval.jsonl.gz").write_bytes((data / "humaneval/HumanEval.jsonl.gz").read_bytes())
    task = task_of("humaneval", tmp_path)
    assert task.tests.startswith("HumanEval.jsonl.gz ") and len(task.prompts()) == 164
    assert task_of("humaneval", data).tests.startswith("HumanEvalPlus.jsonl.gz ")


def test_without_evalplus_data_mbpp_is_its_published_test_split_judged_by_asserts(data, pool, tmp_path):
    (tmp_path / "mbpp.jsonl").write_bytes((data / "mbpp/mbpp.jsonl").read_bytes())
    task, usual = task_of("mbpp", tmp_path), task_of("mbpp", data)
    assert task.tests.startswith("mbpp.jsonl ") and usual.tests.startswith("MbppPlus.jsonl.gz ")
    assert len(task.prompts()) == 500 and len(get_task("mbpp", TaskOptions(limit=3, data=str(tmp_path))).prompts()) == 3
    with (tmp_path / "mbpp.jsonl").open() as lines:
        code = {f"Mbpp/{row['task_id']}": row["code"] for row in map(json.loads, lines)}
    chosen = [*list(task.problems)[::10], "Mbpp/367"]  # the last one has set-up code before its tests
    completions = [Completion(name, s, text, "") for name in chosen for s, text in enumerate((code[name], "x = 1"))]
    results = check_all(task, completions, pool, LIMITS)
    assert [r.task_id for r in results if r.passed is not (r.sample == 0)] == []
    (tmp_path / "mbpp.jsonl").write_text('{"task_id": 11, "text": "x"}\n')
    with pytest.raises(UserError, match="line 1: not an MBPP problem"):
        task_of("mbpp", tmp_path)
    (tmp_path / "mbpp.jsonl").write_text('{"task_id": 601, "text": "x", "test_list": ["assert 1"]}\n')
    with pytest.raises(UserError, match="no problems of MBPP's test split"):
        task_of("mbpp", tmp_path)


def test_prompts_of_mbpp_are_those_of_appendix_d(data):
    prompt = task_of("mbpp", data).prompts()[0]
    assert prompt.instruction == (
        "Write a function to find the shared elements from the given two lists.\n"
        "Your code should satisfy the following assertion:\n```python\n"
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))\n```"
    )


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "published"), [("humaneval", 75.0), ("mbpp", 72.2)])
def test_published_figures_come_out_exactly(data, pool, name, published):
    task = task_of(name, data)
    completions = read_completions(str(data / f"reference_completions/CL-7B/{name}.jsonl"), task)
    score = summarize(name, check_all(task, completions, pool, LIMITS))
    assert score.pass_at_1 is not None and round(100 * score.pass_at_1, 1) == published


def every(task, step, *bodies):
    """Completions of every `step`-th problem, one sample per body; None means the canonical solution."""
    chosen = [problem for number, problem in enumerate(task.problems.values()) if number % step == 0]
    chosen = [problem for problem in chosen if problem.task_id not in SLOW]
    return [
        Completion(p.task_id, sample, body or p.reference, "", whole=body is None)
        for p in chosen
        for sample, body in enumerate(bodies)
    ]


def test_a_problem_without_added_tests_passes_by_its_base_tests(data, pool):
    task = task_of("mbpp_plus", data)
    bare = [problem for problem in task.problems.values() if not all(problem.inputs.values())]
    assert [problem.task_id for problem in bare]
    for problem in bare:
        assert task.check(problem.task_id, problem.reference, pool[0], LIMITS, whole=True).passed


@pytest.mark.parametrize(("name", "step"), [("humaneval", 2), ("mbpp", 4), ("humaneval_plus", 8), ("mbpp_plus", 12)])
def test_canonical_solutions_all_pass_and_broken_ones_all_fail(data, pool, name, step):
    task = task_of(name, data)
    completions = every(task, step, None, "\n", "\nraise ValueError()\n")
    results = check_all(task, completions, pool, LIMITS)
    assert [r.task_id for r in results if r.sample == 0 and not r.passed] == []
    assert [r.task_id for r in results if r.sample and r.passed] == []


def test_functions_that_return_nothing_or_never_return_fail(data, pool):
    task = task_of("humaneval_plus", data)
    bodies = [
        f"\ndef {{name}}(*a):\n    {body}\n"
        for body in ("return None", "return a", "raise SystemExit", "import os; os._exit(0)")
    ]
    some = list(task.problems.values())[::9]
    completions = [
        Completion(p.task_id, sample, body.format(name=p.entry_point), "")
        for p in some
        for sample, body in enumerate(bodies)
    ]
    completions.append(Completion("HumanEval/0", 9, "\ndef has_close_elements(*a):\n    while True: pass\n", ""))
    results = check_all(task, completions, pool, LIMITS)
    assert not any(r.passed for r in results) and results[-1].outcome == "timeout"
    assert {r.outcome for r in results if r.sample == 0} <= {"wrong", "error"}


def test_a_completion_stands_behind_the_prompt_and_a_solution_alone(data, pool):
    task = task_of("humaneval", data)
    body = "    return number % 1.0\n"
    for completion, whole, passed in (body, False, True), (body, True, False), ("", False, False), (task.problems[
        "HumanEval/2"].reference, True, True):  # fmt: skip
        assert task.check("HumanEval/2", completion, pool[0], LIMITS, whole).passed is passed
    with pytest.raises(UserError, match="no problem 'HumanEval/999'"):
        task.check("HumanEval/999", "", pool[0], LIMITS)


def test_a_damaged_cache_is_computed_anew(data, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    answer = ("HumanEval/2", "    return number % 1.0\n", pool[0], LIMITS)
    assert task_of("humaneval_plus", data).check(*answer).passed
    (kept,) = (tmp_path / "expected").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert task_of("humaneval_plus", data).check(*answer).passed
    assert task_of("humaneval_plus", data).check(*answer).groups == (("base", "ok"), ("plus", "ok"))


def test_a_reference_that_the_interpreter_loses_is_computed_again(data, tmp_path, monkeypatch):
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    task = only(task_of("humaneval", data), lambda task_id: task_id == "HumanEval/2")
    (problem,) = task.problems.values()
    reference = f"import time\ntime.sleep(2)\n{problem.reference}"
    task.problems["HumanEval/2"] = dataclasses.replace(problem, reference=reference)
    with Interpreter(LIMITS) as interpreter:
        lost = interpreter._warm.process
        threading.Timer(0.5, lost.kill).start()
        right = Completion("HumanEval/2", 0, "    return number % 1.0\n", "")
        (result,) = check_all(task, [right], [interpreter], LIMITS)
        assert (result.passed, result.outcome) == (True, "ok")
        assert lost.wait() == -9 and interpreter._warm.process is not lost


BUSY = """
import time
def truncate_number(number):
    end = time.process_time() + {}
    while time.process_time() < end: pass
    return number % 1.0
"""


@pytest.mark.parametrize(
    ("least", "factor", "seconds", "outcome"),
    [
        (0.05, 3.0, 0.15, "ok"),  # the reference takes 0.1 s, so the limit is 0.3 s
        (0.05, 3.0, 0.4, "timeout"),
        (0.6, 3.0, 0.4, "ok"),
        (0.05, 6.0, 0.4, "ok"),
    ],
)
def test_the_time_limit_of_a_call_is_a_multiple_of_the_references_time(
    data, pool, tmp_path, monkeypatch, least, factor, seconds, outcome
):
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    options = TaskOptions(data=str(data), min_time_limit=least, gt_time_limit_factor=factor)
    task = only(get_task("humaneval", options), lambda task_id: task_id == "HumanEval/2")
    (problem,) = task.problems.values()
    task.problems["HumanEval/2"] = dataclasses.replace(
        problem, reference=BUSY.format(0.1), inputs={"base": problem.inputs["base"][:1]}
    )
    assert task.check("HumanEval/2", BUSY.format(seconds), pool[0], LIMITS, whole=True).outcome == outcome


def test_the_reference_is_timed_again_beside_the_second_try(data, pool, tmp_path, monkeypatch):
    """The cached time is that of a faster machine; the answer takes as long as the reference takes now."""
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    options = TaskOptions(data=str(data), min_time_limit=0.05)
    task = only(get_task("humaneval", options), lambda task_id: task_id == "HumanEval/2")
    (problem,) = task.problems.values()
    slow = dataclasses.replace(problem, reference=BUSY.format(0.3), inputs={"base": problem.inputs["base"][:1]})
    task.problems["HumanEval/2"] = dataclasses.replace(slow, reference=BUSY.format(0))
    answer = Completion("HumanEval/2", 0, BUSY.format(0.3), "", whole=True)
    assert task.check("HumanEval/2", answer.completion, pool[0], LIMITS, whole=True).outcome == "timeout"
    task.problems["HumanEval/2"] = slow
    (result,) = check_all(task, [answer], pool, LIMITS)
    assert (result.passed, result.outcome) == (True, "ok")


VERDICTS = """
import json, sys
from evalplus.data import get_human_eval_plus, get_mbpp_plus
from evalplus.eval import untrusted_check, _special_oracle
from evalplus.gen.util import trusted_exec
name, completions = sys.argv[1], json.load(sys.stdin)
problems = get_human_eval_plus() if name == "humaneval" else get_mbpp_plus()
for task_id, completion in completions:
    p, name_of = problems[task_id], problems[task_id]["entry_point"]
    present = name == "mbpp" and name_of in _special_oracle.MBPP_OUTPUT_NOT_NONE_TASKS
    said = []
    for group in ("base", "plus"):
        inputs = p[group + "_input"]
        wanted, seconds = trusted_exec(p["prompt"] + p["canonical_solution"], inputs, name_of, True, present)
        program = p["prompt"] + completion
        said.append(untrusted_check(name, program, inputs, name_of, wanted, p["atol"], seconds, True)[0])
    print(json.dumps([task_id, said]), flush=True)
"""


@pytest.mark.parametrize(("name", "step"), [("humaneval", 9), ("mbpp", 21)])
def test_single_verdicts_are_those_of_evalplus(data, pool, tmp_path, name, step):
    """Compares a part of the reference completions; `benchmarks/scoring.py` compares all."""
    pytest.importorskip("evalplus", reason="evalplus is not installed; run: pip install --no-deps evalplus")
    task = task_of(f"{name}_plus", data)
    completions = read_completions(str(data / f"reference_completions/CL-7B/{name}.jsonl"), task)
    completions = [c for c in completions[::step] if c.task_id not in SLOW]
    for source in (HUMANEVAL_SOURCE, MBPP_SOURCE):
        plain = tmp_path / f"{source.stem}.jsonl"
        plain.write_bytes(gzip.decompress((data / source.folder / f"{source.stem}.jsonl.gz").read_bytes()))
    environment = {
        **os.environ,
        "HUMANEVAL_OVERRIDE_PATH": str(tmp_path / "HumanEvalPlus.jsonl"),
        "MBPP_OVERRIDE_PATH": str(tmp_path / "MbppPlus.jsonl"),
    }
    done = subprocess.run(
        [sys.executable, "-c", VERDICTS, name],
        input=json.dumps([(c.task_id, c.completion) for c in completions]),
        capture_output=True, text=True, env=environment, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = {task_id: set(said) == {"pass"} for task_id, said in map(json.loads, done.stdout.splitlines())}
    ours = {result.task_id: result.passed for result in check_all(task, completions, pool, LIMITS)}
    assert ours == theirs and len(set(ours.values())) == 2


def test_the_command_prints_one_object_and_writes_each_verdict(data, tmp_path):
    """Runs the command as a user does. Hostile, empty and malformed samples fail without affecting others."""
    lines = []
    with (data / "reference_completions/CL-7B/humaneval.jsonl").open() as rows:
        lines = [json.loads(row) for row in rows]
    hostile = {
        0: "",
        1: "x" * 1_000_000,
        2: "\0",
        3: "\ud800",
        4: "(" * 100_000,
        5: "import os\nos.kill(1, 9)\nos._exit(0)",
    }
    for place, text in hostile.items():
        lines[place]["completion"] = text
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "reflectioncoder", "evaluate", "humaneval", "--completions", str(path), "--json"]
    command += ["--data", str(data), "--output", str(tmp_path / "out"), "--formats", "evalplus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said) == ["task", "pass_at_1", "n", "low", "high", "not_run", "seconds"]
    assert (said["task"], said["n"], said["not_run"]) == ("humaneval", 164, 0)
    verdicts = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert not any(verdict["passed"] for verdict in verdicts[:6]) and sum(v["passed"] for v in verdicts) == 123 - 6
    theirs = json.loads((tmp_path / "out/eval_results.json").read_text())["eval"]
    assert [theirs[v["task_id"]][0]["base_status"] == "pass" for v in verdicts] == [v["passed"] for v in verdicts]


def test_a_program_that_imports_from_the_future_is_whole(data, pool):
    """As in evalplus, other completions stand behind the prompt, whatever they define."""
    task = task_of("humaneval", data)
    problem = next(iter(task.problems.values()))
    future = (
        '"""Mine."""\nfrom __future__ import (\n    annotations,\n)\nfrom __future__ import division; import math\n\n'
    )
    whole = f"{future}def {problem.entry_point}(numbers: Missing, threshold: Missing):\n    ones = sorted(numbers)\n"
    whole += "    return any(b - a < threshold for a, b in zip(ones, ones[1:]))\n"
    other = whole.replace(problem.entry_point, "other")
    completions = [Completion(problem.task_id, n, code, code) for n, code in enumerate((whole, other))]
    assert [result.passed for result in check_all(task, completions, pool, LIMITS)] == [True, False]
