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


def test_scoring(data: Path) -> None:
    rows = figures("scoring.py", "--data", str(data), "--repeats", "1", "--step", "60")
    assert [row["task"] for row in rows] == ["humaneval_plus", "mbpp_plus"]  # type: ignore[attr-defined]
    assert all(row["seconds"]["ours"] > 0 and not row["differ"] for row in rows)  # type: ignore[attr-defined]


def test_cost_of_a_build_beside_the_interpreter() -> None:
    rows = figures("build_scale.py", "--sizes", "4", "--workers", "1")
    assert [(row["problems"], row["sequences"]) for row in rows] == [(4, 4)]  # type: ignore[attr-defined]
