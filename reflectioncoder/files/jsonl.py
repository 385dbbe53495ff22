"""JSON lines: reading with the place of each line for messages, and writing a whole file or none."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.whole import write_whole


def unzipped(data: bytes) -> bytes:
    """What a file holds that may be gzipped, whatever its name. Raises OSError, EOFError or zlib.error if damaged."""
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def iter_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file with the name of each one's place ("file x.jsonl, line 3").

    Raises:
        UserError: no such file, bytes that are not UTF-8, or a line that is not JSON.
    """
    for where, _, value in iter_jsonl_at(path):
        yield where, value


def iter_jsonl_at(path: str | os.PathLike[str]) -> Iterator[tuple[str, int, Any]]:
    """As `iter_jsonl`, with the byte at which each line begins between place and value."""
    path = Path(path)
    start = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"file {path}, line {number}"
                    try:
                        yield where, start, json.loads(line.decode("utf-8"))
                    except UnicodeDecodeError as error:
                        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
                    except json.JSONDecodeError as error:
                        raise UserError(
                            f"{where}: not JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
                        ) from None
                start += len(line)
    except OSError as error:
        raise UserError(f"file {path}: {error.strerror or error}") from None


def encodable(text: str) -> str:
    """Text without what UTF-8 cannot hold: JSON's escapes can carry half a surrogate pair, which no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write lines of text through a temporary file beside `path` that replaces it at the end.

    Raises:
        UserError: the file cannot be written (a full disk, no permission); the old file is left as it was.
    """
    path = Path(path)

    def write(out: IO[str]) -> int:
        count = 0
        for line in lines:
            out.write(line + "\n")
            count += 1
        return count

    try:
        return write_whole(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
