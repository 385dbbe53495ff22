"""Rows of Parquet and Arrow files as the values that were written, without the conversions of the `datasets` library.

Columns of Arrow's JSON type, which `datasets` 5 writes for rows of mixed shapes, are decoded. Dates stay dates: whether
they were text once is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_text import LIMITS, MEGABYTE, ReadLimits, leave_out, too_large
from reflectioncoder.files.json_value import parse_json

PARQUET = b"PAR1"
ARROW_FILE, ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
ROWS_AT_ONCE = 1024
JSON_TYPE = "arrow.json"
Decode = Callable[[Any], Any]


def is_arrow(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a Parquet or Arrow file."""
    return head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM))


def iter_arrow(path: Path, limits: ReadLimits = LIMITS, skipped: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (position, row) for each row of a Parquet file, an Arrow file or an Arrow stream.

    Args:
        path: the file.
        limits: the most that the file may unpack to.
        skipped: if given, a row that cannot be decoded is skipped and the reason appended to it; otherwise it raises.

    Raises:
        UserError: the file cannot be read, or has a row that cannot be decoded (see `skipped`).
    """
    import pyarrow

    number, size, most, where = 0, 0, limits.file_mb * MEGABYTE, f"file {path}, row "
    try:
        with closing(_batches(path)) as batches:
            for batch in batches:
                size += batch.nbytes
                if size > most:
                    raise UserError(f"file {path}: {too_large(limits)}")
                decode = _decoder(pyarrow.struct(list(batch.schema)))
                for row in batch.to_pylist():
                    number += 1
                    if decode is not None:
                        try:
                            row = decode(row)
                        except (ValueError, RecursionError, TypeError) as error:
                            leave_out(f"{where}{number}: holds text that is not JSON ({first_line(error)})", skipped)
                            continue
                    yield f"{where}{number}", row
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = "Parquet" if path.suffix == ".parquet" else "an Arrow file"
        raise UserError(f"file {path}: not readable as {kind} ({first_line(error)})") from None


def _batches(path: Path) -> Generator[Any, None, None]:
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as file:
        head = file.read(len(ARROW_FILE))
    if head.startswith(ARROW_STREAM):
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                    yield batch.slice(start, ROWS_AT_ONCE)
    elif head.startswith(ARROW_FILE):
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_file(source) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
    else:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE)


def _decoder(kind: Any, field: Any = None) -> Decode | None:
    """Return what converts a value of an Arrow type from JSON text, or None if no part of the type is JSON text."""
    from pyarrow import types

    named = getattr(kind, "extension_name", "") or ((field and field.metadata) or {}).get(b"ARROW:extension:name", b"")
    if named in (JSON_TYPE, JSON_TYPE.encode()):
        return lambda value: None if value is None else parse_json(value)
    if types.is_struct(kind):
        inner = {item.name: decode for item in kind if (decode := _decoder(item.type, item))}
        if inner:
            return lambda value: (
                value and {key: inner[key](item) if key in inner else item for key, item in value.items()}
            )
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        of_item = _decoder(kind.value_type, kind.value_field)
        if of_item:
            return lambda value: value and [of_item(item) for item in value]
    return None
