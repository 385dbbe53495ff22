"""The one reader of rows: from JSON and Parquet files, folders, saved data sets and data sets of the hub.

A row has the same values whichever way it comes. A file is recognised by its contents, not by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.arrow import is_arrow, iter_arrow
from reflectioncoder.files.folders import SUFFIXES, files_of
from reflectioncoder.files.json_text import LIMITS, ReadLimits, iter_values


def iter_rows(
    source: str, split: str = "train", limits: ReadLimits = LIMITS, skipped: list[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Iterate over (position, row) for each row of a source; the position names the row in error messages.

    Args:
        source: see `files_of`.
        split: split of a folder or a data set, or "all".
        limits: the most that one file may hold.
        skipped: if given, a row that cannot be decoded is skipped and the reason appended to it; otherwise it raises.

    Raises:
        UserError: there is no such source or split, a file cannot be read, or a row cannot be decoded (see `skipped`).
    """
    return chain.from_iterable(iter_file(path, limits, skipped) for path in files_of(source, split))


def iter_file(path: Path, limits: ReadLimits = LIMITS, skipped: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Iterate over (position, row) for each row of a file; see `iter_rows`."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"file {path}: {error.strerror or error}") from None
    if is_arrow(head):
        return iter_arrow(path, limits, skipped)
    if head and not path.name.endswith(SUFFIXES) and head.strip()[:1].isalnum():
        raise UserError(f"file {path}: expected rows as JSON or Parquet ({', '.join(SUFFIXES)})")
    if head and path.suffix == ".parquet":
        raise UserError(f"file {path}: not readable as Parquet")
    return iter_values(path, limits, skipped)
