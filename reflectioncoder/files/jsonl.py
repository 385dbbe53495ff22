"""JSON lines: reading with the position of each line for error messages, and atomic writing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import iter_values
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.whole import write_whole


def iter_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Yield (position, value) for each JSON value of a file; the position reads "file x.jsonl, line 3".

    Raises:
        UserError: the file cannot be read, is no text, or has a line that is not JSON.
    """
    return iter_values(Path(path))


def iter_jsonl_at(path: str | os.PathLike[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield (position, byte offset of the line, value) for each line of JSON of a plain file."""
    path = Path(path)
    start = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"file {path}, line {number}"
                    try:
                        yield where, start, parse_json(line.decode("utf-8"))
                    except UnicodeDecodeError as error:
                        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
                    except json.JSONDecodeError as error:
                        raise UserError(
                            f"{where}: not JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
                        ) from None
                start += len(line)
    except OSError as error:
        raise UserError(f"file {path}: {error.strerror or error}") from None


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write lines to a temporary file beside `path`, which replaces `path` at the end.

    Args:
        path: path of the file.
        lines: the lines, without line breaks.

    Returns:
        number of lines.

    Raises:
        UserError: the file cannot be written (disk full, no permission); the old file stays unchanged.
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
