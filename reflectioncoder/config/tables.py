"""Tables of other commands' keys in a configuration: merged, checked key by key, with placeholders in their texts.

The configurations of `study` and `improve` hold such tables (`[build]`, `[train]`, `[generate]`, `[evaluate]`). They
are read as free tables first, and then, merged, as the settings of these commands. So a misspelt key in any of them is
an error of the configuration file, before anything runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.config.toml import from_table
from reflectioncoder.errors import UserError

PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
# Keys that the command with the tables sets itself, by the command that they are for.
RESERVED_KEYS: Mapping[str, tuple[str, ...]] = {
    "build": ("output", "fork"),
    "train": ("output", "resume", "overwrite"),
    "generate": ("output",),
    "evaluate": ("output", "generate", "completions"),
}
GivenTable = tuple[Mapping[str, Any], str]  # a table of the file, and the prefix of its keys


def sections() -> Any:
    """A field of free keys whose inner tables `to_toml` writes as sections."""
    return field(default_factory=dict, hash=False, metadata={"sections": True})


@dataclass(frozen=True)
class ScoreSettings:
    """One score of a model: its name, how the completions are decoded, and how they are checked."""

    name: str
    generate: GenerateConfig
    evaluate: EvaluateConfig


@dataclass(frozen=True)
class ScoreTables:
    """The tables of one score."""

    generate: Mapping[str, Any] = field(default_factory=dict, hash=False)
    evaluate: Mapping[str, Any] = field(default_factory=dict, hash=False)


def score_tables(scores: Mapping[str, Any], name: str) -> ScoreTables:
    """Read the tables `[scores.NAME...]`. Raises UserError with the key that is wrong."""
    return from_table(ScoreTables, as_table(scores[name], f"scores.{name}"), "", f"scores.{name}.")


def merge_tables(
    verb: str, tables: Sequence[GivenTable], set_by: str, last: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Merge tables of one command, key by key; later ones override earlier ones.

    Args:
        verb: the command.
        tables: the tables of the file.
        set_by: the command with the tables, for messages.
        last: a table that overrides all of them.

    Raises:
        UserError: a key that `set_by` sets itself.
    """
    found: dict[str, Any] = {}
    for one, where in tables:
        for key in RESERVED_KEYS[verb]:
            if key in one:
                raise UserError(f"key '{where}{key}': is set by {set_by}; leave it out")
        found = merged(found, one)
    return merged(found, last or {})


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables as one; values of the second replace those of the first."""
    found = dict(first)
    for key, value in second.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def read_tables(cls: type[Any], table: Mapping[str, Any], given: Sequence[GivenTable]) -> Any:
    """Fill the settings of a command from a merged table; a mistake is reported for the table that it is in."""
    for one, where in given:
        from_table(cls, one, "", where)
    return from_table(cls, table, "", given[0][1])


def as_table(value: Any, where: str) -> Mapping[str, Any]:
    """The value if it is a table. Raises UserError with the key `where` otherwise."""
    if not isinstance(value, Mapping):
        raise UserError(f"key '{where}': expected a table, found {value!r}")
    return value


def placeholders(value: Any) -> Iterator[str]:
    """Yield the names of all placeholders in the texts of settings, at any depth."""
    if isinstance(value, str):
        yield from PLACEHOLDER.findall(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from placeholders(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from placeholders(item)
    elif dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield from placeholders(getattr(value, entry.name))


def check_placeholders(settings: Any, known: set[str], where: str) -> None:
    """Raise UserError for a placeholder that is not known; `where` says whose settings have it."""
    for found in placeholders(settings):
        if found not in known:
            near = get_close_matches(found, known, 1)
            rest = f"did you mean {{{near[0]}}}?" if near else f"known: {', '.join(sorted(known))}"
            raise UserError(f"{where}: its settings have an unknown placeholder {{{found}}}; {rest}")


def flat_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        items = {key or "build": item for key, item in value.items()}
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        items = {getattr(item, "name", str(place)): item for place, item in enumerate(value)}
    else:
        return {prefix.rstrip("."): value}
    found: dict[str, Any] = {}
    for key, item in items.items():
        found |= flat_settings(item, f"{prefix}{key}.")
    return found
