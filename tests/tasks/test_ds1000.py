"""DS-1000: formats, cutting and verdicts, with our own problems in its format and, if present, the real references."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from ds1000_rows import DOUBLED, PROMPT, ROWS, write
from places import ROOT

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.check import check_all
from reflectioncoder.evaluate.evaluate import read_completions
from reflectioncoder.evaluate.results import summarize
from reflectioncoder.generate.completions import Completion
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.tasks import ds1000
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.ds1000 import DS1000, VERSIONS, cut_answer
from reflectioncoder.tasks.registry import get_task

LIMITS = Limits(10.0, 1024, 1_000_000)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The task in the Python that runs the tests, which has numpy."""
    made = DS1000(write(tmp_path_factory.mktemp("ds1000"), ROWS))
    made.python = sys.executable
    return made


@pytest.fixture(scope="module")
def interpreter(task):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ds1000, "DS1000_PRELOAD", ("numpy", "no_such_library"))
        opened = task.interpreter(LIMITS)
    with opened:
        yield opened


@pytest.mark.parametrize(
    "answer",
    [
        "result = a * 2",
        "result = np.add(a, a)\n</code>\nEND SOLUTION\nresult = None",
        "```python\nresult = a * 2\n```\nThis doubles it.",
        "<code>\nresult = a * 2\n# SOLUTION END\nresult = None",
    ],
)
def test_right_answers_pass(answer, task, interpreter):
    verdict = task.check("0", answer, interpreter, LIMITS)
    assert (verdict.passed, verdict.outcome, verdict.error) == (True, "ok", "")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("result = a", "error"),
        ("result = [2 * x for x in a]", "error"),  # the right value, but test_string forbids `for`
        ("result = (", "error"),
        ("", "error"),
        ("exit()", "error"),
        ("import sys; sys.exit(0)", "error"),
        ("raise SystemExit", "error"),
        ("import os; os._exit(0)", "killed"),
        ("print('OK'); import os; os._exit(0)", "killed"),
        ("\ud800", "error"),
        ("result = 1\n" + "x = 1\n" * 100_000, "error"),
    ],
)
def test_wrong_answers_fail(answer, outcome, task, interpreter):
    verdict = task.check("0", answer, interpreter, LIMITS)
    assert (verdict.passed, verdict.outcome) == (False, outcome)


def test_an_endless_answer_runs_out_of_time(task, interpreter):
    verdict = task.check("0", "while True: pass", interpreter, Limits(0.5, 1024, 1000))
    assert (verdict.passed, verdict.outcome) == (False, "timeout")


def test_the_time_limit_grows_where_the_reference_is_slow(tmp_path, task, interpreter):
    slow = "import time\ntime.sleep(0.4)\nresult = a * 2"
    other = DS1000(write(tmp_path, [{**ROWS[0], "reference_code": slow}]))
    other.python = task.python
    assert other.check("0", slow, interpreter, Limits(0.5, 1024, 1000)).passed


def test_the_indentation_of_an_answer_inside_a_function_is_kept(task, interpreter):
    assert task.check("2", "    b = a * 2\n    ### END SOLUTION\n    return b\n", interpreter, LIMITS).passed


def test_a_library_that_is_not_there_is_not_run(task, interpreter):
    completions = [Completion(task_id, 0, "result = a * 2", "") for task_id in ("0", "1")]
    results = check_all(task, completions, [interpreter], LIMITS)
    assert [result.outcome for result in results] == ["ok", "not_run"]
    assert "no_such_library: not installed" in results[1].error
    score = summarize(task.name, results)
    assert (score.pass_at_1, score.n, score.not_run) == (1.0, 1, 1)


def test_a_problem_whose_tests_download_is_not_run(tmp_path, task, interpreter):
    context = f"from sklearn.datasets import load_iris, fetch_covtype\n{DOUBLED}"
    other = DS1000(write(tmp_path, [{**ROWS[0], "code_context": context}]))
    other.python = task.python
    assert other.check("0", "result = a * 2", interpreter, LIMITS).outcome == "not_run"


def test_without_an_environment_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ds1000, "environment", lambda: "")
    task = DS1000(write(tmp_path, ROWS))
    with task.interpreter(LIMITS) as interpreter:
        verdict = task.check("0", "result = a * 2", interpreter, LIMITS)
    assert verdict.outcome == "not_run" and "make ds1000" in verdict.error


def test_prompts_are_the_source_prompts(task, tmp_path):
    prompts = task.prompts()
    assert [prompt.task_id for prompt in prompts] == ["0", "1", "2"]
    assert prompts[0].instruction == prompts[0].continuation == PROMPT
    assert "</code>" in prompts[0].stops


def test_insertion_marks_the_place_and_shows_what_follows(tmp_path):
    prompts = get_task("ds1000_insertion", write(tmp_path, ROWS)).prompts()
    assert prompts[0].instruction.endswith(
        "</code>\nBEGIN SOLUTION\n<code>\n[insert]\n</code>\nEND SOLUTION\n<code>\nprint(result)\n</code>\n"
    )
    assert "put solution" not in prompts[0].instruction
    assert prompts[1].instruction.endswith("# SOLUTION START\n[insert]\n# SOLUTION END\n")
    assert prompts[2].instruction.endswith("### BEGIN SOLUTION\n[insert]\n### END SOLUTION\n")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1\n", "x = 1\n"),
        ("    x = 1\n", "    x = 1\n"),
        ("x = 1\n</code>\ny", "x = 1\n"),
        ("</code>", ""),
        ("END SOLUTION\nx", ""),
        ("Sure:\n```python\nx = 1\n```\n", "x = 1"),
        ("x = 1\r\n```\nwords", "x = 1"),
        ("```\nx = 1\n```\nwords", "x = 1"),
        ("BEGIN SOLUTION\n<code>\nx = 1", "x = 1"),
    ],
)
def test_an_answer_is_cut_to_its_code(answer, code):
    assert cut_answer(answer) == code
    assert cut_answer(cut_answer(answer)) == code


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "not a problem of DS-1000"),
        ({**ROWS[0], "metadata": "none"}, "must have a 'problem_id'"),
        ({**ROWS[0], "code_context": "x"}, "edition of 2024"),
    ],
)
def test_bad_data_files_are_named(row, words, tmp_path):
    with pytest.raises(UserError, match=words):
        DS1000(write(tmp_path, [row]))
    with pytest.raises(UserError, match="occurs twice"):
        DS1000(write(tmp_path, [ROWS[0], ROWS[0]]))
    with pytest.raises(UserError, match="holds no problems"):
        DS1000(write(tmp_path, []))
    with pytest.raises(UserError, match="no file ds1000"):
        DS1000(TaskOptions(data=str(tmp_path / "none")))


def test_the_environment_is_made_of_the_versions_that_the_task_names():
    lines = (ROOT / "configs" / "ds1000.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: pinned[name] for name in VERSIONS} == VERSIONS
    assert pinned["ipython"] == "8.24.0"


def test_references_pass_in_their_environment(data):
    """Checks every fortieth problem; `benchmarks/languages.py --ds1000` checks all."""
    if not ds1000.environment():
        pytest.skip("no Python environment for DS-1000; run: make ds1000")
    if ds1000.installed_versions(ds1000.environment()) != VERSIONS:
        pytest.skip("the Python environment for DS-1000 has other versions; run: make ds1000")
    task = DS1000(TaskOptions(data=str(data)))
    chosen = list(task.problems)[::40]
    with task.interpreter(LIMITS) as interpreter:
        verdicts = {
            name: task.check(name, task.problems[name]["reference_code"], interpreter, LIMITS) for name in chosen
        }
        wrong = [task.check(name, "pass", interpreter, LIMITS).passed for name in chosen if verdicts[name].passed]
    missing = {name for name, verdict in verdicts.items() if verdict.outcome == "not_run"}
    others = {"377", "378", "379", "380", "837", "838", "819"}  # need torch, tensorflow, xgboost or a download
    torch = {name for name in chosen if task.problems[name]["metadata"]["library"] in ("Pytorch", "Tensorflow")}
    assert missing == torch | (others & set(chosen))
    assert [name for name, verdict in verdicts.items() if not verdict.passed and name not in missing] == []
    assert sum(wrong) <= 1  # the tests of some plots accept an empty answer


def test_a_gzipped_file_of_problems_is_read_and_a_damaged_one_named(task, tmp_path):
    folder = Path(write(tmp_path, list(task.problems.values())).data)
    data = gzip.compress((folder / "ds1000.jsonl").read_bytes())
    (folder / "ds1000.jsonl").unlink()
    (folder / "ds1000.jsonl.gz").write_bytes(data)
    assert DS1000(TaskOptions(data=str(folder))).problems == task.problems
    (folder / "ds1000.jsonl.gz").write_bytes(data[:-9])
    with pytest.raises(UserError, match=r"ds1000\.jsonl\.gz: cannot be read"):
        DS1000(TaskOptions(data=str(folder)))


def test_a_body_before_a_later_fence_is_the_answer():
    assert ds1000.cut_answer("    return a\n```\nUsage:\n```python\nf(1)\n```") == "    return a"
    assert ds1000.cut_answer("Here:\n```python\nresult = a\n```\nor\n```python\nb\n```") == "result = a"


def test_a_file_of_answers_in_the_sets_own_format_is_scored(task, interpreter, tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [{"id": 0, "code": ["result = a * 2", "result = a"]}, {"code": "", "metadata": {"problem_id": 1}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "2", "code": "    return a * 2"}]))
    results = check_all(task, read_completions(str(path), task), [interpreter], LIMITS)
    assert [(result.task_id, result.sample, result.outcome) for result in results] == [
        ("0", 0, "ok"), ("0", 1, "error"), ("1", 0, "not_run"), ("2", 0, "ok"),
    ]  # fmt: skip


# --- the interpreter on another Python ------------------------------------------------------------------------------


def test_another_python_is_asked_what_it_has():
    with pytest.raises(UserError, match=r"python /usr/bin/false: does not run"):
        Interpreter(python="/usr/bin/false")
    with pytest.raises(UserError, match=r"preload: no module named 'no_such_library'"):
        Interpreter(python=sys.executable, preload=("no_such_library",))


def test_programs_see_variables_and_the_pythons_own_libraries(task, interpreter):
    with Interpreter(python=sys.executable, variables={"SEEN": "here"}) as opened:
        seen = opened.run("import os, numpy\nos.environ['SEEN'], numpy.__name__, os.environ.get('SECRET')")
    assert seen.text == "('here', 'numpy', None)"
    assert interpreter.run("import gc\nx = [1]\nlen(gc.get_referents(x))").text == "1"
