"""Hostile completions in every kind of task affect only their own verdict in `evaluate`."""

import json
import sys

import ds1000_rows
import pytest
from polyglot import CASES, write

from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.evaluate.evaluate import evaluate
from reflectioncoder.evaluate.results import read_results
from reflectioncoder.tasks import ds1000
from reflectioncoder.tasks.multipl_e import languages

HALF = chr(0xD800)  # half a surrogate pair, which UTF-8 cannot encode
RAISES = 'raise ValueError("\\ud800")\n'
FORGES = """
import os
def {name}(*arguments):
    for fd in range(3, 250):
        try: os.write(fd, b'["!", "\\\\ud800", "\\\\ud800"]\\n')
        except OSError: pass
    os._exit(0)
"""


def scored(tmp_path, task, answers, **settings):
    """Evaluate a file with the given completions, and read the verdicts that were written."""
    file = tmp_path / "c.jsonl"
    rows = [{"task_id": task_id, "error": HALF, **answer} for task_id, answer in answers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EvaluateConfig(GenerateConfig(task=task, **settings), str(file), str(tmp_path / "out"), seconds=5.0)
    score = evaluate(config)
    assert score.pass_at_1 is not None and (tmp_path / "out/score.json").exists()
    return read_results(tmp_path / "out")


def test_errors_that_no_file_can_hold_in_problems_with_asserts(tmp_path):
    problem = {"id": "p", "instruction": "f", "tests": ["assert f() == 1"], "entry_point": "f"}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    answers = [RAISES, f"def f():\n    {RAISES}", "def f(): return 1\n", FORGES.format(name="f")]
    answers = [("p", {"completion": answer}) for answer in answers]
    found = scored(tmp_path, str(tmp_path / "p.jsonl"), answers)
    assert [result.passed for result in found] == [False, False, True, False]
    assert {result.error for result in found} == {"?"}


@pytest.mark.parametrize("task", ["humaneval", "humaneval_plus", "mbpp_plus"])
def test_errors_that_no_file_can_hold_in_problems_by_values(task, data, tmp_path, monkeypatch):
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path / "cache"))
    task_id, name = ("Mbpp/2", "similar_elements") if "mbpp" in task else ("HumanEval/0", "has_close_elements")
    answers = [RAISES, f"def {name}(*a):\n    {RAISES}", FORGES.format(name=name), f"def {name}(*a): return chr(55296)"]
    answers = [(task_id, {"solution": answer, "error": ""}) for answer in answers]
    found = scored(tmp_path, task, answers, limit=1, data=str(data))
    assert not any(result.passed for result in found)
    assert [result.error for result in found[:3]] == ["ValueError: ?", "ValueError: ?", "?: ?"]


def test_errors_that_no_file_can_hold_in_other_languages(tmp_path):
    if languages.find("js").missing:
        pytest.skip("Node.js is not installed; run: make toolchains")
    folder = write(tmp_path, "js", {"evens": CASES["js"]})
    bodies = ["  throw new Error('\\ud800');\n}\n", "  process.stdout.write('\\ud800');\n}\n", CASES["js"].right]
    answers = [("evens", {"completion": body}) for body in bodies]
    found = scored(tmp_path, "multipl_e_js", answers, data=str(folder))
    assert [result.passed for result in found] == [False, False, True]


def test_errors_that_no_file_can_hold_in_ds1000(tmp_path, monkeypatch):
    monkeypatch.setenv(ds1000.PYTHON_VARIABLE, sys.executable)  # our own problem needs numpy only
    monkeypatch.setattr(ds1000, "DS1000_PRELOAD", ("numpy",))
    options = ds1000_rows.write(tmp_path, ds1000_rows.ROWS[:1])
    answers = [("0", {"completion": answer}) for answer in (RAISES, "result = a * 2", "print(chr(55296))")]
    found = scored(tmp_path, "ds1000", answers, data=options.data)
    assert [result.passed for result in found] == [False, True, False]
    (part,) = json.loads((tmp_path / "out/score.json").read_text())["parts"].items()
    assert part[0] == "Numpy" and part[1]["pass_at_1"] == pytest.approx(1 / 3)
