"""JSON is read in any dress; bad text gives one line with the place; memory is bounded."""

from __future__ import annotations

import codecs
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import ReadLimits, iter_values, unzipped
from reflectioncoder.files.jsonl import iter_jsonl_at

ROWS = [{"a": 1, "text": "é 😀 \u2028 \x0c"}, {"a": [None, {"b": "x\ny"}]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
DRESSES = {
    "lines": LINES.encode(),
    "no end of the last line": LINES.rstrip().encode(),
    "carriage returns and line feeds": LINES.replace("\n", "\r\n").encode(),
    "carriage returns": LINES.replace("\n", "\r").encode(),
    "blank lines": b"\n \n" + LINES.replace("\n", "\n\n\t\n").encode(),
    "byte order mark": codecs.BOM_UTF8 + LINES.encode(),
    "UTF-16": LINES.encode("utf-16"),
    "UTF-16 without a mark": LINES.encode("utf-16-be"),
    "UTF-32": LINES.encode("utf-32"),
    "list": json.dumps(ROWS).encode(),
    "list over lines": json.dumps(ROWS, indent=2).encode("utf-16"),
    "objects over lines": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "objects without a break": "".join(json.dumps(row) for row in ROWS).encode(),
}


def read(path: Path, data: bytes, limits: ReadLimits | None = None, skipped: list[str] | None = None) -> list[Any]:
    path.write_bytes(data)
    return [value for _, value in iter_values(path, limits or ReadLimits(), skipped)]


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_file_is_read_by_its_contents_and_not_by_its_name(tmp_path: Path, dress: str, name: str) -> None:
    assert read(tmp_path / name, DRESSES[dress]) == ROWS
    assert read(tmp_path / name, gzip.compress(DRESSES[dress])) == ROWS


def test_values_longer_than_a_piece_and_many_in_a_piece(tmp_path: Path) -> None:
    rows = [{"n": n, "text": "é" * (n * 700)} for n in range(1500)]  # 1.5 GB unless the lengths are small
    rows = [{**row, "text": row["text"][: 3_000_000 if n == 700 else n % 50]} for n, row in enumerate(rows)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    small = ReadLimits(row_mb=4)
    assert read(tmp_path / "x", "\n".join(lines).encode(), small) == rows
    assert read(tmp_path / "x", f"[{' , '.join(lines)}]".encode(), ReadLimits(row_mb=2)) == rows
    assert read(tmp_path / "x", "".join(json.dumps(row, indent=1) for row in rows).encode(), small) == rows


def test_positions_name_the_line_or_the_item(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for data, places in (
        (b'\n{"a":1}\n\n{"a":2}', ["line 2", "line 4"]),
        (b'[{"a":1},\n{"a":2}]', ["item 1", "item 2"]),
    ):
        path.write_bytes(data)
        assert [where for where, _ in iter_values(path)] == [f"file {path}, {place}" for place in places]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{oops\n', "line 2: not JSON (Expecting property name enclosed in double quotes at column 2)"),
        (b'{"a": "\xff"}', "line 1: not UTF-8 (invalid start byte at byte 7)"),
        (b'[{"a": 1}, {"a"', "item 2: not JSON (Expecting ':' delimiter near the end of the file)"),
        (b'[{"a": 1}', "ends inside its list, after item 1"),
        (b'[{"a": 1},]', "item 2: not JSON (Expecting value near ']')"),
        (b'[{"a": 1} {"a": 2}]', "item 1: not JSON (expected ',' or ']' after it, found '{')"),
        (b"[1]\n[2]\n", "has more text after its list (from '['); expected one list, or one object per line"),
        (b"[" * 200_000, "item 1: nested too deeply"),
        (b'{"a":' + b"[" * 200_000, "line 1: nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1: holds a number of thousands of digits"),
        (LINES.encode("utf-16")[:-1], "not UTF-16 (truncated data)"),
        (gzip.compress(LINES.encode() * 999, mtime=0)[:40], "Compressed file ended before the end-of-stream marker"),
        (b"\x28\xb5\x2f\xfdxxxx", "is compressed with zstd; unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer, not the data; run 'git lfs pull'"),
    ],
)
def test_bad_text_gives_one_line_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x.jsonl", data)
    assert str(tmp_path / "x.jsonl") in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_lines_can_be_left_out_with_a_reason_each(tmp_path: Path) -> None:
    skipped: list[str] = []
    assert read(tmp_path / "x", b'{oops\n{"a": 1}\n\xff\n{"a": 2}\n{"a', skipped=skipped) == [{"a": 1}, {"a": 2}]
    assert [line.split(", ")[1].split(":")[0] for line in skipped] == ["line 1", "line 3", "line 5"]


def test_the_rows_and_the_unpacked_file_are_bounded_by_settings(tmp_path: Path) -> None:
    long = json.dumps({"a": "x" * 3_000_000}).encode()
    for data in (long, b'{"a": 1}\n' + long, b"[" + long + b"]", json.dumps({"a": "x" * 3_000_000}, indent=1).encode()):
        with pytest.raises(UserError, match=r"is longer than 1 MB; raise max_row_mb if that is meant"):
            read(tmp_path / "x", data, ReadLimits(row_mb=1))
        assert len(read(tmp_path / "x", data, ReadLimits(row_mb=4))) in (1, 2)
    bomb = gzip.compress(b'{"a": 1}\n' * 200_000)
    with pytest.raises(UserError, match="unpacks to more than 1 MB; raise max_file_mb if that is meant"):
        read(tmp_path / "x", bomb, ReadLimits(file_mb=1))
    with pytest.raises(UserError, match="unpacks to more than 1 MB"):
        unzipped(bomb, ReadLimits(file_mb=1))
    assert len(read(tmp_path / "x", bomb)) == 200_000
    with pytest.raises(UserError, match="max_row_mb = 0: must be at least 1"):
        ReadLimits(row_mb=0)


@pytest.mark.parametrize("start", [b"", b'{"a": "', b'{"a": 1}\n', b"["])
def test_a_bomb_takes_little_memory(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "x.jsonl"
    with gzip.open(path, "wb", 1) as out:
        out.write(start)
        for _ in range(100):
            out.write(b" " * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(
            UserError, match=r"is longer than 8 MB|begins with more than 8 MB of white space|unpacks to"
        ):
            list(iter_values(path, ReadLimits(row_mb=8, file_mb=50)))
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "\n")
    with pytest.raises(UserError, match=r"d\.jsonl, line 2: not JSON \(nested too deeply at column 1\)"):
        list(iter_jsonl_at(tmp_path / "d.jsonl"))
