"""The benchmarks run at a smoke size and print their results as one JSON line at the end."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "benchmarks"


def figures(script: str, *arguments: str) -> object:
    folder = FOLDER if (FOLDER / script).exists() else FOLDER.parent / "studies"
    command = [sys.executable, str(folder / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def figures_here(script: str, *arguments: str) -> object:
    """Like `figures`, but runs in this process, which saves ten seconds of imports for training."""
    folder = FOLDER if (FOLDER / script).exists() else FOLDER.parent / "studies"
    path, said = folder / script, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [str(path), *arguments])
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        runpy.run_path(str(path), run_name="__main__")
    return json.loads(said.getvalue().splitlines()[-1])


def test_interpreter_beside_kernels() -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; run: make setup")
    found = figures("interpreter.py", "--repeats", "1", "--seconds", "0.5", "--workers", "1")
    assert isinstance(found, dict)
    assert set(found) == {"isolation", "workers", "per_second", "ratio_to_fresh_kernel", "session_mb"}
    assert all(value > 0 for value in found["per_second"].values())
    rows = figures("interpreter.py", "--repeats", "1", "--preload", "numpy")
    assert [row["ahead"] for row in rows] == [[], ["numpy"]]  # type: ignore[attr-defined]


def test_two_versions_side_by_side() -> None:
    parts = ("pairs", "messages", "problems", "help", "import")
    rows = figures("versions.py", "--other", str(ROOT), "--repeats", "1", "--size", "0.005", "--parts", *parts)
    assert [row["part"] for row in rows] == list(parts)  # type: ignore[attr-defined]
    assert all(row["equal"] and row["processor_seconds_ratio"] > 0 for row in rows)  # type: ignore[attr-defined]


def test_scoring(data: Path) -> None:
    rows = figures("scoring.py", "--data", str(data), "--repeats", "1", "--step", "60")
    assert [row["task"] for row in rows] == ["humaneval_plus", "mbpp_plus"]  # type: ignore[attr-defined]
    assert all(row["seconds"]["ours"] > 0 and not row["differ"] for row in rows)  # type: ignore[attr-defined]


def test_canonical_and_wrong_solutions(data: Path) -> None:
    rows = figures("scoring.py", "--data", str(data), "--canonical", "--step", "40")
    assert [(row["task"], row["problems"]) for row in rows] == [  # type: ignore[attr-defined]
        ("humaneval_plus", 5),
        ("mbpp_plus", 10),
    ]
    assert all((row["canonical_pass"], row["changed_pass"]) == (1, 0) for row in rows)  # type: ignore[attr-defined]


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


def test_training_on_the_processor_beside_the_plain_step() -> None:
    rows = figures_here("trainer_cpu.py", "--smoke", "--precisions", "float32", "--repeats", "1", "--threads", "1")
    assert isinstance(rows, list)
    assert [row["precision"] for row in rows] == ["float32"]
    assert rows[0]["largest_gap_of_loss"] < 1e-5
    assert rows[0]["tokens"] == sorted(rows[0]["tokens"], reverse=True)  # a higher mask rate hides more
    assert all(row["ratio_by_rate"] and min(row["peak_mib"].values()) > 0 for row in rows)


def test_cost_of_long_rows_on_the_processor() -> None:
    rows = figures_here("trainer_cpu.py", "--smoke", "--long", "64", "--threads", "1")
    assert [row["mode"] for row in rows] == ["plain", "checkpointing"]  # type: ignore[attr-defined]


def test_what_is_kept_for_the_backward_pass_changes_no_loss() -> None:
    flags = ("--smoke", "--kept", "--precisions", "float32", "--repeats", "1", "--threads", "1")
    (row,) = figures_here("trainer_cpu.py", *flags)  # type: ignore[misc]
    assert row["same_losses"] and row["everything"]["time"] == 1.0


def test_where_the_time_of_a_step_goes() -> None:
    rows = figures_here("trainer_cpu.py", "--smoke", "--profile", "--precisions", "float32", "--threads", "1")
    assert 0.2 < sum(row["share"] for row in rows) <= 1  # type: ignore[attr-defined]


def test_the_parts_for_a_gpu_run_on_a_processor_at_a_tiny_size(tmp_path: Path) -> None:
    command = ("gpu/run.py", "--out", str(tmp_path), "--device", "cpu", "--smoke", "--repeats", "1")
    found = figures_here(*command)
    assert isinstance(found, dict)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    parts = {name: part["results"] for name, part in found["parts"].items()}
    names = {"exact", "attention", "head", "speed-135m", "speed-1b", "long-1b", "rows", "profile", "generate"}
    assert set(parts) == names
    exact = {(row["precision"], row["by"]): row for row in parts["exact"]}
    assert exact["float64", "ours"]["gradient_error"] < 1e-9 and exact["float32", "ours"]["gradient_error"] < 1e-4
    assert parts["speed-1b"]["samples_per_second"]["ours"] > 0
    kept = ("everything", "selective", "inputs")
    assert [(row["tokens"], row["kept"]) for row in parts["rows"]] == [(n, what) for n in (64, 128) for what in kept]


def test_absolute_positions_kept_and_rebased() -> None:
    sizes = ("--steps", "3", "--batch", "4", "--width", "16", "--seeds", "1", "--held-out", "5")
    rows = figures_here("rebase.py", *sizes, "--plain", "1")
    assert [(row["model"], row["positions"]) for row in rows] == [  # type: ignore[attr-defined]
        ("gpt2", "keep"),
        ("gpt2", "rebase"),
        ("llama", "keep"),
        ("llama", "rebase"),
    ]


def test_lora_beside_merged_tables() -> None:
    pytest.importorskip("peft", reason="PEFT is not installed; run: make setup")
    found = figures_here("lora_step.py", "--smoke", "--repeats", "1", "--precision", "float32")
    assert isinstance(found, dict)
    assert found["ours"]["loss"] == pytest.approx(found["merged"]["loss"], rel=1e-5)
    assert all(found[way]["seconds"] > 0 for way in ("ours", "merged", "float32"))
