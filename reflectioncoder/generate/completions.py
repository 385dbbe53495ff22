"""Completions: cleaning the model's answers, and their format on disk. Needs no model and no torch."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import unzipped
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import iter_jsonl
from reflectioncoder.syntax.answers.program import Asked, read_program
from reflectioncoder.syntax.answers.python_text import is_program, whole_statements, without_dangling
from reflectioncoder.syntax.answers.thoughts import thought_was_cut, without_thoughts
from reflectioncoder.tasks.base import Prompt

# what an output is: the continuation of a prompt, the rest of a block that the prompt opens, or a chat answer
AnswerForm = Literal["continuation", "block", "chat"]
MOST_STOPS = 50  # stop texts in one continuation that are tried


@dataclass(frozen=True)
class Completion:
    """A completion of one prompt.

    Args:
        task_id: id of the problem.
        sample: index among the problem's samples.
        completion: cleaned code.
        raw: the model's output, up to and including the stop text.
        prompt: hash of the prompt; empty for files from other programs.
        whole: whether the code is a whole program, not a continuation of the prompt.
        error: why there is no answer, as reported by the server; such a completion is empty.
        finish: why the answer ended: "end" (end token), "stop" (a stop text of the task), "length" (token limit), or
            the server's own finish reason; empty if unknown.
    """

    task_id: str
    sample: int
    completion: str
    raw: str
    prompt: str = ""
    whole: bool = False
    error: str = ""
    finish: str = ""

    @property
    def truncated(self) -> bool:
        """Whether the answer ends inside a thought, or the token limit cut off its code, not only text after it."""
        if self.finish == "length":
            return self.raw.replace("\r\n", "\n").rstrip().endswith(self.completion.rstrip())
        return not self.completion and thought_was_cut(self.raw)


def code_of(raw: str, prompt: Prompt, form: AnswerForm, marks: Sequence[str] = ()) -> str:
    """Read the code in a model's output.

    Args:
        raw: the output.
        prompt: the prompt that it answers.
        form: what the output is, see `AnswerForm`.
        marks: further marks of thoughts; see `without_thoughts`.

    Returns:
        the code, which ends in a newline; empty if there is none. Where the prompt asks for text, the answer itself,
        without thoughts.
    """
    if prompt.answer == "text":
        return without_thoughts(raw, marks).text.strip()
    opening = prompt.opening.partition("\n")[0].strip("`")
    if form == "continuation" and not prompt.continuation.endswith(f"```{opening}\n"):
        return continued(raw, prompt.continuation, prompt.stops, opening == "python")
    asked = Asked(opening, prompt.function, prompt.continuation, form != "chat", tuple(marks))
    return read_program(raw, asked).code


def continued(raw: str, head: str, stops: Sequence[str], python: bool = True) -> str:
    """Cut the continuation of a prompt at the first stop text that does not stand inside a statement.

    Heads of statements before it that have nothing below them (decorators, a bare `if`) go with it. Without such a
    stop, the longest part is taken that is valid behind the prompt. If there is none, the first stop
    ends the code, valid or not. The first line keeps its indentation, because it may be the body of a function.

    Args:
        raw: the continuation.
        head: the prompt.
        stops: texts that end the code.
        python: whether the code is Python; in other languages the first stop ends it.
    """
    text = raw.replace("\r\n", "\n")
    first, newline, rest = text.lstrip("\n").partition("\n")
    if newline and re.fullmatch(r"```[\w+#-]+\s*", first):
        text = rest
    text = "\n" + text  # a stop that begins with a newline may come first
    ends = sorted({found.start() for stop in stops for found in re.finditer(re.escape(stop), text)})[:MOST_STOPS]
    code = text[: ends[0]] if ends else text
    if python and not is_program(head + code[1:]):
        parts = (without_dangling(code), *(text[:end] for end in ends[1:]))
        whole = next((part for part in parts if is_program(head + part[1:])), None)
        kept = whole_statements(text[1:], head) if whole is None else None
        code = whole or (code if kept is None else f"\n{kept}")
    code = code.strip("\n").rstrip()
    return code + "\n" if code else ""


def iter_completion_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Read the rows of a JSONL file, or of a folder with one JSON file per problem, as MultiPL-E writes its results.

    Yields:
        the location of each row, for messages, and its value. In a folder the rows are the .json and .json.gz files,
        sorted by name.

    Raises:
        UserError: there is no such file or folder, or its contents are not JSON in UTF-8.
    """
    folder = Path(path)
    if not folder.is_dir():
        yield from iter_jsonl(path)
        return
    # MultiPL-E writes its own verdicts to the same folder as NAME.results.json.
    files = [file for file in sorted(folder.glob("*.json*")) if re.search(r"(?<!\.results)\.json(\.gz)?$", file.name)]
    if not files:
        raise UserError(f"folder {folder}: holds no .json or .json.gz files of completions")
    for file in files:
        try:
            yield f"file {file}", parse_json(unzipped(file.read_bytes()).decode("utf-8"))
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise UserError(f"file {file}: not JSON of a problem's completions ({error})") from None


def completion_line(completion: Completion) -> str:
    """Format a completion as a line of a JSONL file."""
    row = dataclasses.asdict(completion)
    for name in ("error", "finish"):
        if not row[name]:
            del row[name]
    if row.pop("whole"):
        row["solution"] = row.pop("completion")
    return json.dumps(row, ensure_ascii=False)


def read_completion(row: Any, where: str) -> Completion:
    """Parse a row of a completion file, in our format or that of evalplus.

    The row has "completion", or "solution" (a whole program), which takes precedence.

    Args:
        row: the parsed row.
        where: its location, for messages.

    Raises:
        UserError: the row has neither, or a field has the wrong type.
    """
    if not isinstance(row, dict) or not isinstance(row.get("task_id"), (str, int)):
        raise UserError(f"{where}: expected an object with 'task_id' and 'completion' or 'solution'")
    whole = "solution" in row
    code = row.get("solution", row.get("completion"))
    sample = row.get("sample", 0)
    if code is None:
        raise UserError(f"{where}: has neither 'completion' nor 'solution'")
    if not isinstance(code, str) or not isinstance(sample, int) or sample < 0:
        raise UserError(f"{where}: 'completion' (or 'solution') must be text, and 'sample' a number of at least 0")
    prompt, error, finish = (str(row.get(name, "")) for name in ("prompt", "error", "finish"))
    return Completion(str(row["task_id"]), sample, code, str(row.get("raw", code)), prompt, whole, error, finish)
