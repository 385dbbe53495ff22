"""Calls a program's function on many inputs in one session, and tells what came back; runs in the program's process.

Imported ahead in the warm process, so that a session pays nothing for it. Whatever happens here the program can meddle
with; so nothing that is expected of it ever comes here, and the owner compares (`calls.py`). One record a call leaves,
as a line of JSON: a number, text, truth value or None as itself, else a list that begins with what it is:

- ["l", items] and ["t", items]: a list, a tuple of such plain values
- ["v", type, text]: another value, as `values.encode_value` writes it, and the name of its type.
  Subclasses of plain types
  (Counter, namedtuple, numpy's float) leave as what they hold, dictionaries' keys as a set
- ["#", type, digest]: a large value, by its digest, which equal values share (1, 1.0 and True are equal). One with
  broken numbers in it leaves as it is, so that they can be compared with a tolerance, unless it is larger still
- ["s", record, record]: the set of its items, and the value itself, where a set is asked for
- ["+"]: something that is neither None nor a truth value, where only that is asked for
- ["!", type, message]: an exception, after which nothing more is called; ["late"]: the call ran out of its time
"""

import base64
import hashlib
import json
import marshal
import os
import signal
import time
import zlib
from collections.abc import KeysView
from types import FrameType
from typing import Any

from reflectioncoder.sandbox import values

LARGE = 16_000  # bytes of a value from which its digest is enough
CHUNK = 4096  # items of a long list that are digested together
MANY = 200_000  # items in a value's inner containers from which broken numbers, too, are compared by digest
FLUSH_SECONDS = 0.05


class LateError(Exception):
    """A call ran out of its time; an ordinary exception, as in evalplus, so that the same programs can catch it."""


def pack_program(inputs: list[Any]) -> str:
    """Lists of arguments, plain data, as text for `serve`."""
    return base64.b64encode(zlib.compress(marshal.dumps(inputs), 1)).decode()


def serve(source: str, entry_point: str, packed: str, seconds: list[float], mode: str, timed: bool) -> None:
    """Run a program in a namespace of its own and call its function on every input.

    Args:
        source: of the program.
        entry_point: name of the function.
        packed: the inputs, by `pack`.
        seconds: time limit of each call.
        mode: "value", "set" or "presence": what is asked for.
        timed: put the seconds that the call took before each record.
    """
    inputs = marshal.loads(zlib.decompress(base64.b64decode(packed)))
    null, told = os.open("/dev/null", os.O_WRONLY), os.dup(1)
    for standard in (1, 2):  # what a program prints is nobody's business
        os.dup2(null, standard)
    lines: list[str] = []
    flushed = time.monotonic()
    try:
        namespace: dict[str, Any] = {}
        try:
            exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)
            function = namespace[entry_point]
        except BaseException as error:
            lines.append(json.dumps(_failure(error)))
            return
        for arguments, limit in zip(inputs, seconds, strict=True):
            started = time.perf_counter()
            record = _called(function, arguments, limit, mode)
            lines.append(json.dumps([time.perf_counter() - started, record] if timed else record))
            if type(record) is list and record[0] in ("!", "late"):
                return
            if time.monotonic() - flushed > FLUSH_SECONDS:
                _tell(told, lines)
                flushed = time.monotonic()
    finally:
        _tell(told, lines)


def _tell(told: int, lines: list[str]) -> None:
    data = "".join(line + "\n" for line in lines).encode()
    while data:
        data = data[os.write(told, data) :]
    lines.clear()


def _called(function: Any, arguments: Any, limit: float, mode: str) -> Any:
    try:
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            out = function(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if mode == "presence":
            return out if out is None or type(out) is bool else ["+"]
        return ["s", record_of(set(out)), record_of(out)] if mode == "set" else record_of(out)
    except LateError:
        return ["late"]
    except BaseException as error:
        return _failure(error)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise LateError("out of time")


def _failure(error: BaseException) -> list[str]:
    try:
        return ["!", type(error).__name__[:100], str(error)[:300]]
    except BaseException:
        return ["!", type(error).__name__[:100], ""]


def record_of(value: Any) -> Any:
    """The record of a value; see above."""
    if _plain(value):
        return value
    kind = type(value)
    if (kind is list or kind is tuple) and len(value) <= 512 and all(map(_plain, value)):
        return ["l" if kind is list else "t", list(value)]
    module = getattr(kind, "__module__", "")  # classes made outside of any module have none
    name = kind.__name__ if module == "builtins" else f"{module}.{kind.__qualname__}"[:200]
    digest = _digest(value)
    if digest is None and kind in (list, tuple, dict) and _many(value):
        digest = _digest(value, broken=True)
    if digest is not None:
        return ["#", name, digest]
    return ["v", name, values.encode_value(_bare(value, values.DEEPEST))]


def _plain(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return -(2**63) < value < 2**63
    return kind is float or kind is bool or value is None or (kind is str and len(value) <= 4096)


def _many(value: Any) -> bool:
    """Whether the containers in a container hold more than `MANY` items: its text would be of a hundred megabytes."""
    count, waiting = 0, [value]
    while waiting and count <= MANY:
        inner = waiting.pop()
        items = list(inner.values()) if type(inner) is dict else inner
        waiting += [item for item in items if type(item) in (list, tuple, set, frozenset, dict)]
        count += len(inner) if inner is not value else 0
    return count > MANY


def _digest(value: Any, broken: bool = False) -> str | None:
    """Of a large value of plain exact types; None for small ones, others, and those with broken numbers in them.

    These have to be compared with a tolerance, and so as they are, unless `broken` says otherwise.
    """
    if type(value) in (list, tuple) and len(value) > CHUNK:
        digest = hashlib.sha256(f"{type(value).__name__} {len(value)}".encode())
        for start in range(0, len(value), CHUNK):
            try:
                digest.update(marshal.dumps(_canonical(list(value[start : start + CHUNK]), broken), 2))
            except ValueError:
                return None
        return digest.hexdigest()
    try:
        data = marshal.dumps(_canonical(value, broken), 2)
    except (ValueError, RecursionError):
        return None
    return hashlib.sha256(data).hexdigest() if len(data) > LARGE else None


def _canonical(value: Any, broken: bool) -> Any:
    """The same for values that are equal. Raises ValueError for what cannot be digested."""
    kind = type(value)
    if kind is int or kind is str or value is None or kind is bytes:
        return value
    if kind is bool:
        return int(value)
    if kind is float:
        if value.is_integer():
            return int(value)
        if not broken or value != value:
            raise ValueError("not a whole number")
        return value
    if kind is list or kind is tuple:
        if set(map(type, value)) <= {int, str}:
            return value
        return kind(_canonical(item, broken) for item in value)
    if kind is dict:
        return (
            "dict",
            sorted(marshal.dumps((_canonical(k, broken), _canonical(v, broken)), 2) for k, v in value.items()),
        )
    if kind is set or kind is frozenset:
        return ("set", sorted(marshal.dumps(_canonical(item, broken), 2) for item in value))
    raise ValueError("not of a plain type")


def _bare(value: Any, depth: int) -> Any:
    """A value with its subclasses of plain types replaced by what they hold, as far as `==` does not care."""
    kind = type(value)
    if depth <= 0 or value is None or kind in (int, float, str, bool, bytes, complex):
        return value
    container: Any
    for container in (list, tuple, set, frozenset):
        if isinstance(value, container):
            return container(_bare(item, depth - 1) for item in container.__iter__(value))
    if isinstance(value, dict):
        return {_bare(key, depth - 1): _bare(item, depth - 1) for key, item in dict.items(value)}
    if isinstance(value, KeysView) and kind is type({}.keys()):
        return {_bare(item, depth - 1) for item in value}
    if isinstance(value, str):
        return "".join(str.__iter__(value))
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value
