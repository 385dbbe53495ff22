"""What a ledger's file may be besides a good one: another layout, other settings, damaged, only to be read."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reflectioncoder.errors import UserError

LAYOUT = (
    1  # of the tables in `ledger.py`, kept in the file's head; raised where an older program could not go on with them
)


class OtherSettingsError(UserError):
    """A ledger was begun with other settings than these, which `changed` names."""

    def __init__(self, path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._given = path, dict(old), dict(new)
        self.changed = changes(old, new)
        listed = ", ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in self.changed)
        hint = "set them back or choose another output directory"
        super().__init__(f"{path}: begun with other settings ({listed}); {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is unpickled from its `args`, which are the message alone
        return type(self), self._given


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names under which two fingerprints differ."""
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def connect_to_read(path: Path, held: bool = False) -> sqlite3.Connection:
    """Open a ledger's file without the means to change it, also where nothing can be written beside it.

    Args:
        path: of the file.
        held: nobody can begin to write to it meanwhile; then nothing is written beside it either.
    """
    # SQLite wants to write beside a file that another process may write to; one that was closed well is all there is
    alone = (held or not os.access(path.parent, os.W_OK)) and not path.with_name("ledger.sqlite-wal").exists()
    where = f"file:{quote(str(path))}?{'immutable=1' if alone else 'mode=ro'}"
    return sqlite3.connect(where, uri=True, isolation_level=None, timeout=10)


def failure(path: Path, error: Exception) -> UserError:
    """What went wrong with a ledger's file, and what to do."""
    text = str(error)
    hint = "; free some space and start again: what is finished is kept" if "full" in text else ""
    if isinstance(error, json.JSONDecodeError) or any(
        word in text for word in ("malformed", "not a database", "no such")
    ):
        hint = "; the file is damaged: put back a copy of it, or choose another output directory"
    return UserError(f"ledger {path}: {text}{hint}")


def check_layout(database: sqlite3.Connection, path: Path) -> int:
    """The number of a ledger's layout, 0 for none yet; UserError where a newer version of this program wrote it."""
    layout = int(database.execute("PRAGMA user_version").fetchone()[0])
    if layout > LAYOUT:
        raise UserError(f"ledger {path}: written by a newer version of reflectioncoder; go on with that one")
    return layout


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
