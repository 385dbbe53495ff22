"""Readers for published chat and instruction data sets, which return normalised dialogues.

Supported rows: the released schema (messages of typed blocks), messages with plain text, with or without a system
message, and pairs such as `{"query": ..., "answer": ...}`. Supported sources: JSONL and JSON (both also `.gz`),
Parquet, and directories saved by `datasets`. Normalisation covers line ends, tab indentation, and HTML entities if a
scraper escaped a whole sample. This module does not check whether answers are correct.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import os
import re
from collections.abc import Mapping
from typing import Any

from reflectioncoder.dialogues.dialogue import Block, Dialogue, instruction_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.files.rows import iter_rows
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
    """Read and normalise the dialogues of a training file or a data set directory.

    Args:
        path: a directory, or a file with one of the suffixes in `rows.SUFFIXES`; any other file is read as JSONL.
        skipped: if given, invalid rows are skipped and their error messages appended to it; otherwise the first one
            raises.

    Raises:
        UserError: a row is invalid (see `skipped`), the source cannot be read, or it has no dialogues.
    """
    dialogues = []
    for where, row in iter_rows(str(path)):
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
    """Convert a row to a dialogue.

    Args:
        row: the decoded row.
        where: location of the row for error messages.

    Raises:
        UserError: the row has neither messages nor a known pair of columns, or one of the pair has no text.
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
        raise UserError(f"{where}: neither 'messages' nor a pair like 'query' and 'answer'; found {', '.join(row)}")
    if not isinstance(row, Mapping):
        return Dialogue.from_dict(row, where)
    line = {key: value for key, value in row.items() if value is not None}  # Parquet stores null for missing keys
    return Dialogue.from_dict({**line, "messages": _without_system(line.get("messages"))}, where)


def _without_system(messages: Any) -> Any:
    """Merge a system message into the first user message, because the format has no system role."""
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
    """Normalise line ends to `\\n`, tab indentation to spaces, and the HTML entities of an escaped sample.

    A sample counts as escaped if one of its pieces of code is not valid Python as it stands but is once its entities
    are replaced. Entities are then replaced everywhere, except in code that is already valid Python. A sample about
    entities therefore stays unchanged.
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
    """Replace `\\r\\n` and `\\r` by `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def plain_code(code: str, unescape: bool = False) -> str:
    """Replace each tab of the indentation by four spaces, unless that changes the syntax tree.

    Tabs elsewhere in a line stay. All tabs stay if replacing them would change the meaning of the code, as with tabs in
    a multi-line string or a mix of tabs and eight spaces. In code that is not valid Python, all of the indentation
    is replaced.

    Args:
        code: source code.
        unescape: also replace HTML entities, if the code is valid Python only without them.
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
    """The dump of the syntax tree; None if the code is not valid Python."""
    try:
        return ast.dump(parse(code))
    except SyntaxError:
        return None
