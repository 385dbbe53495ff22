"""The problems of a build, read once: a large build that goes on must not read and parse all of them again.

Beside the ledger lies what was read, under the digest of the source and of what decides how it is read. It is a cache:
without it, or where anything has changed, the source is read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflectioncoder.config.toml import versions
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.problems.problem import Problem

CACHE = "problems.cache.jsonl"
WORTH_IT = 2000  # problems; fewer are read in no time


@dataclass(frozen=True)
class Loaded:
    """Problems, and what there is to say about them.

    Args:
        problems: in the order of their source.
        skipped: rows that could not be read, and why.
        renamed: problems that got another id.
    """

    problems: list[Problem]
    skipped: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)


def load_once(source: str, reading: Iterable[Any], folder: Path, read: Callable[[], Loaded]) -> Loaded:
    """What `read` gives, or gave at an earlier call that is cached in `folder`.

    Args:
        source: a file, or the name of a source that always gives the same ("procedural"); a directory or a data set of
            the hub is always read, as nobody knows whether it has changed.
        reading: JSON values of all else that decides what is read.
        folder: of the build; need not exist.
        read: reads the source.

    Raises:
        UserError: see `read`; a cache that cannot be read or written is none.
    """
    digest = hashlib.sha256(json.dumps([source, list(reading), versions()["reflectioncoder"]]).encode())
    if Path(source).is_file():
        with Path(source).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    elif source != "procedural":
        return read()
    cached = _cached(folder / CACHE, digest.hexdigest())
    if cached is not None:
        return cached
    loaded = read()
    if len(loaded.problems) >= WORTH_IT:
        head = {"digest": digest.hexdigest(), "skipped": loaded.skipped, "renamed": loaded.renamed}
        lines = (json.dumps(tuple(vars(problem).values()), ensure_ascii=False) for problem in loaded.problems)
        with suppress(UserError):
            write_lines(folder / CACHE, (line for part in ([json.dumps(head)], lines) for line in part))
    return loaded


def _cached(path: Path, digest: str) -> Loaded | None:
    try:
        with path.open(encoding="utf-8") as lines:
            head = json.loads(next(lines))
            if head["digest"] != digest:
                return None
            problems = []
            for line in lines:
                id, instruction, solution, tests, *rest = json.loads(line)
                problems.append(Problem(id, instruction, solution, tuple(tests), *rest))
            return Loaded(problems, head["skipped"], head["renamed"])
    except (OSError, ValueError, TypeError, KeyError, StopIteration):
        return None
