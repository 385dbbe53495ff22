"""Crash-safe record of a build in SQLite: the results of finished problems, and all steps of conversations.

Every finished problem is one transaction, so a kill at any moment loses at most the problems in progress. Every answer
and execution of a conversation with a model is recorded too, so conversations resume where they stopped. One process at
a time holds a ledger, by a lock that the operating system releases when the process ends. A ledger belongs to one
configuration and cannot be opened with another. It does not protect against manual edits.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, cast

from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.ledger.database import (
    LAYOUT,
    OtherSettingsError,
    changes,
    check_layout,
    check_not_lost,
    connect_to_read,
    failure,
)
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.problems.problem import Problem

Status = Literal["done", "rejected"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS problems (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('done', 'rejected')),
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    payload TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    problem TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    requests INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (problem, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS costs ON events (problem, number, kind, requests, tokens_in, tokens_out);
CREATE TABLE IF NOT EXISTS finished_at (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS digests (id TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
"""
SPENT = "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0) FROM events"
_encode = json.JSONEncoder(ensure_ascii=False).encode
RECENT = 600.0  # seconds over which the speed of a build is measured
SHORTEST = 10.0  # seconds; a speed measured over less time says nothing about the rest


@dataclass(frozen=True)
class Entry:
    """The result of a finished problem.

    Args:
        id: id of the problem.
        status: "done" (there is a sequence) or "rejected".
        reason: reason of a rejection, one word.
        detail: reason of a rejection, one sentence.
        payload: a JSON value: the dialogue, or None.
    """

    id: str
    status: Status
    reason: str = ""
    detail: str = ""
    payload: Any = None


@dataclass(frozen=True)
class RecordedStep:
    """A step of a problem's conversation.

    Args:
        problem: id of the problem.
        number: number of the step, from 0 without gaps.
        kind: kind of the step; "failed" is an attempt without an answer, which may still have a cost.
        payload: a JSON value.
        requests, tokens_in, tokens_out: usage of the step.
    """

    problem: str
    number: int
    kind: str
    payload: Any
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class BuildProgress:
    """Progress of a build.

    Args:
        total: number of problems; 0 if not recorded yet.
        done: number of problems with a sequence.
        rejected: number of rejected problems by reason.
        open: number of conversations begun and not finished.
        requests, tokens_in, tokens_out: usage so far.
        prices: input and output price per million tokens, if known.
        per_minute: problems finished per minute over the last ten minutes; 0 if unknown, or if no build is running.
        running: whether a process holds the ledger.
        funnel: funnel of a finished build.
        forked: what was taken over from another build (see `fork.py`).
    """

    total: int
    done: int
    rejected: Mapping[str, int]
    open: int
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    prices: tuple[float, float] | None = None
    per_minute: float = 0.0
    running: bool = False
    funnel: Mapping[str, int] | None = None
    forked: Mapping[str, Any] | None = None


class Ledger:
    """The ledger in a directory, held until `close`; a context manager.

    Args:
        directory: folder of `ledger.sqlite` and its lock, which are created if missing.
        fingerprint: settings and data that determine the output, as JSON values by name. They are recorded when the
            ledger is first opened, and compared whenever it is opened again.

    Raises:
        UserError: another process holds the ledger, it has another fingerprint, or it cannot be read or written.
    """

    def __init__(self, directory: str | os.PathLike[str], fingerprint: Mapping[str, Any]) -> None:
        folder = Path(directory)
        self.path = folder / "ledger.sqlite"
        self._database: sqlite3.Connection | None = None
        self._held = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "ledger.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
        try:
            self._take_lock()
            check_not_lost(self.path)
            self._open(dict(fingerprint))
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            who = f" (process {holder})" if holder else ""
            raise UserError(f"{self.path}: another build{who} is using it; wait for it or stop it") from None
        except OSError as error:  # file systems without locks
            raise UserError(f"{self.path}: cannot lock it: {error.strerror or error}") from None
        self._held = True
        try:
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n")
            self._lock.flush()
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror or error}") from None

    def _open(self, fingerprint: dict[str, Any]) -> None:
        try:
            # commits are explicit; another process, such as a report, may read meanwhile
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=10, check_same_thread=False)
            layout = check_layout(self._database, self.path)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(SCHEMA if layout else f"{SCHEMA}PRAGMA user_version={LAYOUT}")
            text = json.dumps(fingerprint, sort_keys=True)
            self._database.execute("INSERT OR IGNORE INTO meta VALUES ('fingerprint', ?)", (text,))
            (kept,) = self._database.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
            old, new = parse_json(kept), parse_json(text)
            if not isinstance(old, dict):
                raise json.JSONDecodeError("the settings are no object", kept, 0)
            if changes(old, new) and self.is_empty():  # a run that ended before its first record binds nobody
                self._database.execute("DELETE FROM meta")
                self._database.execute("DELETE FROM digests")
                self._database.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (text,))
                old = new
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise self._failed(error) from None
        if changes(old, new):
            raise OtherSettingsError(self.path, old, new)

    def is_empty(self) -> bool:
        """Whether nothing has been recorded: no result, no step of a conversation, and no end of the build."""
        tables = {name for (name,) in self._select("SELECT name FROM sqlite_master WHERE type = 'table'")}
        recorded = [f"SELECT 1 FROM {name} LIMIT 1" for name in ("problems", "events") if name in tables]
        return not any(map(self._select, ["SELECT 1 FROM meta WHERE key IN ('funnel', 'forked')", *recorded]))

    def _failed(self, error: Exception) -> UserError:
        return failure(self.path, error)

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise ValueError("the ledger is closed")
        return self._database

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context manager that makes all records inside it one transaction."""
        if self._connection.in_transaction:
            yield
            return
        try:
            self._connection.execute("BEGIN")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from None
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def digests(self, of_problems: Mapping[str, str] | None = None) -> dict[str, str]:
        """Digests of the problems at the start of the build, by id; new ones in `of_problems` are recorded."""
        try:
            if of_problems is not None:
                self._connection.executemany("INSERT OR IGNORE INTO digests VALUES (?, ?)", of_problems.items())
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return dict(self._select("SELECT id, digest FROM digests"))

    def _select(self, what: str, *parameters: str) -> list[Any]:
        try:
            return self._connection.execute(what, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _parsed(self, text: str) -> Any:
        try:
            return parse_json(text)
        except json.JSONDecodeError as error:
            raise self._failed(error) from None

    def put(self, entry: Entry, timed: bool = True) -> bool:
        """Record a finished problem durably before this returns. An existing entry is kept, and False is returned.

        Args:
            entry: result of the problem.
            timed: whether it counts for the speed of this build.

        Raises:
            UserError: the disk is full or the file is damaged; earlier records are intact.
        """
        return self.write([entry], timed) == 1

    def add_event(
        self, problem: str, number: int, kind: str, payload: Any, requests: int = 0, tokens: tuple[int, int] = (0, 0)
    ) -> None:
        """Record one step; see `RecordedStep` and `write`."""
        self.write([RecordedStep(problem, number, kind, payload, requests, *tokens)])

    def write(self, records: Sequence[Entry | RecordedStep], timed: bool = True) -> int:
        """Record finished problems and steps of conversations, all or nothing, durably before this returns.

        Args:
            records: entries and steps in order.
            timed: whether the problems count for the speed of this build.

        Returns:
            number of problems recorded for the first time; existing entries stay unchanged.

        Raises:
            UserError: the disk is full or the file is damaged; earlier records are intact.
            ValueError: a problem already has a step with this number.
        """
        now, new = time.time(), 0
        with self.together():
            execute = self._connection.execute
            for record in records:
                payload = _encode(record.payload)
                if isinstance(record, Entry):
                    row = (record.id, record.status, record.reason, record.detail, payload)
                    new += execute("INSERT OR IGNORE INTO problems VALUES (?, ?, ?, ?, ?)", row).rowcount
                    if timed:
                        execute("INSERT OR IGNORE INTO finished_at VALUES (?, ?)", (record.id, now))
                    continue
                cost = (record.requests, record.tokens_in, record.tokens_out)
                values = (record.problem, record.number, record.kind, payload, *cost, now)
                try:
                    execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
                except sqlite3.IntegrityError:
                    raise ValueError(f"problem {record.problem} has step {record.number} already") from None
        return new

    def events(self, problem: str) -> list[tuple[str, Any]]:
        """Kind and payload of all steps of a problem's conversation, in order."""
        rows = self._select("SELECT kind, payload FROM events WHERE problem = ? ORDER BY number", problem)
        return [(kind, self._parsed(payload)) for kind, payload in rows]

    def last_kinds(self) -> dict[str, str]:
        """Kind of the last step of each problem that was begun and is not finished."""
        sql = "SELECT problem, kind, MAX(number) FROM events WHERE problem NOT IN (SELECT id FROM problems) GROUP BY 1"
        rows = self._select(sql)
        return {problem: kind for problem, kind, _ in rows}

    def most_answers(self) -> int:
        """Largest number of answers that a conversation has."""
        sql = (
            "SELECT COALESCE(MAX(n), 0) FROM (SELECT COUNT(*) AS n FROM events WHERE kind = 'answer' GROUP BY problem)"
        )
        return int(self._select(sql)[0][0])

    def spent(self) -> tuple[int, int, int]:
        """Requests, input tokens and output tokens of all steps."""
        ((requests, tokens_in, tokens_out),) = self._select(SPENT)
        return requests, tokens_in, tokens_out

    def finished(self, status: Status | None = None) -> set[str]:
        """Ids of all finished problems, or of those with a given status."""
        if status is None:
            return {id for (id,) in self._select("SELECT id FROM problems")}
        return {id for (id,) in self._select("SELECT id FROM problems WHERE status = ?", status)}

    def get(self, id: str) -> Entry | None:
        """The entry of a problem; None if it is not finished."""
        for row in self._select("SELECT status, reason, detail, payload FROM problems WHERE id = ?", id):
            return Entry(id, cast(Status, row[0]), row[1], row[2], self._parsed(row[3]))
        return None

    def note(self, key: str, value: Any = None) -> Any:
        """Record a value about the build under a key, or read it back (None if missing)."""
        if key == "fingerprint":
            raise ValueError("the fingerprint is not a note")
        try:
            if value is not None:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return self._parsed(row[0]) if row else None

    def close(self) -> None:
        """Release the ledger; safe to call twice."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._held:
            self._held = False
            try:
                self._lock.truncate(0)  # tells readers that no build is running
            except OSError:
                pass
        self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def progress(directory: str | os.PathLike[str], now: float | None = None) -> BuildProgress:
    """Read a ledger's progress without holding it; a build may be running.

    Args:
        directory: output directory of the build.
        now: time in seconds since the epoch; by default that of the clock.

    Raises:
        UserError: the ledger is missing or cannot be read.
    """
    path = Path(directory) / "ledger.sqlite"
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the output directory of a build")
    try:
        with closing(connect_to_read(path)) as database:
            return _progress(database, path, time.time() if now is None else now)
    except (sqlite3.Error, json.JSONDecodeError) as error:
        raise failure(path, error) from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise failure(path, json.JSONDecodeError(f"an unexpected value ({error})", "", 0)) from None


def _progress(database: sqlite3.Connection, path: Path, now: float) -> BuildProgress:
    check_layout(database, path)
    database.execute("BEGIN")  # one consistent snapshot
    notes = {key: parse_json(value) for key, value in database.execute("SELECT key, value FROM meta")}
    counts = database.execute("SELECT status, reason, COUNT(*) FROM problems GROUP BY status, reason").fetchall()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    spent, begun, number, first = (0, 0, 0), 0, 0, now
    if "events" in tables:
        spent = database.execute(SPENT).fetchone()
        (begun,) = database.execute(
            "SELECT COUNT(DISTINCT problem) FROM events WHERE problem NOT IN (SELECT id FROM problems)"
        ).fetchone()
        sql = "SELECT COUNT(*), COALESCE(MIN(at), ?) FROM finished_at WHERE at >= ?"
        number, first = database.execute(sql, (now, now - RECENT)).fetchone()
    prices, running = notes.get("prices"), _is_held(path.with_name("ledger.lock"))
    measured = running and number > 1 and now - first >= SHORTEST
    return BuildProgress(
        total=notes.get("total", 0) - notes.get("contaminated", 0),
        done=sum(count for status, _, count in counts if status == "done"),
        rejected={reason: count for status, reason, count in counts if status == "rejected"},
        open=begun,
        requests=spent[0],
        tokens_in=spent[1],
        tokens_out=spent[2],
        prices=(prices[0], prices[1]) if prices else None,
        per_minute=60 * (number - 1) / (now - first) if measured else 0.0,  # the first one begins the interval
        running=running,
        funnel=notes.get("funnel"),
        forked=notes.get("forked"),
    )


def _is_held(lock: Path) -> bool:
    """Whether the process named in the lock file is alive; testing the lock itself could make a starting build fail."""
    try:
        os.kill(int(lock.read_text(encoding="utf-8")), 0)
    except (OSError, ValueError) as error:
        return isinstance(error, PermissionError)
    return True


def labels(problem: Problem) -> dict[str, Any]:
    """The recorded origin of a problem."""
    known = {"id": problem.id, "source": problem.source, "licence": problem.licence, "level": problem.level}
    return {key: value for key, value in known.items() if value not in (None, "")}


def entry_of(problem: Problem, dialogue: Dialogue | None, rejected: Rejected | None) -> Entry:
    """The ledger entry of a finished problem, with its origin."""
    payload = None if dialogue is None else {**labels(problem), **dialogue.to_dict()}
    if rejected is None:
        return Entry(problem.id, "done", payload=payload)
    return Entry(problem.id, "rejected", rejected.reason.replace(" ", "_"), rejected.detail, payload)
