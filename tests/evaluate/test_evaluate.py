"""Scoring with real programs in the real interpreter."""

import dataclasses
import gzip
import json
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from reflectioncoder.cli.main import main
from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.check import check_all
from reflectioncoder.evaluate.compare import compare
from reflectioncoder.evaluate.evaluate import evaluate, read_completions
from reflectioncoder.evaluate.results import Result, read_results, summarize
from reflectioncoder.evaluate.verdict_log import VerdictLog
from reflectioncoder.generate.completions import Completion, read_completion
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.problems.problem import Problem
from reflectioncoder.tasks.base import Verdict
from reflectioncoder.tasks.humaneval import HumanEval
from reflectioncoder.tasks.problem_sets import ProblemTask

LIMITS = Limits(10.0, 1024, 1_000_000)


@pytest.mark.slow
def test_humaneval_canonical_solutions_all_pass_and_broken_ones_all_fail():
    task = HumanEval()
    completions = []
    for task_id, row in task.problems.items():
        completions += [
            Completion(task_id, 0, row["canonical_solution"], ""),
            Completion(task_id, 1, row["prompt"] + row["canonical_solution"], ""),
            Completion(task_id, 2, "    return None\n", ""),
        ]
    with Interpreter(LIMITS) as one, Interpreter(LIMITS) as two:
        results = check_all(task, completions, [one, two], LIMITS)
    assert [(r.task_id, r.sample) for r in results] == [(c.task_id, c.sample) for c in completions]
    assert [sum(r.passed for r in results if r.sample == s) for s in range(3)] == [164, 164, 0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def problems(tmp_path):
    rows = [
        {"id": name, "instruction": f"Write {name}(x).", "tests": [f"assert {name}(1) == {i}"], "entry_point": name}
        for i, name in enumerate(("zero", "one", "two"))
    ]
    return write(tmp_path / "problems.jsonl", rows)


def config(problems, completions, output, **settings):
    return EvaluateConfig(GenerateConfig(task=problems), completions, str(output), seconds=2.0, **settings)


def test_a_file_of_completions_is_scored_and_written(problems, tmp_path):
    lines = [
        {"task_id": "two", "solution": "def two(x):\n    return x\n"},  # the key of evalplus; a wrong answer
        {"task_id": "zero", "completion": "def zero(x):\n    return 0\n"},
        {"task_id": "one", "completion": "def one(x):\n    return x\n"},
        {"task_id": "zero", "completion": "def zero(x):\n    return 1\n"},
        {"task_id": "one", "completion": "def one(x):\n    return 1\n"},
        {"task_id": "two", "completion": "def two(:\n"},
    ]
    score = evaluate(config(problems, write(tmp_path / "c.jsonl", lines), tmp_path / "out", k=(1, 2)))
    # zero: 1 of 2, one: 2 of 2, two: 0 of 2
    assert score.n == 3 and score.pass_at_1 == pytest.approx(0.5)
    assert score.k == pytest.approx({1: 0.5, 2: 2 / 3})
    assert 0 < score.low < 0.5 < score.high < 1
    verdicts = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [(v["task_id"], v["sample"], v["passed"]) for v in verdicts] == [
        ("zero", 0, True), ("zero", 1, False), ("one", 0, True), ("one", 1, True), ("two", 0, False), ("two", 1, False),
    ]  # fmt: skip
    assert verdicts[1]["error"] == "AssertionError" and verdicts[5]["error"].startswith("SyntaxError")
    written = json.loads((tmp_path / "out/score.json").read_text())
    assert written["pass_at_1"] == score.pass_at_1 and written["task"] == problems and written["k"]["2"] == score.k[2]
    assert (tmp_path / "out/config.toml").is_file() and (tmp_path / "out/config.versions.json").is_file()


def test_a_line_with_both_keys_is_a_whole_program_as_in_evalplus():
    found = read_completion({"task_id": "a", "completion": "    return 1", "solution": "def f(): return 1"}, "line 1")
    assert (found.completion, found.whole, found.finish) == ("def f(): return 1", True, "")


def test_every_k_that_is_asked_for_is_printed_and_truncated_answers_are_named(problems, tmp_path, capsys):
    lines = [
        {"task_id": name, "completion": f"def {name}(x): return {answer}", "finish": "length" if answer else "end"}
        for name in ("zero", "one", "two")
        for answer in (0, 1, 2)
    ]
    path = write(tmp_path / "c.jsonl", lines)
    words = ["--completions", path, "--output", str(tmp_path / "out"), "--k", "1,2,3", "--seconds", "2"]
    assert main(["evaluate", problems, *words]) == 0
    printed = capsys.readouterr()
    assert "pass@1 33.3% [" in printed.out and "], pass@2 66.7%, pass@3 100.0%, n = 3" in printed.out  # 1 of 3 each
    assert printed.err.splitlines() == [
        "6 answers ran out of tokens before their code ended; raise max_new_tokens",
        f"verdicts are in {tmp_path / 'out'}",
    ]


def test_answers_that_ran_out_of_tokens_are_counted(problems, tmp_path):
    body = "def {0}(x):\n    return {1}\n"
    # "one" was cut off in the prose after its code, so it does not count as truncated
    ended = {"zero": ("length", ""), "one": ("length", "```\nThis is"), "two": ("end", "")}
    lines = [
        {"task_id": name, "completion": body.format(name, 0), "raw": body.format(name, 0) + more, "finish": finish}
        for name, (finish, more) in ended.items()
    ]
    score = evaluate(config(problems, write(tmp_path / "c.jsonl", lines), tmp_path / "out"))
    assert score.truncated == 1 == json.loads((tmp_path / "out/score.json").read_text())["truncated"]


def test_two_runs_are_compared_problem_by_problem(problems, tmp_path):
    for name, answers in (("a", (0, 0, 0)), ("b", (0, 1, 2))):
        lines = [
            {"task_id": task_id, "completion": f"def {task_id}(x):\n    return {answer}\n"}
            for task_id, answer in zip(("zero", "one", "two"), answers, strict=True)
        ]
        evaluate(config(problems, write(tmp_path / f"{name}.jsonl", lines), tmp_path / name))
    found = compare(tmp_path / "a", tmp_path / "b/results.jsonl")
    assert (found.n, found.only_first, found.only_second) == (3, 0, 2)
    assert found.difference == pytest.approx(2 / 3) and found.p_value == pytest.approx(0.5)


def verdicts(folder, task, tests, *outcomes):
    folder.mkdir()
    rows = [asdict(Result(str(i), 0, outcome == "ok", outcome, "", 0.1)) for i, outcome in enumerate(outcomes)]
    write(folder / "results.jsonl", rows)
    (folder / "score.json").write_text(json.dumps({"task": task, "tests": tests}))
    return folder


def test_problems_that_one_of_two_runs_could_not_run_are_no_gain(tmp_path):
    before = verdicts(tmp_path / "a", "ds1000", "x", "not_run", "ok", "error", "not_run")
    after = verdicts(tmp_path / "b", "ds1000", "x", "ok", "ok", "ok", "not_run")
    found = compare(before, after)
    assert (found.n, found.not_run, found.first, found.second) == (2, 2, 0.5, 1.0)
    assert (found.only_first, found.only_second) == (0, 1)
    with pytest.raises(UserError, match="no problem was run in both"):
        compare(before, verdicts(tmp_path / "c", "ds1000", "x", "ok", "not_run", "not_run", "ok"))


@pytest.mark.parametrize(
    ("task", "tests", "message"),
    [
        ("humaneval_plus", "x", "task 'humaneval' and 'humaneval_plus'"),
        ("humaneval", "y", "tests 'x' and 'y'"),
        ("humaneval", "", None),  # scores of older versions do not name the tests
        ("somewhere/humaneval", "x", None),
    ],
)
def test_runs_of_other_tasks_or_tests_are_not_compared(task, tests, message, tmp_path):
    first, second = verdicts(tmp_path / "a", "humaneval", "x", "ok"), verdicts(tmp_path / "b", task, tests, "error")
    if message is None:
        assert compare(first, second).only_first == 1
    else:
        with pytest.raises(UserError, match=message):
            compare(first / "results.jsonl", second)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"task_id": "three", "completion": ""}], "line 1: task .* has no problem 'three'"),
        ([{"task_id": "one", "completion": ""}], "no completion for 2 problems, the first is 'zero'"),
        ([{"task_id": "one"}], "line 1: has neither 'completion' nor 'solution'"),
        ([{"task_id": "one", "completion": 3}], "line 1: 'completion' .* must be text"),
        ([{"task_id": "one", "completion": "", "sample": -1}], "'sample' a number of at least 0"),
        ([{"completion": "x"}], "line 1: expected an object with 'task_id'"),
        ([{"task_id": "one", "sample": 0, "completion": ""}] * 2, "line 2: sample 0 of problem 'one' occurs twice"),
    ],
)
def test_bad_lines_are_named(lines, message, problems, tmp_path):
    with pytest.raises(UserError, match=message):
        evaluate(config(problems, write(tmp_path / "c.jsonl", lines), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_problems_without_a_completion_count_as_failed_only_when_asked(problems, tmp_path):
    path = write(tmp_path / "c.jsonl", [{"task_id": "one", "completion": "def one(x): return 1"}])
    score = evaluate(config(problems, path, tmp_path / "out", partial=True))
    assert (score.n, score.pass_at_1) == (3, pytest.approx(1 / 3))
    assert [r.outcome for r in read_results(tmp_path / "out")] == ["ok", "missing", "missing"]


def test_completions_of_unknown_problems_are_left_out_only_when_asked(problems, tmp_path):
    lines = [{"task_id": "gone", "completion": "x"}, {"task_id": "one", "completion": "def one(x): return 1"}]
    path, said = write(tmp_path / "c.jsonl", lines), []
    with pytest.raises(UserError, match=r"line 1: task .* has no problem 'gone'; --partial leaves such"):
        evaluate(config(problems, path, tmp_path / "out"))
    score = evaluate(config(problems, path, tmp_path / "out", partial=True), warn=said.append)
    assert (score.n, score.missing, score.pass_at_1) == (3, 2, pytest.approx(1 / 3))
    assert len(said) == 1 and said[0].startswith("1 completions are of problems that task") and "'gone'" in said[0]
    only = write(tmp_path / "d.jsonl", lines[:1])
    with pytest.raises(UserError, match=r"none of its problems are in task .*, the first is 'gone'"):
        evaluate(config(problems, only, tmp_path / "out2", partial=True))


@pytest.mark.slow
def test_chat_answers_are_cleaned_when_asked_and_a_hint_says_so(problems, tmp_path, capsys):
    names = ("zero", "one", "two")
    answers = [
        {"task_id": name, "completion": f"Sure:\n```python\ndef {name}(x):\n    return {i}\n```\nIt is `{i}`."}
        for i, name in enumerate(names)
    ]
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, answers)).encode()))
    arguments = ["evaluate", problems, "--completions", str(path), "--seconds", "5", "--output"]
    assert main([*arguments, str(tmp_path / "raw")]) == 0
    out, err = capsys.readouterr()
    assert "pass@1 0.0%" in out
    assert "warning: 3 of 3 completions are not Python, the first is that of 'zero'; if they are answers" in err
    assert main([*arguments, str(tmp_path / "clean"), "--clean"]) == 0
    out, err = capsys.readouterr()
    assert "pass@1 100.0%" in out and "warning" not in err
    wrong = [{"task_id": name, "completion": "def f(x): return"} for name in names[:2]]
    wrong.append({"task_id": "two", "completion": "no Python"})
    said: list[str] = []
    evaluate(config(problems, write(tmp_path / "d.jsonl", wrong), tmp_path / "some"), warn=said.append)
    assert said == []


def test_too_few_samples_for_k_are_said_before_anything_is_checked(problems, tmp_path):
    lines = [{"task_id": t, "completion": "import time; time.sleep(60)"} for t in ("zero", "one", "two", "zero")]
    path = write(tmp_path / "c.jsonl", lines)
    for partial in (False, True):
        with pytest.raises(
            UserError, match=r"k = \[1, 2\], but 2 problems have fewer samples, the first is 'one' with 1"
        ):
            evaluate(config(problems, path, tmp_path / "out", k=(1, 2), partial=partial))
    assert not (tmp_path / "out").exists()


def test_a_missing_problem_counts_as_failed_for_every_k(problems, tmp_path):
    lines = [{"task_id": "one", "completion": f"def one(x): return {answer}"} for answer in (1, 0, 1)]
    lines += [{"task_id": "two", "completion": "def two(x): return 2"}] * 2
    score = evaluate(config(problems, write(tmp_path / "c.jsonl", lines), tmp_path / "out", k=(1, 2), partial=True))
    assert score.k == pytest.approx({1: (2 / 3 + 1) / 3, 2: 2 / 3})  # one: 2 of 3 right; two: 2 of 2; zero: none
    assert [r.sample for r in read_results(tmp_path / "out") if r.outcome == "missing"] == [0, 1, 2]


@pytest.mark.slow
def test_another_evaluation_is_never_overwritten(problems, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = []
    for answer in (0, 1):
        lines = [{"task_id": t, "completion": f"def {t}(x): return {answer}"} for t in ("zero", "one", "two")]
        paths.append(write(tmp_path / f"{answer}.jsonl", lines))
    for path in (paths[0], paths[1], paths[0]):  # the third evaluation repeats the first
        evaluate(config(problems, path, ""))
    kept = sorted(p.parent.name for p in tmp_path.glob("runs/evaluate/*/score.json"))
    assert kept == ["problems", "problems-2"]
    assert [r.passed for r in read_results("runs/evaluate/problems")] == [True, False, False]
    evaluate(config(problems, paths[0], "mine"))
    with pytest.raises(UserError, match="mine: holds another evaluation"):
        evaluate(config(problems, paths[1], "mine"))


def test_verdicts_are_written_as_other_programs_write_them(problems, tmp_path):
    lines = [
        {"task_id": "zero", "solution": "def zero(x): return 0"},
        {"task_id": "one", "completion": "def one(x): return 0"},
        {"task_id": "two", "completion": "def two(x): return 2"},
    ]
    settings = {"formats": ("evalplus", "bigcode")}
    evaluate(config(problems, write(tmp_path / "c.jsonl", lines), tmp_path / "out", **settings))
    rows = json.loads((tmp_path / "out/eval_results.json").read_text())["eval"]
    assert [rows[t][0]["base_status"] for t in ("zero", "one", "two")] == ["pass", "fail", "pass"]
    assert rows["zero"][0]["solution"] == "def zero(x): return 0" and rows["one"][0]["plus_status"] is None
    programs = json.loads((tmp_path / "out/generations.json").read_text())
    assert programs == [["def zero(x): return 0"], ["def one(x): return 0"], ["def two(x): return 2"]]
    assert json.loads((tmp_path / "out/metrics.json").read_text())[problems]["pass@1"] == pytest.approx(2 / 3)


def test_completions_come_back_in_the_order_of_the_task(tmp_path):
    task = ProblemTask("t", [Problem("b", "b", tests=("assert 1",)), Problem("a", "a", tests=("assert 1",))], 8)
    path = write(tmp_path / "c.jsonl", [{"task_id": "a", "completion": "1"}, {"task_id": "b", "completion": "2"}])
    assert [(c.task_id, c.completion) for c in read_completions(path, task)] == [("b", "2"), ("a", "1")]


class Flaky:
    """A task whose check returns the listed outcomes in turn."""

    name, max_new_tokens = "flaky", 8

    def __init__(self, *outcomes):
        self.outcomes, self.measured = list(outcomes), 0

    def prompts(self):
        return []

    def cost(self, task_id):
        return 0.0

    def measure_again(self, task_id, interpreter):
        self.measured += 1

    def check(self, task_id, completion, interpreter, limits, whole=False):
        outcome = self.outcomes.pop(0)
        return Verdict(outcome == "ok", outcome)


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [
        (("infrastructure", "infrastructure", "ok"), True),
        (("timeout", "ok"), True),
        (("timeout", "timeout"), False),
        (("timeout", "infrastructure", "ok"), True),
        (("error",), False),
    ],
)
def test_failures_of_the_interpreter_never_count_and_timeouts_have_a_second_try(outcomes, passed):
    task = Flaky(*outcomes)
    (result,) = check_all(task, [Completion("x", 0, "code", "")], [None], LIMITS)
    assert result.passed is passed and task.outcomes == []
    assert task.measured == outcomes.count("timeout") - (outcomes[-1] == "timeout")  # before the second try only


def test_an_interpreter_that_keeps_failing_is_an_error_not_a_score():
    with pytest.raises(UserError, match="'x': the interpreter failed 3 times"):
        check_all(Flaky(*["infrastructure"] * 3), [Completion("x", 0, "code", "")], [None], LIMITS)


def test_second_tries_are_counted_and_kept(tmp_path):
    """A run is killed after one of two second tries; the resumed run makes only the other one."""
    completions, told = [Completion(name, 0, "code", "") for name in "abc"], []

    def progress(done, of):
        told.append((done, of))
        if len(told) == 4:
            raise KeyboardInterrupt

    first = VerdictLog(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        check_all(Flaky("timeout", "ok", "timeout", "timeout"), completions, [None], LIMITS, progress, first)
    first.close()
    assert told == [(1, 4), (2, 4), (3, 5), (4, 5)]  # three programs, and second tries of the first and the last
    again, told = Flaky("ok"), []
    kept = VerdictLog(tmp_path, {})
    results = check_all(again, completions, [None], LIMITS, lambda *step: told.append(step), kept)
    kept.close()
    assert [result.outcome for result in results] == ["timeout", "ok", "ok"] and again.outcomes == []
    assert told[-1] == (5, 5)


def test_the_same_code_is_run_once():
    task = Flaky("ok")
    results = check_all(task, [Completion("x", s, "code", "") for s in range(5)], [None, None], LIMITS)
    assert [r.sample for r in results] == list(range(5)) and all(r.passed for r in results)


def test_endless_programs_cost_two_time_limits_and_fail():
    task = ProblemTask("t", [Problem("a", "a", tests=("assert f() == 1",), entry_point="f")], 8)
    limits = Limits(0.5, 512, 1000)
    with Interpreter(limits) as interpreter:
        started = time.monotonic()
        (result,) = check_all(task, [Completion("a", 0, "while True: pass", "")], [interpreter], limits)
    assert (result.passed, result.outcome) == (False, "timeout")
    assert time.monotonic() - started >= 1.0


def test_k_beyond_the_samples_is_refused():
    with pytest.raises(UserError, match="a problem has 1 samples"):
        summarize("t", [Result("a", 0, True, "ok", "", 0.0)], (2,))
    with pytest.raises(UserError, match=r"k = \[5\]"):
        evaluate(EvaluateConfig(k=(5,)))


def test_what_could_not_be_run_is_no_failure():
    results = [Result("a", 0, True, "ok", "", 0.1), Result("b", 0, False, "not_run", "no compiler", 0.0)]
    score = summarize("t", results)
    assert (score.n, score.not_run, score.pass_at_1) == (1, 1, 1.0)
    nothing = summarize("t", results[1:])
    assert (nothing.n, nothing.not_run, nothing.pass_at_1, nothing.low) == (0, 1, None, None)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_the_verdicts_it_has(problems, tmp_path):
    slow = "import time\ntime.sleep({})\ndef {}(x):\n    return {}\n"
    lines = [
        {"task_id": name, "solution": slow.format(0.2 if sample == 0 else 1.5, name, value)}
        for value, name in enumerate(("zero", "one", "two"))
        for sample in range(2)
    ]
    file, out = write(tmp_path / "c.jsonl", lines), tmp_path / "out"
    command = [sys.executable, "-m", "reflectioncoder", "evaluate", problems, "--completions", file]
    command += ["--output", str(out), "--seconds", "4", "--workers", "1"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    kept = out / "unfinished.jsonl"
    while not kept.exists() or kept.read_text().count("\n") < 3:
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.02)
    started.kill()
    started.communicate()
    before = [json.loads(line) for line in kept.read_text().splitlines()[1:]]
    kept.open("a").write('{"of": "cut o')
    other = subprocess.run([*command, "--memory_mb", "900"], capture_output=True, text=True)
    assert (other.returncode, "holds an unfinished evaluation" in other.stderr) == (2, True), other.stderr
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    results = read_results(out)
    assert [r.passed for r in results] == [True] * 6
    assert {round(row["seconds"], 4) for row in before} <= {r.seconds for r in results}
    assert not kept.exists() and (out / "score.json").exists()


@pytest.mark.parametrize("settings", [{"workers": -3}, {"memory_mb": 1}, {"seconds": 0.0}])
def test_settings_that_would_only_fail_programs_are_refused(settings, problems, tmp_path):
    one = EvaluateConfig(GenerateConfig(task=problems), "c.jsonl", str(tmp_path / "out"))
    with pytest.raises(UserError, match="memory_mb at least 64"):
        evaluate(dataclasses.replace(one, **settings))


def test_an_output_that_is_a_file_is_named_as_such(problems, tmp_path):
    with pytest.raises(UserError, match=r"problems\.jsonl: is a file"):
        evaluate(EvaluateConfig(GenerateConfig(task=problems), "c.jsonl", problems))
