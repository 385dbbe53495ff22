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
    (row,) = figures("build_scale.py", "--sizes", "20", "--workers", "1")  # type: ignore[misc]
    assert row["funnel"] == {"problems": 20, "input_output": 1, "unresolved": 1, "single_round": 10, "sequences": 8}
    assert 0 < row["share"] < row["share_with_client"] < 1


def test_contamination_of_instruction_sets(tmp_path: Path) -> None:
    prompt = "Write a function to find the surface area of a cuboid."
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": prompt}) + "\n")
    rows = [{"ask": "Calculate the surface area of a cuboid.", "say": "x"}, {"ask": "Sing a song.", "say": None}]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = [{"set": "own", "id": "0", "same": True}, {"set": "own", "id": "1", "same": True}]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    found = figures(
        "contamination.py", "--against", str(tmp_path / "eval.jsonl"), "--labels", str(tmp_path / "labels.jsonl"),
        f"own={tmp_path}/set.jsonl=ask,say", "made=procedural=4",
    )  # fmt: skip
    assert isinstance(found, dict)
    assert [(row["set"], row["rows"], row["found"], row["request"]) for row in found["sets"]] == [
        ("own", 2, 1, 1), ("made", 4, 0, 0),
    ]  # fmt: skip
    assert (found["labels"]["precision"], found["labels"]["recall"]) == (1.0, 0.5)


def test_seconds_of_each_language() -> None:
    rows = figures("languages.py", "--languages", "sh,swift")
    assert {row["language"] for row in rows} == {"sh", "swift"}  # type: ignore[attr-defined]
    measured = [row for row in rows if "seconds" in row]  # type: ignore[attr-defined]
    assert all(row["seconds"] > 0 and row["refused"] == [] and row["problems"] == 1 for row in measured)
    assert all(row["not_run"] for row in rows if "seconds" not in row)  # type: ignore[attr-defined]
