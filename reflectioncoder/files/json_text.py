"""Reads the JSON values of a text file in any dress: lines, one list, or values one after the other.

A file may be gzipped, begin with a byte order mark, or be UTF-16 or UTF-32. It is read in pieces, so memory is bounded
by the longest value, and by `ReadLimits` if a file is damaged or hostile.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from reflectioncoder.errors import UserError

READ_SIZE = 1 << 20
GZIP = b"\x1f\x8b"
MEGABYTE = 1_000_000
# first bytes of files that are no text, and what to do with them
FOREIGN = {
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first",
    b"\xfd7zXZ\x00": "is compressed with xz; unpack it first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"version https://git-lfs.github.com/": "is a Git LFS pointer, not the data; run 'git lfs pull'",
    b"SQLite format 3": "is an SQLite database; expected rows as JSON or Parquet",
}
MARKS = (  # the marks of UTF-32 begin with those of UTF-16
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
BLANKS = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class ReadLimits:
    """The most that a file may hold before it counts as damaged or hostile.

    Args:
        row_mb: megabytes of one row, as text.
        file_mb: megabytes that one compressed file may unpack to.
    """

    row_mb: int = 64
    file_mb: int = 4096

    def __post_init__(self) -> None:
        for name in ("row_mb", "file_mb"):
            if getattr(self, name) < 1:
                raise UserError(f"max_{name} = {getattr(self, name)}: must be at least 1")


LIMITS = ReadLimits()


def leave_out(reason: str, skipped: list[str] | None) -> None:
    """Note why a row is left out, or raise UserError with the reason if rows may not be left out (None)."""
    if skipped is None:
        raise UserError(reason) from None
    skipped.append(reason)


def too_large(limits: ReadLimits) -> str:
    """Say that a file unpacks to more than the limit, and what to do."""
    return f"unpacks to more than {limits.file_mb} MB; raise max_file_mb if that is meant"


def unzipped(data: bytes, limits: ReadLimits = LIMITS) -> bytes:
    """Decompress data if it is gzipped.

    Raises:
        OSError, EOFError or zlib.error: the data are damaged.
        UserError: they unpack to more than `limits.file_mb`.
    """
    if data[:2] != GZIP:
        return data
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(limits.file_mb * MEGABYTE + 1)
    if len(found) > limits.file_mb * MEGABYTE:
        raise UserError(too_large(limits))
    return found


def iter_values(path: Path, limits: ReadLimits = LIMITS, skipped: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (position, value) for each JSON value of a file; the position reads "file x.jsonl, line 3".

    Args:
        path: the file. It holds one value per line, one list whose items are the values, or values separated by white
            space.
        limits: the most that is read.
        skipped: if given, a line that is not JSON is skipped and the reason appended to it; otherwise it raises.

    Raises:
        UserError: the file cannot be read, is no text, or has a line that is not JSON (see `skipped`).
    """
    try:
        with path.open("rb") as file:
            yield from _values(path, file, limits, skipped)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"file {path}: {getattr(error, 'strerror', None) or error}") from None


def _values(path: Path, file: IO[bytes], limits: ReadLimits, skipped: list[str] | None) -> Iterator[tuple[str, Any]]:
    blocks = _utf8(path, _blocks(path, file, limits))
    blank: list[bytes] = []
    head = b""
    for head in blocks:
        if head and not head.isspace():
            break
        blank.append(head)
        if len(blank) * READ_SIZE > limits.row_mb * MEGABYTE:
            raise UserError(f"file {path}: begins with more than {limits.row_mb} MB of white space")
    start = head.lstrip()
    blocks = itertools.chain(blank, (head,), blocks)
    if start[:1] == b"[":
        yield from _items(path, blocks, limits)
        return
    first, blocks = _first_line(start, blocks, limits, len(blank) + 1)
    if _goes_on(first):
        probe = _Text(path, blocks, limits, keep=True)
        is_object = probe.holds_object()
        blocks = probe.unread()
        if is_object:  # over several lines, or several of them in one line
            yield from _stream(path, blocks, limits)
            return
    yield from _by_line(path, blocks, limits, skipped)


def _blocks(path: Path, file: IO[bytes], limits: ReadLimits) -> Iterator[bytes]:
    """Yield a file in pieces, unpacked."""
    head = file.read(64)
    file.seek(0)
    for magic, advice in FOREIGN.items():
        if head.startswith(magic):
            raise UserError(f"file {path}: {advice}")
    if not head.startswith(GZIP):
        yield from iter(lambda: file.read(READ_SIZE), b"")
        return
    total, most = 0, limits.file_mb * MEGABYTE
    with gzip.GzipFile(fileobj=file) as unpacked:
        for block in iter(lambda: unpacked.read(READ_SIZE), b""):
            total += len(block)
            if total > most:
                raise UserError(f"file {path}: {too_large(limits)}")
            yield block


def _utf8(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Convert pieces of a text in any UTF encoding to UTF-8, without the byte order mark."""
    head = next(blocks, b"")
    while len(head) < 4 and (more := next(blocks, b"")):
        head += more
    mark, name = next(((mark, name) for mark, name in MARKS if head.startswith(mark)), (b"", ""))
    if not name:  # JSON begins with ASCII characters, so zero bytes show the width of the others
        zeros = tuple(byte == 0 for byte in head[:2])
        name = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(zeros, "utf-8")  # type: ignore[arg-type]
    head = head[len(mark) :]
    if name == "utf-8":
        yield head
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for block in itertools.chain((head,), blocks):
            yield decoder.decode(block).encode("utf-8")
        yield decoder.decode(b"", True).encode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"file {path}: not {name.upper()[:6]} ({error.reason})") from None


def _first_line(start: bytes, blocks: Iterator[bytes], limits: ReadLimits, begun: int) -> tuple[bytes, Iterator[bytes]]:
    """Return the first line that is not blank, and all pieces again; it begins with `start`, in piece `begun`."""
    pieces, line, size = list(itertools.islice(blocks, begun)), [start], len(start)
    while b"\n" not in line[-1] and size <= limits.row_mb * MEGABYTE and (block := next(blocks, b"")):
        pieces.append(block)
        line.append(block)
        size += len(block)
    return b"".join(line).split(b"\n", 1)[0], itertools.chain(pieces, blocks)


def _goes_on(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON object, or holds more than one."""
    try:
        text = line.decode("utf-8").rstrip()
        _decoder.decode(text)
    except json.JSONDecodeError as error:
        return text.startswith("{") and (error.msg == "Extra data" or error.pos >= len(text))
    except (ValueError, RecursionError):
        pass
    return False


def _by_line(
    path: Path, blocks: Iterator[bytes], limits: ReadLimits, skipped: list[str] | None
) -> Iterator[tuple[str, Any]]:
    decode, where = _decoder.decode, f"file {path}, line "  # formatting a path takes as long as a short line
    for number, line in enumerate(_lines(path, blocks, limits), 1):
        if not line or line.isspace():
            continue
        try:
            value = decode(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            leave_out(f"{where}{number}: {_reason(error)}", skipped)
            continue
        yield f"{where}{number}", value


def _lines(path: Path, blocks: Iterator[bytes], limits: ReadLimits) -> Iterator[bytes]:
    most, number = limits.row_mb * MEGABYTE, 0
    begun: list[bytes] = []  # pieces of a line that has not ended
    size = 0
    for block in blocks:
        lines = block.split(b"\n")
        begun.append(lines[0])
        size += len(lines[0])
        if len(lines) > 1:
            yield b"".join(begun)
            yield from lines[1:-1]
            number += len(lines) - 1
            begun, size = [lines[-1]], len(lines[-1])
        if size > most:
            raise UserError(_too_long(f"file {path}, line {number + 1}", limits))
    yield b"".join(begun)


class _Text:
    """A text that is decoded value by value, with only the part in memory that is not decoded yet.

    Args:
        path: the file, for error messages.
        blocks: its pieces, in UTF-8.
        limits: the most that is read for one value.
        keep: keep the pieces for `unread`.
    """

    def __init__(self, path: Path, blocks: Iterator[bytes], limits: ReadLimits, keep: bool = False) -> None:
        self._path, self._blocks, self._limits = path, blocks, limits
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.ended, self.number = "", 0, False, 1
        self._kept: list[bytes] | None = [] if keep else None

    def _more(self, size: int) -> None:
        """Read until `size` further characters are in memory, or the text ends."""
        pieces = [self.text[self.at :]]
        while size > 0 and not self.ended:
            block = next(self._blocks, None)
            if block is not None and self._kept is not None:
                self._kept.append(block)
            self.ended = block is None
            try:
                pieces.append(self._decoder.decode(block or b"", self.ended))
            except UnicodeDecodeError as error:
                raise UserError(f"file {self._path}: not UTF-8 ({error.reason} near item {self.number})") from None
            size -= len(pieces[-1])
        self.text, self.at = "".join(pieces), 0

    def peek(self) -> str:
        """Return the next character that is not white space; "" at the end."""
        while True:
            self.at = BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more(1)

    def value(self) -> Any:
        """Decode the next value. Raises ValueError or RecursionError if there is none."""
        while True:
            try:
                found, end = _decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # a number could go on
                    self.at, self.number = end, self.number + 1
                    return found
            except json.JSONDecodeError:
                if self.ended:
                    raise
            if len(self.text) - self.at > self._limits.row_mb * MEGABYTE:
                raise UserError(_too_long(f"file {self._path}, item {self.number}", self._limits))
            self._more(max(1, len(self.text) - self.at))

    def holds_object(self) -> bool:
        """Whether the text begins with a JSON object. Raises UserError if it is too long."""
        try:
            return self.peek() == "{" and isinstance(self.value(), dict)
        except UserError:
            raise
        except (ValueError, RecursionError):
            return False

    def unread(self) -> Iterator[bytes]:
        """Return all pieces from the start."""
        return itertools.chain(self._kept or (), self._blocks)


def _items(path: Path, blocks: Iterator[bytes], limits: ReadLimits) -> Iterator[tuple[str, Any]]:
    """Yield the items of one list."""
    pieces: list[bytes] = []
    size = 0
    while size <= limits.row_mb * MEGABYTE and (block := next(blocks, b"")):
        pieces.append(block)
        size += len(block)
    if size <= limits.row_mb * MEGABYTE:  # a small file is decoded at once, which is faster
        values = None
        with suppress(ValueError, RecursionError):  # the slow way finds the place
            values = _decoder.decode(b"".join(pieces).decode("utf-8"))
        if values is not None:
            where = f"file {path}, item "
            for number, value in enumerate(values, 1):
                yield f"{where}{number}", value
            return
    text = _Text(path, itertools.chain(pieces, blocks), limits)
    text.peek()
    text.at += 1
    after = "["
    while (mark := text.peek()) != "]" or after == ",":
        where = f"file {path}, item {text.number}"
        if not mark:
            raise UserError(f"file {path}: ends inside its list, after item {text.number - 1}")
        try:
            value = text.value()
        except (ValueError, RecursionError) as error:
            raise UserError(_located(where, error)) from None
        yield where, value
        if (mark := text.peek()) == ",":
            text.at += 1
        elif mark and mark != "]":
            raise UserError(f"{where}: not JSON (expected ',' or ']' after it, found {mark!r})")
        after = mark
    text.at += 1
    if mark := text.peek():
        raise UserError(
            f"file {path}: has more text after its list (from {mark!r}); expected one list, or one object per line"
        )


def _stream(path: Path, blocks: Iterator[bytes], limits: ReadLimits) -> Iterator[tuple[str, Any]]:
    """Yield values that white space separates."""
    text = _Text(path, blocks, limits)
    while text.peek():
        where = f"file {path}, item {text.number}"
        try:
            value = text.value()
        except (ValueError, RecursionError) as error:
            raise UserError(_located(where, error)) from None
        yield where, value


def _located(where: str, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = repr(error.doc[error.pos : error.pos + 20]) if error.pos < len(error.doc) else "the end of the file"
        return f"{where}: not JSON ({error.msg.removesuffix(' at')} near {place})"
    return str(error) if isinstance(error, UserError) and " is longer " in str(error) else f"{where}: {_reason(error)}"


def _too_long(where: str, limits: ReadLimits) -> str:
    return f"{where}: is longer than {limits.row_mb} MB; raise max_row_mb if that is meant"


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 ({error.reason} at byte {error.start})"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "holds a number of thousands of digits" if "digits" in str(error) else f"not JSON ({error})"
