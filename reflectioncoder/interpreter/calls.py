"""Calls a program's function on many inputs in one session: the fast way to score by returned values.

As in `judge.py`, the program only returns values, and expected values never enter its process. All calls run as one
cell, so a thousand inputs cost little more than one. `sandbox/caller.py` defines the format of the records.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectioncoder.errors import encodable, first_line
from reflectioncoder.interpreter.exchange import OwnCode
from reflectioncoder.interpreter.interpreter import CellResult, Limits, Session
from reflectioncoder.interpreter.judge import VALUE_CHARS
from reflectioncoder.sandbox import caller, values

RECORD_CHARS = 2_000_000  # characters allowed for all records of a cell, besides ten times the expected ones
Mode = Literal["value", "set", "presence"]
Record = Any  # JSON; see `sandbox/caller.py`


@dataclass(frozen=True)
class Calls:
    """The results of calling a program's function.

    Args:
        outcome: "ok" if all calls returned, "error" if a call or the program itself raised, "timeout" if a call took
            too long, otherwise the interpreter's outcome of the session.
        records: records of the calls that returned, in order. Later calls failed or were not made.
        error: the exception or the exceeded limit; empty if there was none.
        seconds: wall-clock time of the program and all calls.
        timings: seconds of each call that has a record, as `caller.CallClock` measures them; empty unless requested.
        handling: seconds that making the records took besides; 0 unless requested.
    """

    outcome: str
    records: tuple[Record, ...]
    error: str
    seconds: float
    timings: tuple[float, ...] = ()
    handling: float = 0.0


def call_all(
    session: Session,
    program: str,
    entry_point: str,
    packed: str,
    seconds: Sequence[float],
    limits: Limits,
    mode: Mode = "value",
    timed: bool = False,
) -> Calls:
    """Run a program in its own namespace, and call its function on each input until a call fails.

    Args:
        session: a fresh session.
        program: source code of the program.
        entry_point: name of the function.
        packed: the inputs, serialized by `caller.pack_program`.
        seconds: time limit of each call in seconds, one per input.
        limits: limits on the total time and on the characters of all records.
        mode: what each record holds; see `caller.serve`.
        timed: whether to measure each call.
    """
    what = f"{program!r}, {entry_point!r}, {packed!r}, {list(seconds)!r}, {mode!r}, {timed!r}"
    result = session.run(OwnCode(f"caller.serve({what})"), limits)
    records, pairs, failure = _read(result, len(seconds), timed)
    timings, handling = tuple(took for took, _ in pairs), sum(whole - took for took, whole in pairs)
    if result.outcome == "infrastructure":
        return Calls("infrastructure", (), result.message or "", result.seconds)
    if failure is None and not result.ok:
        return Calls(result.outcome, records, result.error, result.seconds, timings)
    if failure is None and len(records) == len(seconds):
        return Calls("ok", records, "", result.seconds, timings, handling)
    outcome, error = failure or ("error", "no value came back")
    return Calls(outcome, records, error, result.seconds, timings)


def _read(
    result: CellResult, count: int, timed: bool
) -> tuple[tuple[Record, ...], tuple[tuple[float, float], ...], Any]:
    """Parse the records, their times, and (outcome, error) if the last record is a failure. The text is untrusted."""
    records: list[Record] = []
    timings: list[tuple[float, float]] = []
    for line in result.text.split("\n"):
        if not line or len(records) == count:
            continue
        try:
            record = json.loads(line)
            if timed and record[0] not in ("!", "late"):
                took, whole, record = record
                times = (float(took), float(whole))
            if type(record) is list and record[0] in ("!", "late"):
                late = record[0] == "late"
                error = ("timeout", "a call ran out of its time") if late else ("error", _said(record[1], record[2]))
                return tuple(records), tuple(timings), error
        except (ValueError, TypeError, LookupError, RecursionError, MemoryError):
            return tuple(records), tuple(timings), ("error", "no value came back")
        records.append(record)
        timings += [times] if timed else []
    return tuple(records), tuple(timings), None


def _said(name: object, message: object) -> str:
    line = first_line(str(message))
    return encodable(f"{name}: {line}" if line else str(name))[:300]


def bounded(record: Record, expected: Record) -> Record:
    """Replace a value far larger than the expected one by a record that equals nothing.

    Records are decoded in this process, where no time limit applies; see `judge.VALUE_CHARS`.

    Args:
        record: a record from the program.
        expected: the record of the expected value.
    """
    if type(record) is list and record[:1] == ["s"]:
        return ["s", *(_bounded(part, expected) for part in record[1:])]
    return _bounded(record, expected)


def _bounded(record: Record, expected: Record) -> Record:
    if type(record) is not list or record[:1] != ["v"] or len(record) < 3 or type(record[2]) is not str:
        return record
    size = len(record[2])
    if size <= VALUE_CHARS or size <= VALUE_CHARS + 10 * len(json.dumps(expected)):
        return record
    return ["#", "", ""]


def decoded(record: Record) -> tuple[str, Any]:
    """Decode a record.

    Returns:
        the name of the value's type, and the value. A hashed value is decoded as `values.Opaque`, which equals nothing.

    Raises:
        ValueError: `record` is not a valid record of a value.
    """
    if type(record) is not list:
        return type(record).__name__, record
    try:
        tag = record[0]
        if tag == "l" and type(record[1]) is list:
            return "list", record[1]
        if tag == "t":
            return "tuple", tuple(record[1])
        if tag == "v":
            return str(record[1]), values.decode_value(record[2])
        if tag == "#":
            return str(record[1]), values.Opaque(str(record[1]))
    except (TypeError, LookupError) as error:
        raise ValueError(f"not a record: {error}") from None
    raise ValueError("not a record")


def same_record(left: Record, right: Record) -> bool:
    """Whether the values of two records are equal by Python's `==`."""
    large = [type(record) is list and record[:1] == ["#"] for record in (left, right)]
    if any(large):  # only one of two equal values may be hashed: 1.0 takes more characters than 1
        return _digested(left) == _digested(right) is not None
    if type(left) is not list and type(right) is not list:
        return bool(left == right)
    try:
        (kind, mine), (_, theirs) = decoded(left), decoded(right)
        if kind in ("numpy.ndarray", "numpy.matrix"):
            import numpy

            item = mine
            while type(item) is list and len(item) == 1:
                item = item[0]
            # the truth value of an array comparison exists for one item only, and an array of strings can be huge
            return type(item) is not list and bool(numpy.asarray(mine) == theirs)
        return bool(mine == theirs)
    except (ValueError, TypeError, RecursionError, ArithmeticError):
        return False


def _digested(record: Record) -> str | None:
    if type(record) is list and record[:1] == ["#"]:
        return str(record[2])
    try:
        return caller.record_of(decoded(record)[1])[2]  # type: ignore[no-any-return]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def with_time(limits: Limits, seconds: float, chars: int = 0) -> Limits:
    """Copy the limits with another time limit, and an output limit that fits `chars` characters of expected records."""
    return dataclasses.replace(limits, seconds=seconds, output_chars=RECORD_CHARS + 10 * chars)
