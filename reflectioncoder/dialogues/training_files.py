"""Training data as others publish it: chat and instruction sets, read as dialogues and brought to one form.

Read are the released schema (messages of typed blocks), messages with plain text, with or without a system message,
and pairs such as `{"query": ..., "answer": ...}`; from JSONL, JSON (both also `.gz`), Parquet, or a directory that
`datasets` saved. Normalised are line ends, indentation by tabs, and HTML entities where a scraper escaped a whole
sample. Whether an answer is right is not looked at.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflectioncoder.dialogues.dialogue import Block, Dialogue, instruction_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import iter_jsonl
from reflectioncoder.files.rows import SUFFIXES, iter_rows
from reflectioncoder.syntax.trees import parse

PAIRS = (
    ("query", "answer"), ("instruction", "output"), ("instruction", "response"), ("question", "answer"),
    ("prompt", "completion"), ("prompt", "response"),
)  # fmt: skip
INDENT = re.compile(r"^[ ]*\t[ \t]*", re.MULTILINE)
ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d+|#x[0-9a-fA-F]+);")
FENCED = re.compile(
    r"(?P<open>^```(?:python|py|python3)?[ \t]*\n)(?P<code>.*?)(?P<close>^```)", re.DOTALL | re.MULTILINE
)


def read_training(path: str | os.PathLike[str], skipped: list[str] | None = None) -> list[Dialogue]:
    """The dialogues of a training file or data set directory, normalised.

    Args:
        path: by its name one of `problems.SUFFIXES` or a directory; anything else is read as JSONL.
        skipped: where given, rows that cannot be read are left out and their messages appended here; otherwise the
            first one raises.

    Raises:
        UserError: a bad row (see `skipped`), a source that cannot be read, or one without any dialogue.
    """
    path = Path(path)
    known = path.is_dir() or (path.is_file() and path.name.endswith(SUFFIXES))
    dialogues = []
    for where, row in iter_rows(str(path)) if known else iter_jsonl(path):
        try:
            dialogues.append(normalised(to_dialogue(row, where)))
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    if not dialogues:
        raise UserError(f"file {path}: no dialogue in it; expected 'messages', or 'query' and 'answer', in each row")
    return dialogues


def to_dialogue(row: Any, where: str) -> Dialogue:
    """A row as a dialogue.

    Args:
        row: the decoded row.
        where: what to call its place in messages.

    Raises:
        UserError: neither messages nor a pair that is known, or one of the two without text.
    """
    if isinstance(row, Mapping) and "messages" not in row:
        for asked, answered in PAIRS:
            if asked in row and answered in row:
                texts = {name: row[name] for name in (asked, answered)}
                for name, text in texts.items():
                    if not isinstance(text, str) or not text.strip():
                        raise UserError(f"{where}: column '{name}' has no text")
                request = row[asked]
                if isinstance(row.get("input"), str) and row["input"].strip():  # as in Alpaca's sets
                    request = f"{request}\n\n{row['input']}"
                extra = {key: value for key, value in row.items() if key not in (*texts, "input") and value is not None}
                return instruction_dialogue(request, row[answered], **{k: v for k, v in extra.items() if k != "type"})
        raise UserError(f"{where}: neither 'messages' nor a pair like 'query' and 'answer'; there are {', '.join(row)}")
    if not isinstance(row, Mapping):
        return Dialogue.from_dict(row, where)
    line = {key: value for key, value in row.items() if value is not None}  # Parquet has a null for what is not there
    return Dialogue.from_dict({**line, "messages": _without_system(line.get("messages"))}, where)


def _without_system(messages: Any) -> Any:
    """Messages whose system message, which our format does not know, stands before the user's first words."""
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(item, Mapping) for item in messages):
        return messages
    first, second, *rest = messages
    if first.get("role") != "system" or second.get("role") != "user":
        return messages
    texts = [item.get("content") for item in (first, second)]
    if not all(isinstance(text, str) for text in texts):
        return messages
    return [{"role": "user", "content": "\n\n".join(text for text in texts if text.strip())}, *rest]


def normalised(dialogue: Dialogue) -> Dialogue:
    """The dialogue with `\\n` as line ends, code indented by spaces, and without the entities of an escaped sample.

    A sample counts as escaped where a piece of its code is no Python as it stands and is Python once its entities are
    replaced; then they are replaced in all of it but in code that is Python as it stands. So a sample about entities
    stays as it is.
    """
    blocks = [block for message in dialogue.messages for block in message.blocks]
    unescape = any(_escaped(code) for block in blocks for code in _codes(block))
    messages = tuple(
        dataclasses.replace(message, blocks=tuple(_normalised(block, unescape) for block in message.blocks))
        for message in dialogue.messages
    )
    return dialogue if messages == dialogue.messages else dataclasses.replace(dialogue, messages=messages)


def _normalised(block: Block, unescape: bool) -> Block:
    text = unix_lines(block.content)
    if block.type == "code":
        return Block("code", plain_code(text, unescape))
    if block.type == "execution":
        return Block("execution", html.unescape(text) if unescape and ENTITY.search(text) else text)
    pieces, end = [], 0
    for found in FENCED.finditer(text):
        before = text[end : found.start()]
        pieces += [html.unescape(before) if unescape else before, found["open"], plain_code(found["code"], unescape)]
        pieces.append(found["close"])
        end = found.end()
    rest = text[end:]
    return Block("text", "".join([*pieces, html.unescape(rest) if unescape else rest]))


def _codes(block: Block) -> list[str]:
    text = unix_lines(block.content)
    if block.type == "code":
        return [text]
    return [found["code"] for found in FENCED.finditer(text)] if block.type == "text" else []


def unix_lines(text: str) -> str:
    """`\\r\\n` and `\\r` as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def plain_code(code: str, unescape: bool = False) -> str:
    """Code indented by four spaces for a tab, and without entities where it is Python only then.

    Tabs within a line stay, as do all where the code would mean something else without them: tabs in a text over
    several lines, or a mix of tabs and eight spaces.
    """
    if unescape and _escaped(code):
        code = html.unescape(code)
    if "\t" not in code:
        return code
    spaced = INDENT.sub(lambda found: found.group().replace("\t", "    "), code)
    before, after = _meaning(code), _meaning(spaced)
    return spaced if before == after or before is None else code


def _escaped(code: str) -> bool:
    return bool(ENTITY.search(code)) and _meaning(code) is None and _meaning(html.unescape(code)) is not None


def _meaning(code: str) -> str | None:
    """The syntax tree as text, None for what is no Python."""
    try:
        return ast.dump(parse(code))
    except SyntaxError:
        return None
