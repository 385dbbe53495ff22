"""Outputs that are not lost: locks, markers, and replacements that a kill cannot tear."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from killing import in_child, killed_at_move

from reflectioncoder.errors import UserError
from reflectioncoder.files.owned import (
    MARKER,
    READY,
    FileFacts,
    Marker,
    clean_up,
    complete_replacement,
    facts_of,
    files_below,
    held,
    read_marker,
    refuse_inputs,
    remove_tree,
    replace_files,
    what_changed,
    write_marker,
)


def test_one_process_at_a_time_writes_to_an_output(tmp_path: Path) -> None:
    for path, folder in ((tmp_path / "run", True), (tmp_path / "file.jsonl", False)):
        with held(path, folder):
            other = pytest.raises(UserError, match=rf"another run \(process {os.getpid()}\) is writing to it")
            with other, held(path, folder):
                pass
        with held(path, folder):
            pass
    assert list(tmp_path.iterdir()) == []  # no empty folder and no lock stays behind


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    def hold() -> None:
        with held(tmp_path / "run"):
            (tmp_path / "holding").touch()
            time.sleep(60)

    child = in_child(hold)
    while not (tmp_path / "holding").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"process {child}\) is writing"), held(tmp_path / "run"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with held(tmp_path / "run"):
        pass


def test_a_marker_says_what_was_changed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("abc")
    (tmp_path / "y").write_text("")
    assert files_below(tmp_path) == ["a/x", "y"]
    files = facts_of(tmp_path, ["a/x", "y"])
    # the digests are those of `printf abc | sha256sum` and `printf '' | sha256sum`
    assert files["a/x"] == FileFacts(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert files["y"] == FileFacts(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    write_marker(tmp_path, Marker("train", "finished", files))
    found = read_marker(tmp_path)
    assert found == Marker("train", "finished", files) and what_changed(tmp_path, found.files) == ""
    (tmp_path / "a" / "x").write_text("abd")
    assert what_changed(tmp_path, files) == "a/x does not have the content that was written"
    (tmp_path / "a" / "x").write_text("abcd")
    assert what_changed(tmp_path, files) == "a/x has 4 bytes instead of 3"
    (tmp_path / "a" / "x").unlink()
    assert what_changed(tmp_path, files) == "a/x is missing"


@pytest.mark.parametrize("text", ["", "{}", "[" * 99999, '{"command": 1, "state": "finished", "files": []}'])
def test_an_unreadable_marker_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    assert read_marker(tmp_path) is None


def _new(folder: Path, names: list[str], text: str) -> Path:
    staging = folder / ".staging"
    staging.mkdir(parents=True)
    for name in names:
        (staging / name).write_text(text)
    return staging


def _contents(folder: Path) -> dict[str, str]:
    clean_up(folder)  # of temporary files
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.name != MARKER}


@pytest.mark.slow
def test_a_replacement_that_is_killed_at_any_move_is_old_or_can_be_completed(tmp_path: Path) -> None:
    old = {"config.json": "old", "w-1.safetensors": "old", "w-2.safetensors": "old"}
    new = {"config.json": "new", "more.json": "new", "w.safetensors": "new"}
    for number in range(1, 30):
        folder = tmp_path / str(number)
        replace_files(folder, _new(folder, list(old), "old"), "train")
        (folder / "notes.txt").write_text("mine")
        staging = _new(folder, list(new), "new")
        ended = killed_at_move(lambda folder=folder, staging=staging: replace_files(folder, staging, "train"), number)
        seen = _contents(folder)
        assert seen.pop("notes.txt") == "mine"
        if not ended:
            weights = {name for name in seen if name.endswith(".safetensors")}
            if weights == {"w-1.safetensors", "w-2.safetensors"}:
                assert seen == old  # while all old weights are there, so is all that belongs to them
            if "w.safetensors" in weights:
                assert seen == new
            completed = complete_replacement(folder)
            assert completed == (_contents(folder) != old | {"notes.txt": "mine"})
            seen = _contents(folder)
            seen.pop("notes.txt")
            assert seen in (old, new) and not (folder / READY).exists()
            if completed:
                assert set(read_marker(folder).files) == set(new)
        else:
            assert seen == new and number > 6
            return
    pytest.fail("the replacement never ended")


def test_a_folder_is_deleted_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").touch()
    assert not killed_at_move(lambda: remove_tree(tmp_path / "x"), 1)
    assert (tmp_path / "x" / "y").exists()
    remove_tree(tmp_path / "x")
    remove_tree(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_not_overwritten_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refuse_inputs([tmp_path / "real"], {"data": (str(tmp_path / "other"), "")})
    with pytest.raises(UserError, match=r"data .*link: the output would overwrite it; choose another output"):
        refuse_inputs([tmp_path / "real"], {"data": (str(tmp_path / "link"),)})
