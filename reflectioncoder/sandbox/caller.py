"""Calls a program's function on many inputs in one session and reports the results; runs in the program's process.

The warm process imports this module before it forks (`own.py`), so a session starts no slower. The program can tamper
with everything in this process. Expected values therefore never enter it; the parent process compares
(`interpreter/calls.py`). Each call writes one record, a line of JSON. Numbers, strings, booleans and None stand for
themselves; every other record is a list that begins with a tag:

- ["l", items], ["t", items]: a list or a tuple of such plain values.
- ["v", type, text]: any other value, encoded by `values.encode_value`, and the name of its type. Subclasses of plain
  types (Counter, namedtuple, numpy's float) and wrappers (UserList, ChainMap, views of dictionaries) are sent as their
  contents, see `values.unwrapped`.
- ["#", type, digest]: a large value, sent as its SHA-256 hash. Equal values have equal hashes (1, 1.0 and True are
  equal). A large value that contains non-integer floats is sent in full, so that it can be compared with a tolerance,
  unless its nested containers hold more than `MANY` items.
- ["s", record, record]: in mode "set": the set of the value's items, then the value itself.
- ["+"]: in mode "presence": the value is neither None nor a boolean.
- ["!", type, message]: an exception; no further call is made.
- ["late"]: the call exceeded its time limit; no further call is made.
"""

import base64
import builtins
import hashlib
import json
import marshal
import os
import resource
import signal
import time
import zlib
from types import FrameType
from typing import Any

from reflectioncoder.sandbox import values

LARGE = 16_000  # serialized size in bytes above which a value is sent as a hash
CHUNK = 4096  # items of a long list that are hashed together
MANY = 200_000  # items in nested containers above which values with non-integer floats are hashed, too
FLUSH_SECONDS = 0.05


SLEEP_FACTOR = 10.0  # without `schedstat`: wall-clock bound of a call, in multiples of its limit
SHORTEST_CHECK = 0.005  # seconds between two checks of a call's time


class LateError(Exception):
    """A call exceeded its time limit. A plain Exception, as in EvalPlus, so that the same programs can catch it."""


class CallClock:
    """Time that a call takes, without the time that its thread waited for a processor.

    It is the larger of the processor time (of this process and of its children that have ended) and the wall-clock time
    without the waiting. So a call takes as long on a busy machine as on an idle one, and sleeping counts.
    """

    def __init__(self) -> None:
        try:
            self._waited = os.open("/proc/self/schedstat", os.O_RDONLY)  # of the main thread, which makes the calls
        except OSError:
            self._waited = -1
        self.start(0.0)

    def start(self, limit: float) -> None:
        """Start a call with a limit in seconds."""
        self.limit = limit
        self._before = self._read()

    def seconds(self) -> float:
        """Return the time since `start` in seconds."""
        processor, awake = (now - then for now, then in zip(self._read(), self._before, strict=True))
        return max(processor, awake)

    def _read(self) -> tuple[float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor, wall = time.process_time() + ended.ru_utime + ended.ru_stime, time.perf_counter()
        try:
            return processor, wall - int(os.pread(self._waited, 100, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # no such file on this kernel, or the program has closed it
            return processor, wall / SLEEP_FACTOR

    def on_alarm(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the call if its time is up; otherwise set the next alarm."""
        left = self.limit - self.seconds()
        if left <= 0:
            raise LateError("out of time")
        signal.setitimer(signal.ITIMER_REAL, max(left, SHORTEST_CHECK))


def pack_program(inputs: list[Any]) -> str:
    """Serialize the inputs for `serve`: one list of arguments per call, plain data, as base64 text."""
    return base64.b64encode(zlib.compress(marshal.dumps(inputs), 1)).decode()


def serve(source: str, entry_point: str, packed: str, seconds: list[float], mode: str, timed: bool) -> None:
    """Run a program in its own namespace, call its function on each input, and write one record per call to stdout.

    Args:
        source: source code of the program.
        entry_point: name of the function.
        packed: the inputs, serialized by `pack_program`.
        seconds: time limit of each call in seconds, one per input, as `CallClock` measures it.
        mode: what each record holds: "value" (the value), "set" (the set of its items as well) or "presence" (only
            whether there is a value).
        timed: write [seconds of the call, seconds of everything about it, record] instead of the record.
    """
    inputs = marshal.loads(zlib.decompress(base64.b64decode(packed)))
    null, told = os.open("/dev/null", os.O_WRONLY), os.dup(1)
    for standard in (1, 2):  # discard what the program prints
        os.dup2(null, standard)
    lines: list[str] = []
    flushed = time.monotonic()
    try:
        namespace: dict[str, Any] = {"__builtins__": vars(builtins)}  # not our copy of them, see `own.py`
        try:
            exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)
            function = namespace[entry_point]
        except BaseException as error:
            lines.append(json.dumps(_failure(error)))
            return
        clock = CallClock()
        for arguments, limit in zip(inputs, seconds, strict=True):
            took, record = _called(function, arguments, limit, mode, clock)
            line = json.dumps(record)
            lines.append(f"[{took}, {clock.seconds()}, {line}]" if timed else line)
            if type(record) is list and record[0] in ("!", "late"):
                return
            if time.monotonic() - flushed > FLUSH_SECONDS:
                _tell(told, lines)
                flushed = time.monotonic()
    finally:
        _tell(told, lines)


def answer(program: dict[str, Any], function: str, arguments: str, word: str) -> None:
    """Call a function for `interpreter/judge.py`, and write a line break, a word and the result as JSON to stdout.

    Args:
        program: the namespace of the program.
        function: its name, or a dotted expression such as `Solution().solve`.
        arguments: positional and keyword arguments, by `values.encode_value`.
        word: marks the result.
    """
    positional, keywords = values.decode_value(arguments)
    try:
        result = ["value", values.encode_value(eval(function, program)(*positional, **keywords))]
    except Exception as error:
        result = ["raised", type(error).__name__]
    _tell(1, [f"\n{word}{json.dumps(result)}"])


def _tell(told: int, lines: list[str]) -> None:
    """Write lines, each with a line break; also through a pipe that takes less than all at once. Empties the list."""
    data = "".join(line + "\n" for line in lines).encode()
    while data:
        data = data[os.write(told, data) :]
    lines.clear()


def _called(function: Any, arguments: Any, limit: float, mode: str, clock: CallClock) -> tuple[float, Any]:
    """Call the function. Returns the seconds it took and the record."""
    try:
        signal.signal(signal.SIGALRM, clock.on_alarm)
        clock.start(limit)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            out = function(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took = clock.seconds()
        if mode == "presence":
            return took, out if out is None or type(out) is bool else ["+"]
        return took, ["s", record_of(set(out)), record_of(out)] if mode == "set" else record_of(out)
    except LateError:
        return limit, ["late"]
    except BaseException as error:
        return limit, _failure(error)


def _failure(error: BaseException) -> list[str]:
    try:
        return ["!", type(error).__name__[:100], str(error)[:300]]
    except BaseException:
        return ["!", type(error).__name__[:100], ""]


def record_of(value: Any) -> Any:
    """Return the record of a value; the module docstring lists the formats."""
    if _plain(value):
        return value
    kind = type(value)
    if (kind is list or kind is tuple) and len(value) <= 512 and all(map(_plain, value)):
        return ["l" if kind is list else "t", list(value)]
    module = getattr(kind, "__module__", "")  # a class created outside any module has none
    name = kind.__name__ if module == "builtins" else f"{module}.{kind.__qualname__}"[:200]
    digest = _digest(value)
    if digest is None and kind in (list, tuple, dict) and _many(value):
        digest = _digest(value, broken=True)
    if digest is None:
        bare = _bare(value, values.DEEPEST)
        digest = _digest(bare) if type(bare) in (list, tuple, dict, set, frozenset) else None
    if digest is not None:
        return ["#", name, digest]
    return ["v", name, values.encode_value(bare)]


def _plain(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return -(2**63) < value < 2**63
    return kind is float or kind is bool or value is None or (kind is str and len(value) <= 4096)


def _many(value: Any) -> bool:
    """Whether nested containers hold more than `MANY` items; encoding them would take hundreds of megabytes."""
    count, waiting = 0, [value]
    while waiting and count <= MANY:
        inner = waiting.pop()
        items = list(inner.values()) if type(inner) is dict else inner
        waiting += [item for item in items if type(item) in (list, tuple, set, frozenset, dict)]
        count += len(inner) if inner is not value else 0
    return count > MANY


def _digest(value: Any, broken: bool = False) -> str | None:
    """Return the SHA-256 hash of a large value, or None if the value is sent in full.

    None is returned for small values, for values that are not of exact plain types, and, unless `broken` is set, for
    values with non-integer floats, which are compared with a tolerance.
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
    """Map equal values to the same form. Raises ValueError for a value that cannot be hashed (see `_digest`)."""
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
    if kind.__module__ in ("fractions", "decimal", "numpy"):
        return _whole(value)
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


def _whole(value: Any) -> int:
    """Return the int that equals a fraction, a decimal or a scalar of numpy. Raises ValueError if there is none."""
    try:
        if abs(value) < 1e300 and value == int(value):
            return int(value)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        pass
    raise ValueError("not a whole number")


def _bare(value: Any, depth: int) -> Any:
    """Replace instances of subclasses of plain types by plain values that compare equal."""
    kind = type(value)
    if depth <= 0 or value is None or kind in (int, float, str, bool, bytes, complex):
        return value
    value = values.unwrapped(value, subclasses=True)
    container: Any
    for container in (list, tuple, set, frozenset):
        if isinstance(value, container):
            return container(_bare(item, depth - 1) for item in container.__iter__(value))
    if isinstance(value, dict):
        return {_bare(key, depth - 1): _bare(item, depth - 1) for key, item in dict.items(value)}
    if isinstance(value, str):
        return "".join(str.__iter__(value))
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value
