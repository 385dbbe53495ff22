"""Finds, reads and decodes the data files of HumanEval+ and MBPP+ (Liu et al., 2023), as published by evalplus.

If a data folder is given, only that folder is searched. Otherwise a file is located by evalplus's override variable or
in evalplus's cache, or evalplus downloads it. JSON has no tuples, sets or complex numbers, so the arguments of some
MBPP problems must be converted to the types that their function takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import unzipped
from reflectioncoder.files.json_value import parse_json

Arguments = list[Any]


@dataclass(frozen=True)
class DataSource:
    """Location of a benchmark's data.

    Args:
        folder: name of its folder in a data folder.
        stem: file name without suffix.
        release: release of the data.
        variable: evalplus's environment variable that overrides the location.
        count: number of problems.
    """

    folder: str
    stem: str
    release: str
    variable: str
    count: int


HUMANEVAL_SOURCE = DataSource("humaneval_plus", "HumanEvalPlus", "v0.1.10", "HUMANEVAL_OVERRIDE_PATH", 164)
MBPP_SOURCE = DataSource("mbpp_plus", "MbppPlus", "v0.2.0", "MBPP_OVERRIDE_PATH", 378)


@dataclass(frozen=True)
class PlusProblem:
    """A problem of HumanEval+ or MBPP+.

    Args:
        task_id: id such as "HumanEval/0" or "Mbpp/2".
        prompt: the text that a completion continues.
        entry_point: name of the function.
        reference: the canonical program, including the prompt.
        inputs: lists of arguments by group of tests, "base" and "plus".
        atol: absolute tolerance of numbers; 0 if values are compared exactly.
    """

    task_id: str
    prompt: str
    entry_point: str
    reference: str
    inputs: dict[str, list[Arguments]]
    atol: float


def find_file(folders: Sequence[str], names: Sequence[str], data: str) -> Path | None:
    """Find the first existing file in a data folder: in one of its subfolders, or directly in it.

    Args:
        folders: names of subfolders.
        names: file names, in order of preference.
        data: the data folder.

    Returns:
        path of the file; None if there is none.

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
    """Find the data file of a benchmark, or download it.

    Args:
        source: the benchmark.
        data: data folder; empty for evalplus's own locations.
        download: whether a missing file is downloaded, or an error if `data` is given.

    Returns:
        path of the file; None if it is missing and `download` is false.

    Raises:
        UserError: the data folder does not exist or lacks the file, or the file cannot be downloaded.
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
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it downloads
            from evalplus.data.humaneval import _ready_human_eval_plus_path
            from evalplus.data.mbpp import _ready_mbpp_plus_path

            return Path(_ready_human_eval_plus_path() if source is HUMANEVAL_SOURCE else _ready_mbpp_plus_path())
    except ImportError:
        reason = "evalplus, which would download it, is not installed"
    except OSError as error:
        reason = f"it cannot be downloaded ({error})"
    raise UserError(f"{names[0]} is missing and {reason}; give its folder with --data DIR")


def read_values(path: Path) -> tuple[list[tuple[str, Any]], str]:
    """Read the values of a JSONL file, gzipped or not.

    Returns:
        each value with its location for error messages, and the SHA-256 digest of the file.

    Raises:
        UserError: the file cannot be read or is damaged; the message names the place.
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
                values.append((where, parse_json(line)))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error}); fetch it again") from None
    return values, hashlib.sha256(data).hexdigest()


def read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Read the problems of a JSONL file.

    Returns:
        the problems, and the SHA-256 digest of the file.

    Raises:
        UserError: see `read_values`; or a line is not an object with a "task_id".
    """
    values, digest = read_values(path)
    for where, row in values:
        if not isinstance(row, dict) or not isinstance(row.get("task_id"), (str, int)):
            raise UserError(f"{where}: not a problem with a 'task_id'")
    return [row for _, row in values], digest


def read_plus(source: DataSource, path: Path) -> tuple[list[PlusProblem], str]:
    """Read the problems of a benchmark.

    Returns:
        the problems, and the SHA-256 digest of the file.

    Raises:
        UserError: see `read_rows`; or the file is not this benchmark's, or not complete.
    """
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


# Conversion of each argument, and the MBPP problems it applies to; the last one is used for all further arguments.
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
    """Convert the arguments of one call, read from JSON, to the types that the problem's function takes."""
    shape = _BY_PROBLEM.get(task_id)
    if shape is None:
        return list(arguments)
    return [shape[min(place, len(shape) - 1)](value) for place, value in enumerate(arguments)]
