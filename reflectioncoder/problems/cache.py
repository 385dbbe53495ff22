"""Caches the problems of a build on disk, so that a resumed large build does not read and parse its source again.

The cache file lies beside the ledger. Its key is a hash of the source and of all settings that affect how the source
is read. If the file is missing or anything has changed, the source is read again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflectioncoder.config.toml import versions
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.problems.generators import GENERATORS
from reflectioncoder.problems.problem import GivenMistake, Problem

CACHE = "problems.cache.jsonl"
READING = 3  # increase when the same row is read as another problem
WORTH_IT = 2000  # number of problems from which caching saves time


@dataclass(frozen=True)
class Loaded:
    """The problems of a source, and notes about rows that were skipped or renamed.

    Args:
        problems: the problems, in the order of the source.
        skipped: one line per row that could not be read, with the reason.
        renamed: one line per problem that got a new id, because its own was already taken.
    """

    problems: list[Problem]
    skipped: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)


def load_once(
    source: str, reading: Iterable[Any], folder: Path, read: Callable[[], Loaded], keep: bool = True
) -> Loaded:
    """Return the problems of a source, from the cache in `folder` if it is up to date.

    Args:
        source: a file, or a generator of problems, which are always the same. A directory or a data set of the
            hub is never cached, because changes to it cannot be detected.
        reading: JSON values of all other settings that determine what is read.
        folder: folder of the build; need not exist.
        read: reads the source.
        keep: whether to write the cache.

    Raises:
        UserError: raised by `read`. A cache that cannot be read or written is ignored.
    """
    digest = hashlib.sha256(json.dumps([READING, source, list(reading), versions()["reflectioncoder"]]).encode())
    if Path(source).is_file():
        with Path(source).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    elif source not in GENERATORS:
        return read()
    cached = _cached(folder / CACHE, digest.hexdigest())
    if cached is not None:
        return cached
    loaded = read()
    if keep and len(loaded.problems) >= WORTH_IT:
        head = {"digest": digest.hexdigest(), "skipped": loaded.skipped, "renamed": loaded.renamed}
        lines = (json.dumps(tuple(vars(problem).values()), ensure_ascii=False) for problem in loaded.problems)
        with suppress(UserError):
            write_lines(folder / CACHE, (line for part in ([json.dumps(head)], lines) for line in part))
    return loaded


def _cached(path: Path, digest: str) -> Loaded | None:
    try:
        with path.open(encoding="utf-8") as lines:
            head = parse_json(next(lines))
            if head["digest"] != digest:
                return None
            problems = []
            for line in lines:
                id, instruction, solution, tests, *rest, mistakes = parse_json(line)
                problem = Problem(id, instruction, solution, tuple(tests), *rest)
                own = tuple(GivenMistake(*mistake) for mistake in mistakes)
                problems.append(dataclasses.replace(problem, mistakes=own))
            return Loaded(problems, head["skipped"], head["renamed"])
    except (OSError, ValueError, TypeError, KeyError, StopIteration):
        return None
