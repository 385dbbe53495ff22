"""When two values of a setting mean the same: paths are compared by the place that they name, not by their spelling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflectioncoder.files.owned import same_place

# settings that name files or folders, one or several
PLACES = frozenset(("data", "decontaminate", "eval_data", "model", "output", "sharding"))


def same_value(key: str, old: Any, new: Any) -> bool:
    """Whether a setting is unchanged: its values are equal, or name the same files in the same order.

    Args:
        key: name of the setting.
        old: its value in an earlier run; a list stands for a tuple.
        new: its value now.
    """
    if old == new:
        return True
    if key not in PLACES:
        return False
    before, now = ([value] if isinstance(value, str) else value for value in (old, new))
    if not all(isinstance(values, (list, tuple)) for values in (before, now)) or len(before) != len(now):
        return False
    pairs = zip(before, now, strict=True)
    return all(isinstance(one, str) and isinstance(other, str) and same_path(one, other) for one, other in pairs)


def same_path(one: str, other: str) -> bool:
    """Whether two paths or hub names are equal, or name the same file or folder."""
    return one == other or (bool(one) and bool(other) and same_place(one, other))


def moved(old: Any, new: Any) -> bool:
    """Whether two paths may name the same file, moved: the last parts of their names are equal.

    It is for places whose contents are compared by a hash.
    """
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    return Path(os.path.abspath(old)).name == Path(os.path.abspath(new)).name


def changed_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys, sorted, whose values differ, or that only one of two tables of settings has."""
    return [key for key in sorted(old.keys() | new.keys()) if not same_value(key, old.get(key), new.get(key))]
