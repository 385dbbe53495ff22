"""Readers for published chat and instruction data sets, which return normalised dialogues.

`files/shapes.py` has the shapes of rows, `files/rows.py` the sources. Normalisation covers line ends, tab indentation,
and HTML entities if a scraper escaped a whole sample. This module does not check whether answers are correct.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reflectioncoder.dialogues.dialogue import (
    INSTRUCTION_TYPE,
    PLAIN_TYPES,
    REFLECTION_TYPE,
    ROLES,
    Block,
    Dialogue,
    Message,
)
from reflectioncoder.errors import UserError
from reflectioncoder.files.fields import FieldMap, column
from reflectioncoder.files.json_text import LIMITS, ReadLimits, leave_out
from reflectioncoder.files.rows import iter_rows
from reflectioncoder.files.shapes import LISTS, RowTurn, check_text, shaped
from reflectioncoder.syntax.answers.fences import Fenced, fenced_blocks, split_fenced
from reflectioncoder.syntax.trees import parse

DEFAULT = FieldMap()
INDENT = re.compile(r"^[ ]*\t[ \t]*", re.MULTILINE)
ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d+|#x[0-9a-fA-F]+);")


def read_training(
    path: str | os.PathLike[str],
    skipped: list[str] | None = None,
    fields: FieldMap | str = "",
    split: str = "train",
    limits: ReadLimits = LIMITS,
) -> list[Dialogue]:
    """Read and normalise the dialogues of a training file, a folder or a data set.

    Args:
        path: see `files_of`.
        skipped: if given, invalid rows are skipped and their error messages appended to it; otherwise the first one
            raises.
        fields: which columns to read: a `FieldMap`, a preset or pairs like "instruction=question,answer=reply".
        split: split of a folder or a data set.
        limits: the most that one file may hold.

    Raises:
        UserError: a row is invalid (see `skipped`), the source cannot be read, or it has no dialogues.
    """
    columns = FieldMap.parse(fields) if isinstance(fields, str) else fields
    dialogues = []
    for where, row in iter_rows(str(path), split, limits, skipped):
        try:
            dialogues.append(normalised(to_dialogue(row, where, columns)))
        except (UserError, RecursionError) as error:
            reason = str(error) if isinstance(error, UserError) else f"{where}: nested too deeply"
            leave_out(reason, skipped)
    if not dialogues:
        reason = f"; the first of {len(skipped)} bad rows: {skipped[0]}" if skipped else ""
        raise UserError(f"{path}: no dialogue in it{reason}")
    return dialogues


def to_dialogue(row: Any, where: str, fields: FieldMap = DEFAULT) -> Dialogue:
    """Convert a row to a dialogue.

    Args:
        row: the decoded row.
        where: location of the row for error messages.
        fields: which columns to read.

    Raises:
        UserError: the row has none of the shapes in docs/data.md, or holds what a dialogue cannot express.
    """
    if not isinstance(row, Mapping):
        return Dialogue.from_dict(row, where)
    try:
        found = shaped(row, fields)
        if found is None:
            names = ", ".join(f"{key}{' (null)' if value is None else ''}" for key, value in row.items())
            raise UserError(
                f"neither 'messages' nor a pair like 'query' and 'answer'; found {names}. Name columns with --fields"
            )
        for turn in found.turns:
            check_text(*([turn.text] if isinstance(turn.content, str) else _contents(turn.content)))
        if found.turns and not found.turns[-1].trained:
            raise UserError("the last message is not to be trained on (weight 0)")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    left = {key: value for key, value in row.items() if value is not None and key not in found.columns}
    kind = column(row, fields.type) if fields.type and found.columns & {*LISTS, fields.messages} else None
    left.pop("type", None)
    if plain := _plain(found.turns, kind, left):
        return plain
    messages = [
        {"role": turn.role, "content": turn.content, "weight": None if turn.trained or turn.role == "user" else 0}
        for turn in found.turns
    ]
    return typed(
        Dialogue.from_dict({**left, "messages": messages, **({} if kind is None else {"type": kind})}, where), where
    )


def _plain(turns: Sequence[RowTurn], kind: Any, left: dict[str, Any]) -> Dialogue | None:
    """Make the dialogue of turns that hold text only, in right order; None for all others."""
    if len(turns) % 2 or not turns or kind == REFLECTION_TYPE or not (kind is None or isinstance(kind, str)):
        return None
    messages = []
    for number, turn in enumerate(turns):
        role = ROLES[number % 2]
        if turn.role != role or not isinstance(turn.content, str):
            return None
        messages.append(Message(role, (Block("text", turn.content),), turn.trained or role == "user"))
    left.pop("messages", None)
    return Dialogue(tuple(messages), INSTRUCTION_TYPE if kind is None else kind, left)


def typed(dialogue: Dialogue, where: str) -> Dialogue:
    """Make a dialogue with a type that is not known here a reflection sequence if its blocks are those of one.

    The authors' code masks every type but "generation".

    Raises:
        UserError: it has blocks of code or execution, and yet it is no reflection sequence.
    """
    if dialogue.type in (REFLECTION_TYPE, *PLAIN_TYPES):
        return dialogue
    kinds = [{block.type for block in message.blocks} for message in dialogue.messages]
    if len(kinds) == 4 and "execution" in kinds[1]:
        return dataclasses.replace(dialogue, type=REFLECTION_TYPE)
    if any(found != {"text"} for found in kinds):
        raise UserError(
            f"{where}: type '{dialogue.type}' is not one of {REFLECTION_TYPE}, {', '.join(PLAIN_TYPES)}, and the "
            "blocks are not those of a reflection sequence; --fields type= reads it as plain data"
        )
    return dialogue


def _contents(blocks: list[Any]) -> list[str]:
    texts = [block.get("content") for block in blocks if isinstance(block, Mapping)]
    return [text for text in texts if isinstance(text, str)]


def normalised(dialogue: Dialogue) -> Dialogue:
    """Normalise line ends to `\\n`, tab indentation to spaces, and the HTML entities of an escaped sample.

    A sample counts as escaped if one of its pieces of code is not valid Python as it stands but is once its entities
    are replaced. Entities are then replaced everywhere, except in code that is already valid Python. A sample about
    entities therefore stays unchanged.
    """
    blocks = [block for message in dialogue.messages for block in message.blocks]
    if not any("\r" in block.content or "\t" in block.content or "&" in block.content for block in blocks):
        return dialogue  # most samples: nothing below can change them
    unescape = any(_escaped(code) for block in blocks if ENTITY.search(block.content) for code in _codes(block))
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
    if not unescape and "\t" not in text:
        return Block("text", text)
    pieces = []
    for piece, fenced in split_fenced(text):
        if fenced is not None and _is_python(fenced):
            pieces.append(plain_code(piece, unescape))
        else:
            pieces.append(html.unescape(piece) if unescape else piece)
    return Block("text", "".join(pieces))


def _is_python(block: Fenced) -> bool:
    return block.kind == "python" or not block.language


def _codes(block: Block) -> list[str]:
    text = unix_lines(block.content)
    if block.type == "code":
        return [text]
    if block.type != "text":
        return []
    return [found.code for found in fenced_blocks(text) if found.closed and _is_python(found)]


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
