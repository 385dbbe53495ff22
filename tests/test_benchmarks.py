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


def test_training_on_the_processor_beside_the_plain_step() -> None:
    rows = figures("trainer_cpu.py", "--smoke", "--precisions", "float32", "--repeats", "1", "--threads", "1")
    assert isinstance(rows, list)
    assert [row["precision"] for row in rows] == ["float32"]
    assert rows[0]["largest_gap_of_loss"] < 1e-5
    assert rows[0]["tokens"] == sorted(rows[0]["tokens"], reverse=True)  # a higher mask rate hides more
    assert all(row["ratio_by_rate"] and min(row["peak_mib"].values()) > 0 for row in rows)


def test_cost_of_long_rows_on_the_processor() -> None:
    rows = figures("trainer_cpu.py", "--smoke", "--long", "64", "--threads", "1")
    assert [row["mode"] for row in rows] == ["plain", "checkpointing"]  # type: ignore[attr-defined]
