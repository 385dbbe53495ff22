"""The inputs of a build are checked before anything is written; bad rows are left out with reasons."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reflectioncoder.config.build import BuildConfig, ChatConfig
from reflectioncoder.construct.build import build, describe_build
from reflectioncoder.construct.inputs import NOTES
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


def write_bench(tmp_path: Path) -> str:
    (tmp_path / "bench.jsonl").write_text(json.dumps({"question": "Something else entirely."}))
    return str(tmp_path / "bench.jsonl")


@pytest.mark.slow
def test_a_build_is_resumed_with_paths_that_are_written_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, [ROW], decontaminate=(write_bench(tmp_path),))
    monkeypatch.chdir(tmp_path)
    for path in ("bench.jsonl", "./bench.jsonl", "out/../bench.jsonl"):
        assert "already finished" in run(tmp_path, [ROW], decontaminate=(path,))[1]
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "bench.jsonl").read_bytes())
    with pytest.raises(UserError, match="created with other settings"):
        run(tmp_path, [ROW], decontaminate=("copy.jsonl",))


def both_refuse(config: BuildConfig) -> str:
    """The message with which the dry run and the build refuse settings."""
    with pytest.raises(UserError) as planned:
        describe_build(config)
    with pytest.raises(UserError) as ran:
        build(config, Console(file=io.StringIO()))
    assert str(planned.value) == str(ran.value)
    return str(planned.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": "none.jsonl"}, "none.jsonl: no such file or folder"),
        (
            {"problems": "p.jsonl", "fields": "instruction=text"},
            "the first of 2 bad rows: file p.jsonl, line 1",
        ),
        ({"problems": "p.jsonl", "skip_bad": False}, "p.jsonl, line 1: not JSON"),
        ({"problems": "p.jsonl", "split": "x", "fields": "mbpp"}, "no split 'x'"),
        ({"decontaminate": ("none.jsonl",)}, "decontaminate: none.jsonl: no such file"),
        ({"decontaminate": ("p.jsonl",)}, "decontaminate: file p.jsonl, line 1: not JSON"),
        ({"libraries": ("nonesuch",)}, "no library named 'nonesuch'"),
        ({"output": "mine"}, "holds rejects.jsonl, which reflectioncoder build did not write"),
        ({"output": "p.jsonl"}, "p.jsonl: is a file"),
        ({"fork": "new", "output": "none"}, "no such file; --fork takes over"),
        ({"count": 0}, "give a number above 0"),
        ({"formats": ("csv",)}, "'csv' is not one of"),
        ({"sampler": "replay", "chat": ChatConfig(replay="none.jsonl")}, "none.jsonl: No such file"),
        ({"sampler": "replay", "chat": ChatConfig(replay="p.jsonl")}, "p.jsonl, line 1: not JSON"),
        ({"sampler": "chat", "chat": ChatConfig("http://127.0.0.1:9", "m", prompts="none.toml")}, "prompts file none"),
        (
            {"sampler": "chat", "chat": ChatConfig("http://127.0.0.1:9", "m", budget_money=1.0)},
            "needs the model's price",
        ),
    ],
)
def test_the_dry_run_refuses_what_the_build_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rejects.jsonl").write_text("mine")
    (tmp_path / "p.jsonl").write_text(f"{{oops\n{json.dumps(ROW)}\n")
    before = sorted(tmp_path.rglob("*"))
    config = BuildConfig(**{"output": "out", "count": 2, "workers": 1, **changes})
    assert message in both_refuse(config)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} <= {*before, tmp_path / "out" / "ledger.lock"}


def test_the_dry_run_tells_what_a_build_would_read_and_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text(f"{{oops\n{json.dumps(ROW)}\n")
    before = sorted(tmp_path.iterdir())
    config = BuildConfig(output=str(tmp_path / "out"), problems=str(source), count=9)
    told = describe_build(config).splitlines()
    assert told[0] == f"would build from 1 problems ({source}) by mutation into {tmp_path / 'out'}"
    assert told[1].startswith("1 rows would be left out, the first is file ") and "line 1: not JSON" in told[1]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_dry_run_knows_the_settings_of_the_build_that_it_would_resume(tmp_path: Path) -> None:
    run(tmp_path, [ROW])
    config = BuildConfig(str(tmp_path / "out"), str(tmp_path / "p.jsonl"), count=9, workers=1, formats=("jsonl",))
    describe_build(config)
    message = both_refuse(dataclasses.replace(config, seed=7))
    assert "seed was 0, is 7" in message and "nothing can be taken over" in message
