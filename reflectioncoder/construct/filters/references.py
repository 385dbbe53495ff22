"""Reads the problems of evaluation sets, which must not be in a build: `--decontaminate`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.fields import FieldMap, column
from reflectioncoder.files.folders import EVERY_SPLIT, files_of
from reflectioncoder.files.json_text import LIMITS, ReadLimits
from reflectioncoder.files.rows import iter_file
from reflectioncoder.files.shapes import shaped

ANY_WORD = re.compile(r"\w+")
MBPP_TEST = range(11, 511)  # the others are for training, validation and few-shot prompts
LEAST_WORDS = 8  # if a prompt has fewer words before its examples, the examples count too


@dataclass(frozen=True)
class Reference:
    """A problem of an evaluation set, which must not be in the output.

    Args:
        id: id such as "HumanEval/0", or the location in its file.
        benchmark: name such as "HumanEval".
        prompt: the request.
        solution: the reference solution, if the benchmark has one.
        entry_point: name of the requested function, if known.
        family: common id of the versions of one problem (other languages, perturbations).
    """

    id: str
    benchmark: str
    prompt: str
    solution: str = ""
    entry_point: str = ""
    family: str = ""


def load_references(
    sources: Sequence[str], fields: str = "", split: str = EVERY_SPLIT, own: str = "", limits: ReadLimits = LIMITS
) -> Iterator[Reference]:
    """Read the references from benchmark files, folders or data sets.

    HumanEval(+), MBPP (its test split), MBPP+, MultiPL-E and DS-1000 are read in their published formats, and rows of
    the shapes in docs/data.md as requests and answers. In any other row every text except tests and ids is a prompt.

    Args:
        sources: files, folders of data files, or data sets.
        fields: columns of the request, the solution, the id and the entry point, if the formats are not known.
        split: split of folders and data sets.
        own: source of the problems that are built from. It is no benchmark, so it is left out of a folder.
        limits: the most that one file may hold.

    Raises:
        UserError: a source is missing or has no data file, a row cannot be read, or a source is `own`.
    """
    columns = FieldMap.parse(fields) if fields else None
    for source in sources:
        advice = ""
        try:
            for file in reference_files(source, split, own):
                advice = "; name its benchmark files instead of the folder" if Path(source).is_dir() else ""
                for where, row in iter_file(file, limits):
                    name = file.name.split(".")[0]
                    if columns is None:
                        yield from read_reference(row, where, name)
                    else:
                        yield _of_columns(row, where, name, columns)
        except UserError as error:
            raise UserError(f"decontaminate: {error}{advice}") from None


def reference_files(source: str, split: str, own: str) -> list[Path]:
    """Return the files of a source of references, without those of the problems that are built from."""
    files = files_of(source, split)
    path = Path(own)
    if not own or not path.exists():
        return files
    mine = {file.resolve() for file in (files_of(own, EVERY_SPLIT) if path.is_dir() else [path])}
    left = [file for file in files if file.resolve() not in mine]
    if not left:
        raise UserError(f"{source} is the source of the problems itself; name the benchmarks")
    return left


def counted(references: Sequence[Reference]) -> str:
    """Say how many references there are of each benchmark: "164 of HumanEval, 500 of MBPP"."""
    counts = Counter(reference.benchmark for reference in references)
    return ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"


def _of_columns(row: Any, where: str, name: str, columns: FieldMap) -> Reference:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with columns, found {type(row).__name__}")
    found = {part: column(row, getattr(columns, part)) for part in ("instruction", "solution", "id", "entry_point")}
    if not isinstance(found["instruction"], str):
        raise UserError(f"{where}: column '{columns.instruction}' has no text; there are {', '.join(map(str, row))}")
    texts = {part: value if isinstance(value, str) else "" for part, value in found.items()}
    id = where if found["id"] is None else str(found["id"])
    return Reference(id, name, texts["instruction"], texts["solution"], texts["entry_point"])


def read_reference(row: Any, where: str, name: str) -> Iterator[Reference]:
    """Read the references in one row of a benchmark file, in the benchmark's own format.

    Args:
        row: the decoded row.
        where: its location, which is the id of a reference that has none.
        name: name of the file, which is the benchmark's name if the format is unknown.
    """
    if not isinstance(row, Mapping):
        yield from (Reference(where, name, text) for text in _texts(row))
        return
    columns = set(row)
    if {"prompt", "canonical_solution", "entry_point", "task_id"} <= columns:  # HumanEval(+), MBPP+
        id = str(row["task_id"])
        prompt = re.split(r"\n\s*assert ", str(row["prompt"]))[0] if id.startswith("Mbpp") else str(row["prompt"])
        benchmark = {"Mbpp": "MBPP+"}.get(id.split("/")[0], id.split("/")[0])
        yield Reference(id, benchmark, _request(prompt), str(row["canonical_solution"]), str(row["entry_point"]), id)
    elif {"task_id", "code", "test_list"} <= columns and columns & {"text", "prompt"}:  # MBPP
        number = str(row["task_id"])
        if not number.isdecimal() or int(number) in MBPP_TEST:
            tests = " ".join(map(str, row["test_list"] or ()))
            named = re.findall(r"\bdef\s+(\w+)", str(row["code"]))
            entry = next((item for item in named if re.search(rf"\b{item}\b", tests)), "")
            prompt = str(row.get("text") or row.get("prompt"))
            yield Reference(f"MBPP/{number}", "MBPP", prompt, str(row["code"]), entry)
    elif {"name", "language", "prompt", "tests"} <= columns:  # MultiPL-E
        origin, number, entry = [*str(row["name"]).split("_", 2), "", ""][:3]
        id, family = f"MultiPL-E/{row['language']}/{row['name']}", f"{origin}/{number}"
        yield Reference(id, "MultiPL-E", _request(str(row["prompt"])), "", entry, family)
    elif {"prompt", "reference_code", "metadata"} <= columns:  # DS-1000
        meta = row["metadata"] if isinstance(row["metadata"], Mapping) else {}
        library = meta.get("library", "")
        prompt = re.split(r"\nA:\s*\n", str(row["prompt"]))[0]
        yield Reference(
            f"DS-1000/{meta.get('problem_id', where)}", "DS-1000", prompt, str(row["reference_code"]),
            family=f"{library}/{meta.get('perturbation_origin_id', where)}",
        )  # fmt: skip
    else:
        yield from _of_shape(row, where, name)


def _of_shape(row: Mapping[str, Any], where: str, name: str) -> Iterator[Reference]:
    """Read the requests and the last answer of a row of a known shape; of another row, every text is a prompt."""
    with suppress(UserError):  # what a training sample cannot express does not matter here
        if (found := shaped(row, FieldMap())) is not None and found.turns:
            asked = [turn.text for turn in found.turns if turn.role == "user"]
            answer = found.turns[-1].text if found.turns[-1].role == "assistant" else ""
            for number, text in enumerate(asked, 1):
                yield Reference(where, name, text, answer if number == len(asked) else "")
            return
    yield from (Reference(where, name, text) for text in _texts(row))


def _request(prompt: str) -> str:
    """Return a prompt up to its first doctest, or all of it if there are few words before the doctest."""
    before = prompt.split(">>>")[0]
    return before if len(ANY_WORD.findall(before)) >= LEAST_WORDS else prompt


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if "test" not in str(key).lower() and not str(key).lower().endswith("id"):
                yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
