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
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import unzipped
from reflectioncoder.files.jsonl import iter_jsonl
from reflectioncoder.syntax.answers import PYTHON, without_thoughts
from reflectioncoder.tasks.base import FENCE_STOP


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
        """Whether the token limit cut off the code. If it only cut off text after the code, this is False."""
        return self.finish == "length" and self.raw.replace("\r\n", "\n").rstrip().endswith(self.completion.rstrip())


def clean_completion(raw: str, stops: Sequence[str] = FENCE_STOP) -> str:
    """Extract the code of an answer whose opening fence was in the prompt.

    An opening fence on the first line (repeated by the model) is dropped. The code ends at the first stop text, usually
    the closing fence at the start of a line. The first line keeps its indentation, because the answer may be the body
    of a function.

    Args:
        raw: the answer.
        stops: texts that end the code.
    """
    text = raw.replace("\r\n", "\n")
    first, newline, rest = text.lstrip("\n").partition("\n")
    if newline and re.fullmatch(r"```[\w+#-]+\s*", first):
        text = rest
    text = "\n" + text  # a stop that begins with a newline may come first
    end = min((place for place in (text.find(stop) for stop in stops) if place >= 0), default=len(text))
    code = text[:end].strip("\n").rstrip()
    return code + "\n" if code else ""


_ITEM = r"[^\S\n]*(?:\d+[.)]|[-*+])[^\S\n]+"  # the beginning of a list item
_FENCE = re.compile(rf"^(?P<indent>{_ITEM}|[^\S\n]*)```(?P<name>[\w+#.-]*)[^\S\n]*$\n?", re.MULTILINE)


def clean_answer(raw: str, language: str = "python") -> str:
    """Extract the code of a chat answer that contains its opening fence, perhaps after some prose.

    The code is the first block of the language. Without one, it is the block at the start of the answer, else the first
    block with any language, else the first block. An answer without an opening fence is all code. Indented fences count
    only in list items (elsewhere they are part of the code), and their code is dedented by the same width. The thinking
    part of a reasoning model's answer is removed.

    Args:
        raw: the answer.
        language: the language's name in the task's fences, in lower case.
    """
    text = without_thoughts(raw.replace("\r\n", "\n"))
    names = PYTHON if language in PYTHON else (language,)
    item = re.search(rf"^{_ITEM}\S", text, re.MULTILINE)
    fences = [f for f in _FENCE.finditer(text) if not f["indent"] or (item and item.start() <= f.start())]
    wanted = [fence for fence in fences if fence["name"].lower() in names]
    if not wanted and fences:
        closes = len(fences) == 1 and not fences[0]["name"] and not text[fences[0].end() :].strip()
        named = [fence for fence in fences if fence["name"]]
        if not text[: fences[0].start()].strip():
            wanted = fences
        elif not closes:
            wanted = named or fences
    if not wanted:
        return clean_completion(text)
    code = text[wanted[0].end() :]
    if width := len(wanted[0]["indent"]):
        code = re.sub(rf"^[^\S\n]{{1,{width}}}", "", code, flags=re.MULTILINE)
    return clean_completion(code)


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
            yield f"file {file}", json.loads(unzipped(file.read_bytes()).decode("utf-8"))
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
