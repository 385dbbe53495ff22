"""The SQLite file of a ledger: read-only access, layout versions, and errors for damaged files or other settings."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reflectioncoder.config.places import changed_values, moved
from reflectioncoder.errors import UserError

# Settings that name a place, and the digest of what is there. With the same digest another place is the same setting,
# if the last part of its name is the same: that part is recorded in the sequences.
SAME_BY: Mapping[str, str] = {"problems": "problem_texts", "native.model": "native.weights"}
# files that only a build that has opened its ledger writes
OUTPUTS = ("sequences.jsonl", "funnel.json", "config.versions.json", "problems.cache.jsonl", "ledger.sqlite-wal")
# layout of the tables in `ledger.py`, stored in the file's header; increased by changes that older versions cannot read
LAYOUT = 1


class OtherSettingsError(UserError):
    """The ledger was created with other settings; `changed` lists the keys that differ."""

    def __init__(self, path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._given = path, dict(old), dict(new)
        self.changed = changes(old, new)
        listed = ", ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in self.changed)
        hint = "restore them or choose another output directory"
        super().__init__(f"{path}: created with other settings ({listed}); {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # exceptions are unpickled from `args`, which has only the message
        return type(self), self._given


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two fingerprints differ; see `SAME_BY` and `same_value`."""
    return [key for key in changed_values(old, new) if not _same_contents(key, old, new)]


def _same_contents(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    digest = SAME_BY.get(key)
    if digest is None or digest not in old or old[digest] != new.get(digest):
        return False
    return moved(old.get(key), new.get(key))


def check_not_lost(path: Path) -> None:
    """Check that a missing or empty ledger is a new one.

    Args:
        path: path of the ledger's file.

    Raises:
        UserError: files of a build are beside it, so its answers would be paid for again.
    """
    if path.exists() and path.stat().st_size:
        return
    found = [name for name in OUTPUTS if (path.parent / name).exists()]
    if found:
        state = "empty" if path.exists() else "missing"
        raise UserError(
            f"{path}: is {state}, but {path.parent} holds {found[0]} of a run: restore a copy of the ledger, or choose"
            " another output directory"
        )


def connect_to_read(path: Path, held: bool = False) -> sqlite3.Connection:
    """Open a ledger's file read-only, even in a folder without write permission.

    Args:
        path: path of the file.
        held: whether the caller holds the lock. No other process can write then, so no files are created beside it.
    """
    # SQLite creates files beside a database that others may write to; a cleanly closed one is complete without them
    alone = (held or not os.access(path.parent, os.W_OK)) and not path.with_name("ledger.sqlite-wal").exists()
    where = f"file:{quote(str(path))}?{'immutable=1' if alone else 'mode=ro'}"
    return sqlite3.connect(where, uri=True, isolation_level=None, timeout=10)


def failure(path: Path, error: Exception) -> UserError:
    """Make the error for a failure of a ledger's file, with a remedy."""
    text = str(error)
    hint = "; free some space, then run again to continue: finished problems are kept" if "full" in text else ""
    if isinstance(error, json.JSONDecodeError) or any(
        word in text for word in ("malformed", "not a database", "no such")
    ):
        hint = "; the file is damaged: restore a copy of it, or choose another output directory"
    return UserError(f"ledger {path}: {text}{hint}")


def check_layout(database: sqlite3.Connection, path: Path) -> int:
    """Return the layout version of a ledger, 0 for a new file. Raises UserError if a newer version wrote it."""
    layout = int(database.execute("PRAGMA user_version").fetchone()[0])
    if layout > LAYOUT:
        raise UserError(f"ledger {path}: written by a newer version of reflectioncoder; use that version")
    return layout


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
