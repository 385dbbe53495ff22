"""Reads rows from JSONL, JSON (both also gzipped) and Parquet files, and from saved or Hugging Face data sets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.jsonl import iter_jsonl, unzipped

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


def iter_rows(source: str, split: str = "train") -> Iterator[tuple[str, Any]]:
    """Yield (position, row) for each row of a file or data set; the position names the row in error messages.

    Args:
        source: path of a file or directory, or a name on the Hugging Face hub as "owner/name" or
            "owner/name:configuration".
        split: split of a data set; ignored for files.

    Raises:
        UserError: no such file or data set, or its contents do not match its file name suffix.
    """
    path = Path(source)
    suffix = next((item for item in SUFFIXES if path.name.endswith(item)), "")
    if path.is_file() and not suffix:
        raise UserError(f"file {path}: expected one of {', '.join(SUFFIXES)}")
    if suffix and not path.is_file():
        raise UserError(f"file {path}: no such file")
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix:
        yield from _json_rows(path, lines="jsonl" in suffix)
    else:
        yield from _data_set_rows(source, split)


def _json_rows(path: Path, lines: bool) -> Iterator[tuple[str, Any]]:
    if lines and path.suffix != ".gz":
        yield from iter_jsonl(path)
        return
    where = f"file {path}"
    try:
        raw = path.read_bytes()
        text = unzipped(raw).decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: {getattr(error, 'strerror', None) or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
    try:
        if lines:
            for number, line in enumerate(text.split("\n"), 1):
                where = f"file {path}, line {number}"
                if line.strip():
                    yield where, json.loads(line)
            return
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at line {error.lineno}, column {error.colno})") from None
    if not isinstance(rows, list):
        raise UserError(f"{where}: expected a list of objects, found {type(rows).__name__}")
    yield from ((f"{where}, item {number}", row) for number, row in enumerate(rows, 1))


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"file {path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"file {path}: not readable as Parquet ({first_line(error)})") from None


def _data_set_rows(source: str, split: str) -> Iterator[tuple[str, Any]]:
    import datasets

    name, _, configuration = source.partition(":")
    try:
        if (Path(source) / "state.json").is_file() or (Path(source) / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(source)
            rows = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        elif Path(source).is_dir():
            rows = datasets.load_dataset(source, split=split)
        else:
            rows = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # the library passes on the errors of many others: network, file systems, parsers
        raise UserError(f"data set {source}, split {split}: cannot load it ({first_line(error)})") from None
    for number, row in enumerate(rows, 1):
        yield f"data set {source}, split {split}, row {number}", row
