"""The data files of HumanEval+ and MBPP+ (Liu et al., 2023), as evalplus publishes them: found, read and decoded.

A file is looked for in the folder that was given, at evalplus's own override variables, and in evalplus's cache; where
it is in none, evalplus downloads it. JSON has no tuples, sets or complex numbers, so that the arguments of some MBPP
problems have to be made into what their function takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import unzipped

Arguments = list[Any]


@dataclass(frozen=True)
class DataSource:
    """Where a benchmark lies: its folder in a data root, its file's stem, release, and evalplus's override variable."""

    folder: str
    stem: str
    release: str
    variable: str
    count: int


HUMANEVAL_SOURCE = DataSource("humaneval_plus", "HumanEvalPlus", "v0.1.10", "HUMANEVAL_OVERRIDE_PATH", 164)
MBPP_SOURCE = DataSource("mbpp_plus", "MbppPlus", "v0.2.0", "MBPP_OVERRIDE_PATH", 378)


@dataclass(frozen=True)
class PlusProblem:
    """A problem of either benchmark.

    Args:
        task_id: such as "HumanEval/0" or "Mbpp/2".
        prompt: what a completion continues.
        entry_point: name of the function.
        reference: the canonical program, prompt included.
        inputs: lists of arguments by group, "base" and "plus".
        atol: absolute tolerance of numbers; 0 where values are compared exactly.
    """

    task_id: str
    prompt: str
    entry_point: str
    reference: str
    inputs: dict[str, list[Arguments]]
    atol: float


def find_file(folders: Sequence[str], names: Sequence[str], data: str) -> Path | None:
    """The first file of these names in a data folder: in one of its own folders, or directly in it.

    Raises:
        UserError: the data folder does not exist.
    """
    root = Path(data)
    if not root.is_dir():
        raise UserError(
            f"data {data}: no such folder; give the folder that holds {names[0]}, or its parent, not a file"
        )
    places = [root / folder / name for folder in folders for name in names] + [root / name for name in names]
    return next((place for place in places if place.is_file()), None)


def find_plus(source: DataSource, data: str, download: bool = True) -> Path | None:
    """The file of a benchmark; None where there is none and nothing shall be downloaded.

    Raises:
        UserError: a folder was given and it is not there, or it cannot be downloaded.
    """
    names = [f"{source.stem}.jsonl.gz", f"{source.stem}.jsonl", f"{source.stem}-{source.release}.jsonl"]
    if data:
        found = find_file([source.folder], names, data)
        if found is None and download:
            raise UserError(f"data folder {data}: holds neither {source.folder}/{names[0]} nor {names[0]}")
        return found
    if os.environ.get(source.variable):
        return Path(os.environ[source.variable])
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalplus" / names[2]
    if cached.is_file():
        return cached
    if not download:
        return None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it says what it downloads
            from evalplus.data.humaneval import _ready_human_eval_plus_path
            from evalplus.data.mbpp import _ready_mbpp_plus_path

            return Path(_ready_human_eval_plus_path() if source is HUMANEVAL_SOURCE else _ready_mbpp_plus_path())
    except ImportError:
        reason = "evalplus, which would download it, is not installed"
    except OSError as error:
        reason = f"it cannot be downloaded ({error})"
    raise UserError(f"{names[0]} is not here and {reason}; give the folder it is in with --data DIR")


def read_values(path: Path) -> tuple[list[tuple[str, Any]], str]:
    """The values of a JSON-lines file, gzipped or not, each with the name of its place, and the file's digest.

    Raises:
        UserError: a file that cannot be read or is damaged, saying where.
    """
    try:
        data = path.read_bytes()
        lines = unzipped(data).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data file {path}: cannot be read ({error}); fetch it again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"data file {path}: not UTF-8 at byte {error.start}; fetch it again") from None
    values = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"data file {path}, line {number}"
            try:
                values.append((where, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error}); fetch it again") from None
    return values, hashlib.sha256(data).hexdigest()


def read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The problems of a JSON-lines file and its digest. Raises UserError as `read_values`, or for other objects."""
    values, digest = read_values(path)
    for where, row in values:
        if not isinstance(row, dict) or not isinstance(row.get("task_id"), (str, int)):
            raise UserError(f"{where}: not a problem with a 'task_id'")
    return [row for _, row in values], digest


def read_plus(source: DataSource, path: Path) -> tuple[list[PlusProblem], str]:
    """The problems of a file, and its digest. Raises UserError for a file that is not this benchmark's."""
    rows, digest = read_rows(path)
    problems = []
    for number, row in enumerate(rows, 1):
        try:
            prompt, reference = row["prompt"], row["prompt"] + row["canonical_solution"]
            inputs = {
                group: [decode_arguments(row["task_id"], given) for given in row[f"{group}_input"]]
                for group in ("base", "plus")
            }
            problem = PlusProblem(row["task_id"], prompt, row["entry_point"], reference, inputs, float(row["atol"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"data file {path}, line {number}: not a problem of {source.stem} ({error!r})") from None
        problems.append(problem)
    if len(problems) != source.count:
        known = f"{source.stem} {source.release} has {source.count}"
        raise UserError(f"data file {path}: {len(problems)} problems in it, but {known}; fetch it again")
    return problems, digest


def _tuple(value: Any) -> Any:
    return tuple(value)


def _tuples(value: Any) -> Any:
    return [tuple(item) for item in value]


def _tuple_of_tuples(value: Any) -> Any:
    return tuple(tuple(item) for item in value)


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _mixed(value: Any) -> Any:
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def _sets(value: Any) -> Any:
    return [set(item) if isinstance(item, list) and item else {} for item in value]


def _values(value: Any) -> Any:
    return {key: tuple(item) for key, item in value.items()}


def _same(value: Any) -> Any:
    return value


# MBPP problem: what becomes of each argument; the last one stands for all that follow.
_SHAPES: dict[tuple[Callable[[Any], Any], ...], str] = {
    (_tuple,): "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
    (_tuples,): "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    (_tuples, _same): "75 413 444 753",
    (_same, _tuple): "106 750",
    (_sets,): "115",
    (float, complex): "124",
    (complex,): "252",
    (_tuple, _same): "250 307 405 446 617 720 763 808",
    (_tuple_of_tuples,): "259 401 445",
    (_mixed,): "278",
    (_values, _same): "722",
    (_deep,): "580 615 791",
}
_BY_PROBLEM = {f"Mbpp/{number}": shape for shape, numbers in _SHAPES.items() for number in numbers.split()}


def decode_arguments(task_id: str, arguments: Arguments) -> Arguments:
    """Arguments as the problem's function takes them, from what JSON holds."""
    shape = _BY_PROBLEM.get(task_id)
    if shape is None:
        return list(arguments)
    return [shape[min(place, len(shape) - 1)](value) for place, value in enumerate(arguments)]
