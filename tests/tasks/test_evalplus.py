"""HumanEval(+) and MBPP(+): data and verdicts, compared with evalplus itself as far as that is fast."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
import threading

import pytest
from plus import LIMITS, only, task_of

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.check import check_all
from reflectioncoder.evaluate.evaluate import read_completions
from reflectioncoder.evaluate.results import summarize
from reflectioncoder.generate.completions import Completion
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.evalplus.data import HUMANEVAL_SOURCE, MBPP_SOURCE, decode_arguments, find_plus, read_plus
from reflectioncoder.tasks.registry import get_task

pytestmark = pytest.mark.slow

# Problems whose references are slow or return gigabytes. The commands in docs/evaluation.md run all problems.
SLOW = {"HumanEval/15", "HumanEval/94", "HumanEval/130", "HumanEval/139", "Mbpp/255", "Mbpp/599", "Mbpp/389"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFLECTIONCODER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
