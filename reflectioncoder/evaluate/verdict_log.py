"""Log of the verdicts of an unfinished evaluation, so that a killed evaluation resumes.

The first line describes the evaluation: task, tests, completions and limits. Every other line is a verdict with the
hash of its program. The file is removed once the score is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.tasks.base import Verdict

VERDICT_LOG = "unfinished.jsonl"

ProgramKey = tuple[str, str, bool]  # a program that is run once: problem, code, and whether the code is whole


def under_way(folder: Path) -> Mapping[str, Any] | None:
    """Read the description of the unfinished evaluation in a folder; None if there is none, {} if it is unreadable."""
    try:
        with (folder / VERDICT_LOG).open(encoding="utf-8") as lines:
            facts = parse_json(lines.readline())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


class VerdictLog:
    """The verdicts of an evaluation so far, in memory and on disk; may be used by several threads.

    Args:
        folder: folder of the evaluation; `under_way` must have found it free or with the same description.
        facts: what determines a verdict besides the program: task, tests and limits.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._path, self._lock = folder / VERDICT_LOG, threading.Lock()
        self._found: dict[str, tuple[Verdict, bool]] = {}
        lines = [json.dumps(facts, sort_keys=True)]
        if under_way(folder) is not None:
            for line in self._path.read_text(encoding="utf-8").split("\n")[1:]:
                try:
                    row = parse_json(line)
                    key, alone = row.pop("of"), row.pop("alone", False)
                    if not isinstance(key, str) or not isinstance(row["passed"], bool):
                        continue
                    verdict = Verdict(**{**row, "groups": tuple(map(tuple, row["groups"]))})
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue  # the incomplete last line of a killed run
                self._found[key] = verdict, alone is True
                lines.append(line)
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(self._path, lines)
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from None

    def get(self, key: ProgramKey, alone: bool = False) -> Verdict | None:
        """The logged verdict on a program, or None. With `alone`, only verdicts found while nothing else ran count."""
        verdict, was_alone = self._found.get(_name(key), (None, False))
        return verdict if was_alone or not alone else None

    def keep(self, key: ProgramKey, verdict: Verdict, alone: bool = False) -> None:
        """Log a verdict, unless it depends more on this machine than on the program.

        Args:
            key: the program.
            verdict: the verdict on the program.
            alone: whether nothing else ran, so that a time-out is final.

        Raises:
            UserError: it cannot be written.
        """
        if verdict.outcome in ("not_run", "infrastructure"):
            return
        with self._lock:
            try:
                self._file.write(json.dumps({"of": _name(key), "alone": alone, **dataclasses.asdict(verdict)}) + "\n")
                self._file.flush()
            except OSError as error:
                raise UserError(f"cannot write {self._path}: {error.strerror}; run again to continue") from None

    def close(self) -> None:
        """Close the file. `evaluate` removes it once the score is written."""
        self._file.close()


def _name(key: ProgramKey) -> str:
    return hashlib.sha256(f"{key[0]}\0{key[2]}\0{key[1]}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
