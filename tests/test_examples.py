"""The programs under examples/ run and print the expected results."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sequences_from_problems_of_your_own(tmp_path: Path) -> None:
    printed = run("own_problems.py", str(tmp_path / "out"))
    assert "2 problems" in printed
    rows = (tmp_path / "out" / "build" / "sequences.jsonl").read_text(encoding="utf-8").strip().split("\n")
    assert f"{len(rows)} sequences in" in printed
    assert all(json.loads(row)["type"] == "reflection" for row in rows)
    assert len(rows) >= 1


@pytest.mark.slow
def test_training_in_a_notebook(tmp_path: Path) -> None:
    import tiny
    import torch

    from reflectioncoder.dialogues.dialogue import write_jsonl

    model = tiny.save(tmp_path / "model", tiny.llama(tiny.VOCABULARY, dtype=torch.float32))
    write_jsonl(tmp_path / "data.jsonl", tiny.dialogues())
    printed = run("train_in_a_notebook.py", str(tmp_path / "data.jsonl"), model, str(tmp_path / "out"))
    assert "4 steps, model in" in printed
    assert "mask rate 0.75" in printed


def test_scoring_a_function(tmp_path: Path) -> None:
    assert "pass@1 50% of 4 problems" in run("score_a_function.py", str(tmp_path / "out"))


def test_a_task_of_your_own(tmp_path: Path) -> None:
    assert "pass@1 50% of 2 problems" in run("own_task.py", str(tmp_path / "out"))


def test_examples_do_nothing_when_imported() -> None:
    for path in EXAMPLES.glob("*.py"):
        if "notebook" not in path.name:
            runpy.run_path(str(path), run_name="imported")
