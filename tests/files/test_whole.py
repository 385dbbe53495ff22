"""Files and folders are written completely or not at all."""

import stat
from pathlib import Path
from typing import IO

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.files.whole import NEW, make_once, replace_with, write_whole


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    assert write_whole(path, lambda out: out.write("näher\n")) == 6
    assert path.read_bytes() == "näher\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def half(out: IO[str]) -> None:
        out.write("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, half)
    assert path.read_text(encoding="utf-8") == "näher\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows"

    def write(folder: Path, name: str) -> None:
        (folder / NEW).mkdir()
        (folder / NEW / name).touch()

    replace_with(path, lambda folder: write(folder, "a"))
    replace_with(path, lambda folder: write(folder, "b"))
    assert [item.name for item in path.iterdir()] == ["b"]

    def half(folder: Path) -> None:
        write(folder, "c")
        raise OSError("no space left")

    with pytest.raises(UserError, match=r"cannot write .*rows: no space left"):
        replace_with(path, half)
    assert [item.name for item in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_the_cache_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    made = []

    def write(folder: Path) -> None:
        made.append(folder)
        (folder / "file").touch()

    assert make_once("kind/name", write) == make_once("kind/name", write) == tmp_path / "kind" / "name"
    assert len(made) == 1 and (tmp_path / "kind" / "name" / "file").is_file()

    def beaten(folder: Path) -> None:  # another process finishes first
        (folder / "file").touch()
        (tmp_path / "kind" / "other").mkdir()
        write(tmp_path / "kind" / "other")

    assert make_once("kind/other", beaten) == tmp_path / "kind" / "other"
    assert sorted(item.name for item in (tmp_path / "kind").iterdir()) == ["name", "other"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set REFLECTIONCODER_CACHE elsewhere"):
        make_once("file/name", write)
