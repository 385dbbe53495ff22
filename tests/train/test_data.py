"""The data of a run: folders and builds, named columns, rows that are left out, and sequences that are too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from training import config, quiet

from reflectioncoder.dialogues.dialogue import instruction_dialogue, write_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.train.data import SKIPPED, read_dialogues
from reflectioncoder.train.train import describe_plan, train


def test_the_folder_of_a_build_is_read_whole_and_said_so(base: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    sequences = [item for item in tiny.dialogues() if item.is_reflection]
    write_jsonl(build / "sequences.jsonl", sequences)
    write_jsonl(build / "instructions.jsonl", [instruction_dialogue("Add.", "x")] * 3)
    (build / "funnel.json").write_text("{}")
    told = describe_plan(config(base, tmp_path / "out", data=(str(build),)))
    assert f"data {build}: sequences.jsonl, instructions.jsonl" in told
    assert f"{len(sequences) + 3} samples ({len(sequences)} reflection, 3 plain)" in told


def test_bad_rows_end_training_or_are_left_out_and_listed(base: Path, tmp_path: Path) -> None:
    lines = (base / "data.jsonl").read_text().splitlines()
    data = tmp_path / "data.jsonl"
    data.write_text(
        "\n".join([*lines[:4], '{"query": "a"}', "{oops", *lines[4:], '{"query": "\\ud83d", "answer": "b"}'])
    )
    with pytest.raises(UserError, match="line 5: neither 'messages' nor a pair"):
        train(config(base, tmp_path / "out", data=(str(data),)), quiet)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.json*"))
    said: list[str] = []
    done = train(config(base, tmp_path / "out", data=(str(data),), skip_bad=True, max_steps=1), said.append)
    assert done.samples == len(lines)
    assert f"left out 3 rows that cannot be read, listed in {tmp_path / 'out' / SKIPPED}" in said
    listed = (tmp_path / "out" / SKIPPED).read_text().splitlines()
    assert [line.split("data.jsonl, ")[1].split(":")[0] for line in listed] == [
        "line 5",
        "line 6",
        f"line {len(lines) + 3}",
    ]


def test_columns_and_splits_are_chosen_by_settings(base: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"q": name, "a": "x", "type": "odd"}))
    said: list[str] = []
    run = config(base, tmp_path / "out", fields="instruction=q,answer=a", split="test")
    (found,), skipped = read_dialogues(run, (str(tmp_path),), said.append)
    assert (found.messages, skipped) == (instruction_dialogue("test", "x").messages, [])
    assert said == [f"data {tmp_path}: test.jsonl"]


def test_types_that_are_not_known_are_named(base: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = tmp_path / "x.jsonl"
    data.write_text("".join(json.dumps({"messages": turns, "type": kind}) + "\n" for kind in ("chat", "generation")))
    said: list[str] = []
    read_dialogues(config(base, tmp_path / "out"), (str(data),), said.append)
    assert said == ["1 samples of type 'chat' are trained on as plain instruction data"]


def test_a_reflection_run_without_a_sequence_that_fits_is_refused(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_jsonl(data, [*tiny.dialogues(), *[instruction_dialogue("Add.", "x")] * 3])
    run = {"data": (str(data),), "max_length": 20}
    with pytest.raises(UserError, match=r"all \d+ reflection sequences are longer than max_length = 20 tokens \(the"):
        describe_plan(config(base, tmp_path / "out", **run))
    assert "3 samples (0 reflection" in describe_plan(config(base, tmp_path / "out", objective="instruction", **run))
