"""Settings that name files are the same if they name the same place, however the path is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reflectioncoder.config.places import changed_values, moved, same_value


@pytest.mark.parametrize(
    ("key", "old", "new", "same"),
    [
        ("decontaminate", ["x"], ["./x"], True),
        ("decontaminate", ["x", "y"], ("x", "link/../y"), True),
        ("decontaminate", ["x", "y"], ["y", "x"], False),
        ("decontaminate", ["x"], ["x", "x"], False),
        ("data", ("x",), ("HERE/x",), True),
        ("model", "x", "link", True),
        ("model", "x", "y", False),
        ("model", "", ".", False),
        ("model", None, "x", False),
        ("model", "owner/name", "owner/name", True),
        ("model", "owner/name", "owner/other", False),
        ("seed", "x", "./x", False),  # no path
        ("data", [1], [1], True),
        ("data", [1], ["1"], False),
        ("data", {"a": 1}, ["a"], False),
    ],
)
def test_paths_are_compared_by_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, old: Any, new: Any, same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    if isinstance(new, tuple):
        new = tuple(str(tmp_path / "x") if path == "HERE/x" else path for path in new)
    assert same_value(key, old, new) is same


def test_keys_that_only_one_side_has_are_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert changed_values({"data": "x", "a": 1, "b": None}, {"data": "./x", "c": 1}) == ["a", "c"]


def test_a_file_that_was_moved_keeps_the_last_part_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert moved("a/x.jsonl", "/b/x.jsonl") and moved(str(tmp_path), ".") and moved("a/x/", "x")
    assert not moved("a/x.jsonl", "a/y.jsonl") and not moved(None, None)
