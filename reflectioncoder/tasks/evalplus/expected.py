"""Cache of the values that reference solutions return, and of the times they take on this machine.

They are computed in isolation, when a problem is first scored, and kept on disk. The file name contains the digest of
the data, the machine and the Python version, because times are only valid for the machine they were measured on. They
are processor times (`caller.CallClock`), which depend little on the load of the machine; before a time-out counts they
are measured once more (`Expected.measure_again`). Set REFLECTIONCODER_CACHE to use another folder.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import sys
import threading
from dataclasses import dataclass

from reflectioncoder.errors import UserError
from reflectioncoder.files.cache import cache_folder
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.interpreter.calls import Mode, Record, call_all, with_time
from reflectioncoder.interpreter.interpreter import Interpreter, Limits

FORMAT = 3  # changes whenever the format of a record changes
CALL_SECONDS, ALL_SECONDS = 120.0, 900.0
MEMORY_MB = 4096


@dataclass(frozen=True)
class Group:
    """Results of the reference on a group of tests.

    Args:
        records: record of each call.
        seconds: time of each call, as `caller.CallClock` measures it.
        handling: seconds that making the records took besides.
        chars: characters of all records.
    """

    records: tuple[Record, ...]
    seconds: tuple[float, ...]
    handling: float
    chars: int


@dataclass(frozen=True)
class ReferenceProgram:
    """A canonical solution and the calls of one group of tests.

    Args:
        source: source code.
        entry_point: name of the function.
        packed: the inputs, by `caller.pack_program`.
        count: number of inputs.
        mode: what is compared of the values.
    """

    source: str
    entry_point: str
    packed: str
    count: int
    mode: Mode


class Expected:
    """Expected values of a data file, by problem and group of tests; may be used by several threads."""

    def __init__(self, name: str, digest: str) -> None:
        """Read the values cached so far.

        Args:
            name: name of the benchmark, part of the file name.
            digest: digest of the data file.
        """
        machine = re.sub(r"\W+", "_", platform.node())
        version = f"py{sys.version_info.major}{sys.version_info.minor}-{FORMAT}"
        self.path = cache_folder() / "expected" / f"{name}-{digest[:16]}-{machine}-{version}.jsonl"
        self._lines: dict[str, bytes] = {}
        self._groups: dict[str, Group] = {}
        self._lock = threading.Lock()
        data = self.path.read_bytes() if self.path.is_file() else b""
        for line in data.split(b"\n"):
            key, tab, rest = line.partition(b"\t")
            if tab:
                self._lines[key.decode("utf-8", "replace")] = rest

    def seconds(self, key: str) -> float:
        """Seconds that all calls of a group of tests took; 0 if not cached."""
        with self._lock:
            group = self._kept(key)
        return sum(group.seconds) if group is not None else 0.0

    def _kept(self, key: str) -> Group | None:
        if key not in self._groups and key in self._lines:
            found = _parsed(self._lines.pop(key))
            if found is not None:
                self._groups[key] = found
        return self._groups.get(key)

    def get(self, key: str, program: ReferenceProgram, interpreter: Interpreter) -> Group | str:
        """Return the results on a group of tests; runs the reference if they are not cached.

        Args:
            key: id of the problem and name of the group.
            program: the canonical solution and its calls.
            interpreter: the interpreter that runs it.

        Returns:
            the results; or an error message if the interpreter itself failed, which says nothing about the reference.

        Raises:
            UserError: the reference fails on this machine.
        """
        with self._lock:
            kept = self._kept(key)
        if kept is not None and len(kept.records) == program.count:
            return kept
        group = _measured(key, program, interpreter)
        if isinstance(group, Group):
            with self._lock:
                self._groups[key] = group
                self._keep(key, group)
        return group

    def measure_again(self, key: str, program: ReferenceProgram, interpreter: Interpreter) -> None:
        """Replace the times of a group of tests by new ones, for the present state of the machine; not on disk.

        Args: see `get`. Nothing changes if the results are not known yet, or the reference fails this time.
        """
        with self._lock:
            kept = self._kept(key)
        if kept is None:
            return
        try:
            group = _measured(key, program, interpreter)
        except UserError:
            return
        if isinstance(group, Group):
            with self._lock:
                self._groups[key] = dataclasses.replace(kept, seconds=group.seconds, handling=group.handling)

    def _keep(self, key: str, group: Group) -> None:
        line = f"{key}\t{json.dumps([group.records, group.seconds, group.handling])}\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as out:  # a single write, so that lines of parallel runs do not mix
                out.write(line.encode())
        except OSError:  # a cache that cannot be written only costs time
            pass


def _measured(key: str, program: ReferenceProgram, interpreter: Interpreter) -> Group | str:
    limits = with_time(Limits(ALL_SECONDS, MEMORY_MB), ALL_SECONDS, 10_000_000)
    seconds = [CALL_SECONDS] * program.count
    with interpreter.session(limits, module=True) as session:
        made = call_all(
            session, program.source, program.entry_point, program.packed, seconds, limits, program.mode, timed=True
        )
    if made.outcome == "infrastructure":
        return made.error or "the session was lost"
    if made.outcome != "ok":
        what = f"{made.outcome}: {made.error}" if made.error else made.outcome
        raise UserError(f"{key}: its canonical solution fails on this machine ({what})")
    return Group(made.records, made.timings, made.handling, len(json.dumps(made.records)))


def _parsed(line: bytes) -> Group | None:
    """Parse the results in a line; None if the line is incomplete."""
    try:
        records, seconds, handling = parse_json(line)
        group = Group(tuple(records), tuple(map(float, seconds)), float(handling), len(line))
    except (ValueError, TypeError):
        return None
    return group if len(group.records) == len(group.seconds) else None
