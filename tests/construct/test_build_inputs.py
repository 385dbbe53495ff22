"""The inputs of a build are checked before anything is written; bad rows are left out with reasons."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.build import NOTES, build
from reflectioncoder.errors import UserError

ROW = {
    "id": "a",
    "instruction": "Write `double_it(x)`, which returns twice its argument.",
    "solution": "def double_it(x):\n    return 2 * x\n",
    "tests": ["assert double_it(2) == 4", "assert double_it(-1) == -2", "assert double_it(7) == 14"],
}


def run(tmp_path: Path, rows: list[Any], **changes: Any) -> tuple[dict[str, int], str]:
    source = tmp_path / "p.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    console = Console(file=io.StringIO(), width=200)
    settings = {"count": 9, "workers": 1, "formats": ("jsonl",), **changes}
    made = build(BuildConfig(output=str(tmp_path / "out"), problems=str(source), **settings), console)
    assert isinstance(console.file, io.StringIO)
    return made.funnel, console.file.getvalue()


def test_a_bad_benchmark_is_named_before_anything_is_written_and_the_corrected_command_runs(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.jsonl").write_text(json.dumps({"question": "Something else entirely."}))
    (tmp_path / "bench" / "package.json").write_text("{oops")
    with pytest.raises(UserError, match=r"decontaminate: file .*package.json, line 1: not JSON"):
        run(tmp_path, [ROW], decontaminate=(str(tmp_path / "bench"),))
    assert not (tmp_path / "out").exists()
    (tmp_path / "bench" / "package.json").unlink()
    funnel, said = run(tmp_path, [ROW], decontaminate=(str(tmp_path / "bench"),))
    assert funnel["sequences"] == 1
    assert "decontaminate: 1 of a" in said


def test_the_folder_of_the_own_problems_does_not_ban_them(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text(json.dumps({"question": "Something else entirely."}))
    funnel, _ = run(tmp_path, [ROW], decontaminate=(str(tmp_path),))
    assert funnel["sequences"] == 1


def test_bad_rows_are_left_out_with_reasons_or_end_the_build(tmp_path: Path) -> None:
    rows = [{**ROW, "instruction": "Half \ud83d"}, {**ROW, "id": "b", "history": [["q", "r"]]}, ROW]
    with pytest.raises(UserError, match=r"line 1: holds .ud83d, half of a surrogate pair"):
        run(tmp_path, rows, skip_bad=False)
    assert not (tmp_path / "out").exists()
    funnel, said = run(tmp_path, rows)
    assert (funnel["skipped_rows"], funnel["problems"], funnel["sequences"]) == (2, 1, 1)
    notes = (tmp_path / "out" / NOTES).read_text().splitlines()
    assert ["surrogate" in notes[0], "history" in notes[1], len(notes)] == [True, True, 2]
    assert all(note in said for note in notes)
