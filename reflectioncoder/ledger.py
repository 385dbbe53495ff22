"""Crash-safe record of a build: which problems are finished, and with what (SQLite).

Every finished problem is one transaction, so a process that is killed at any moment loses at most the problems it was
working on. One process at a time holds a ledger; a lock that the system drops with the process sees to that. A ledger
belongs to one configuration: it refuses to go on with another. It does not guard against edits by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, cast

from reflectioncoder.errors import UserError

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
"""


@dataclass(frozen=True)
class Entry:
    """What became of a problem.

    Args:
        id: of the problem.
        status: "done" with a sequence, or "rejected".
        reason: of a rejection, in a word.
        detail: of a rejection, in a sentence.
        payload: a JSON value: the dialogue, or nothing.
    """

    id: str
    status: Status
    reason: str = ""
    detail: str = ""
    payload: Any = None


class Ledger:
    """The ledger in a directory, held until `close`; a context manager.

    Args:
        directory: where `ledger.sqlite` and its lock are or will be.
        fingerprint: settings and data that decide the output, as JSON values by name; kept at the first opening and
            compared at the next ones.

    Raises:
        UserError: another process holds it, it was made with another fingerprint, or it cannot be read or written.
    """

    def __init__(self, directory: str | os.PathLike[str], fingerprint: Mapping[str, Any]) -> None:
        folder = Path(directory)
        self.path = folder / "ledger.sqlite"
        self._database: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "ledger.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
        try:
            self._take_lock()
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
            raise UserError(f"{self.path}: another build{who} is at work on it; wait for it or stop it") from None
        except OSError as error:  # file systems without locks
            raise UserError(f"{self.path}: cannot lock it: {error.strerror or error}") from None
        try:
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n")
            self._lock.flush()
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror or error}") from None

    def _open(self, fingerprint: dict[str, Any]) -> None:
        try:
            # commits are explicit; a reader such as a report may look on from another process
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=10, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(SCHEMA)
            text = json.dumps(fingerprint, sort_keys=True)
            self._database.execute("INSERT OR IGNORE INTO meta VALUES ('fingerprint', ?)", (text,))
            (kept,) = self._database.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        old, new = json.loads(kept), json.loads(text)
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            listed = ", ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in changed)
            raise UserError(
                f"{self.path}: begun with other settings ({listed}); set them back or choose another output directory"
            )

    def _failed(self, error: sqlite3.Error) -> UserError:
        hint = "; free some space and start again: what is finished is kept" if "full" in str(error) else ""
        return UserError(f"ledger {self.path}: {error}{hint}")

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise ValueError("the ledger is closed")
        return self._database

    def put(self, entry: Entry) -> bool:
        """Record a finished problem, durably before this returns; False where it was recorded before (and stays).

        Raises:
            UserError: the disk is full or the file is damaged; what was recorded before is intact.
        """
        row = (entry.id, entry.status, entry.reason, entry.detail, json.dumps(entry.payload, ensure_ascii=False))
        try:
            return self._connection.execute("INSERT OR IGNORE INTO problems VALUES (?, ?, ?, ?, ?)", row).rowcount == 1
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def finished(self) -> set[str]:
        """The ids of all problems recorded so far."""
        try:
            return {id for (id,) in self._connection.execute("SELECT id FROM problems")}
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def get(self, id: str) -> Entry | None:
        """What became of a problem, or None where it is not finished."""
        try:
            row = self._connection.execute(
                "SELECT status, reason, detail, payload FROM problems WHERE id = ?", (id,)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return Entry(id, cast(Status, row[0]), row[1], row[2], json.loads(row[3])) if row else None

    def note(self, key: str, value: Any = None) -> Any:
        """Keep a value about the build itself under a key, or read it back (None where there is none)."""
        if key == "fingerprint":
            raise ValueError("the fingerprint is not a note")
        try:
            if value is not None:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return json.loads(row[0]) if row else None

    def close(self) -> None:
        """Let go of the ledger; safe to call twice."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
