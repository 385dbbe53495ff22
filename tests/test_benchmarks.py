"""The benchmarks run at a smoke size and end with their figures as one JSON line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def figures(script: str, *arguments: str) -> object:
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_interpreter_beside_kernels() -> None:
    pytest.importorskip("ipykernel")
    found = figures("interpreter.py", "--repeats", "1", "--seconds", "0.5", "--workers", "1")
    assert isinstance(found, dict)
    assert set(found) == {"isolation", "workers", "per_second", "ratio_to_fresh_kernel", "session_mb"}
    assert all(value > 0 for value in found["per_second"].values())
    rows = figures("interpreter.py", "--repeats", "1", "--preload", "numpy")
    assert [row["ahead"] for row in rows] == [[], ["numpy"]]  # type: ignore[attr-defined]


def test_cost_of_a_build_beside_the_interpreter() -> None:
    rows = figures("build_scale.py", "--sizes", "4", "--workers", "1")
    assert [(row["problems"], row["sequences"]) for row in rows] == [(4, 4)]  # type: ignore[attr-defined]


def test_seconds_of_each_language() -> None:
    rows = figures("languages.py", "--languages", "sh,swift")
    assert {row["language"] for row in rows} == {"sh", "swift"}  # type: ignore[attr-defined]
    measured = [row for row in rows if "seconds" in row]  # type: ignore[attr-defined]
    assert all(row["seconds"] > 0 and row["refused"] == [] and row["problems"] == 1 for row in measured)
    assert all(row["not_run"] for row in rows if "seconds" not in row)  # type: ignore[attr-defined]
