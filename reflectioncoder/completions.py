"""Completions: what a model answered, cleaned and as it was; their lines on disk. Needs no model and no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.tasks import FENCE_STOP


@dataclass(frozen=True)
class Completion:
    """An answer of the model.

    Args:
        task_id: of the problem.
        sample: index among the problem's samples.
        completion: cleaned code.
        raw: what the model wrote, up to and including the stop text.
        prompt: hash of the prompt; empty for files made elsewhere.
        whole: the code is a whole program, not to be put behind the prompt.
    """

    task_id: str
    sample: int
    completion: str
    raw: str
    prompt: str = ""
    whole: bool = False


def clean_completion(raw: str, stops: Sequence[str] = FENCE_STOP) -> str:
    """The code of an answer whose opening fence stood in the prompt.

    A fence at the very beginning (the model opened its answer again) is dropped; the code ends at the first stop
    text, usually the closing fence at the beginning of a line. Indentation of the first line is kept, because the
    answer may be the body of a function.
    """
    text = raw.replace("\r\n", "\n")
    first, newline, rest = text.lstrip("\n").partition("\n")
    if first.startswith("```") and first[3:].strip().isidentifier() and newline:
        text = rest
    text = "\n" + text  # a stop that begins with a newline may come first
    end = min((place for place in (text.find(stop) for stop in stops) if place >= 0), default=len(text))
    code = text[:end].strip("\n").rstrip()
    return code + "\n" if code else ""


def line_of(completion: Completion) -> str:
    """A completion as a line of a file."""
    row = dataclasses.asdict(completion)
    if row.pop("whole"):
        row["solution"] = row.pop("completion")
    return json.dumps(row, ensure_ascii=False)


def read_completion(row: Any, where: str) -> Completion:
    """A completion from a line: "completion", or evalplus's "solution", which is whole. Raises UserError."""
    if not isinstance(row, dict) or not isinstance(row.get("task_id"), (str, int)):
        raise UserError(f"{where}: expected an object with 'task_id' and 'completion' or 'solution'")
    whole = "completion" not in row
    code = row.get("completion", row.get("solution"))
    sample = row.get("sample", 0)
    if not isinstance(code, str) or not isinstance(sample, int):
        raise UserError(f"{where}: 'completion' (or 'solution') must be text, and 'sample' a number")
    return Completion(str(row["task_id"]), sample, code, str(row.get("raw", code)), str(row.get("prompt", "")), whole)
