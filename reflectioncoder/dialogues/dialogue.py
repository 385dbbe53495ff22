"""Dialogues of typed blocks, and the JSONL files that store them (appendix C).

The schema on disk is that of the released data sets:
`{"messages": [{"role": ..., "content": [{"type": ..., "content": ...}]}], "type": ...}`.
Unknown keys are preserved, so provenance survives a round trip. This module does not check that code runs or that a
sequence is worth training on; `construct/filters/sequence.py` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import leave_out
from reflectioncoder.files.jsonl import iter_jsonl, write_lines
from reflectioncoder.syntax.answers.fences import fenced_blocks

BlockType = Literal["text", "code", "execution"]
Role = Literal["user", "assistant"]
BLOCK_TYPES: tuple[BlockType, ...] = get_args(BlockType)
ROLES: tuple[Role, ...] = get_args(Role)
REFLECTION_TYPE = "reflection"
INSTRUCTION_TYPE = "instruction"
PLAIN_TYPES = (INSTRUCTION_TYPE, "generation")  # the second is the authors' name


@dataclass(frozen=True)
class Block:
    """One typed block of a message: analysis (`text`), `code`, or the output of running it (`execution`)."""

    type: BlockType
    content: str


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue.

    Args:
        role: who speaks.
        blocks: what is said, in order.
        trained: whether an assistant's message counts in the loss, as `weight` says in OpenAI's format.
    """

    role: Role
    blocks: tuple[Block, ...]
    trained: bool = True


@dataclass(frozen=True)
class Dialogue:
    """A training dialogue: a reflection sequence, or a plain instruction and its answer.

    A reflection dialogue has four messages: [reflection instruction, reflection sequence, instruction,
    final code] (section 3.2).

    Args:
        messages: user and assistant messages, alternating; the user's is first, the assistant's is last.
        type: "reflection", or another name for plain instruction data.
        extra: the other keys of the JSONL line, unchanged.

    Example:
        ask, answer = Message("user", (Block("text", "Add 1."),)), Message("assistant", (Block("text", "x + 1"),))
        Dialogue((ask, answer)).to_dict()
    """

    messages: tuple[Message, ...]
    type: str = INSTRUCTION_TYPE
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_reflection(self) -> bool:
        """Whether masked distillation applies: the dialogue has two rounds, the first with a reflection sequence."""
        return self.type == REFLECTION_TYPE

    @property
    def first_round(self) -> tuple[Block, ...]:
        """The n blocks of the first assistant message: the reflection sequence."""
        return self.messages[1].blocks

    @property
    def final_answer(self) -> str:
        """The text of the last assistant message."""
        return "".join(block.content for block in self.messages[-1].blocks)

    @property
    def rounds(self) -> int:
        """Number of execution blocks in the first assistant message."""
        return sum(block.type == "execution" for block in self.first_round)

    def to_dict(self) -> dict[str, Any]:
        """The dialogue as the JSON object of one JSONL line, in the released schema."""
        messages = [
            {
                "role": message.role,
                "content": [vars(block).copy() for block in message.blocks],
                **({} if message.trained else {"weight": 0}),
            }
            for message in self.messages
        ]
        return {**self.extra, "messages": messages, "type": self.type}

    @classmethod
    def from_dict(cls, line: Any, where: str = "dialogue") -> Dialogue:
        """Parse one line of the released schema.

        A line without a type is a reflection if it has four messages and the first answer has an execution block. A
        message whose content is a string gets one text block.

        Args:
            line: the decoded JSON value.
            where: location of the line for error messages, such as "file x.jsonl, line 3".

        Raises:
            UserError: the line does not follow the schema; the message names the place and what is expected.
        """
        if not isinstance(line, dict):
            raise UserError(f"{where}: expected an object with 'messages', found {type(line).__name__}")
        raw = line.get("messages")
        if not isinstance(raw, list) or not raw:
            raise UserError(f"{where}: 'messages' must be a list that is not empty")
        messages = tuple(_message(item, f"{where}, message {i + 1}") for i, item in enumerate(raw))
        for i, message in enumerate(messages):
            if message.role != ROLES[i % 2]:
                raise UserError(f"{where}: message {i + 1} has role '{message.role}', expected '{ROLES[i % 2]}'")
        if messages[-1].role != "assistant":
            raise UserError(f"{where}: the last message must be the assistant's")
        kind = line.get("type")
        if kind is None:
            has_execution = any(block.type == "execution" for block in messages[1].blocks)
            kind = REFLECTION_TYPE if len(messages) == 4 and has_execution else INSTRUCTION_TYPE
        if not isinstance(kind, str):
            raise UserError(f"{where}: 'type' must be text, found {type(kind).__name__}")
        if kind == REFLECTION_TYPE and len(messages) != 4:
            raise UserError(f"{where}: a reflection dialogue has 4 messages, found {len(messages)}")
        extra = {key: value for key, value in line.items() if key not in ("messages", "type")}
        return cls(messages, kind, extra)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected an object with 'role' and 'content', found {type(item).__name__}")
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise UserError(f"{where}: role '{role}' is not one of {', '.join(ROLES)}")
    if isinstance(content, str):  # as in chat data sets without blocks
        content = [{"type": "text", "content": content}]
    if not isinstance(content, list) or not content:
        raise UserError(f"{where}: 'content' must be a list of blocks that is not empty")
    blocks = []
    for i, block in enumerate(content):
        if not isinstance(block, dict):
            raise UserError(f"{where}, block {i + 1}: expected an object, found {type(block).__name__}")
        if block.get("type") not in BLOCK_TYPES:
            raise UserError(
                f"{where}, block {i + 1}: block type '{block.get('type')}' is not one of {', '.join(BLOCK_TYPES)}"
            )
        if not isinstance(block.get("content"), str):
            raise UserError(f"{where}, block {i + 1}: 'content' must be text")
        blocks.append(Block(block["type"], block["content"]))
    return Message(cast(Role, role), tuple(blocks), item.get("weight") != 0)


def fenced(code: str) -> str:
    """Put code in a ```python fence, as in the final answer."""
    return f"```python\n{code.strip(chr(10))}\n```"


def unfenced(text: str) -> str:
    """Extract the code of an answer: its first fenced block, or the whole text if there is no fence."""
    blocks = fenced_blocks(text)
    return blocks[0].code if blocks else text.strip("\n")


def reflection_dialogue(
    reflection_instruction: str, sequence: Sequence[Block], instruction: str, final_code: str, **extra: Any
) -> Dialogue:
    """Build the two-round dialogue [reflection instruction, sequence, instruction, final code] of section 3.2.

    Args:
        reflection_instruction: the first user message.
        sequence: blocks of the reflection sequence, the first assistant message.
        instruction: the second user message.
        final_code: code without a fence; the fence is added here, as in appendix C.
        extra: further keys of the JSONL line.
    """
    return Dialogue(
        (
            Message("user", (Block("text", reflection_instruction),)),
            Message("assistant", tuple(sequence)),
            Message("user", (Block("text", instruction),)),
            Message("assistant", (Block("text", fenced(final_code)),)),
        ),
        REFLECTION_TYPE,
        extra,
    )


def instruction_dialogue(instruction: str, answer: str, **extra: Any) -> Dialogue:
    """Build a one-round instruction dialogue. `answer` is the full text of the reply, `extra` holds further keys."""
    user, assistant = Message("user", (Block("text", instruction),)), Message("assistant", (Block("text", answer),))
    return Dialogue((user, assistant), INSTRUCTION_TYPE, extra)


def read_jsonl(path: str | os.PathLike[str], skipped: list[str] | None = None) -> list[Dialogue]:
    """Read the dialogues of a JSONL file.

    Args:
        path: the file, one dialogue per line.
        skipped: if given, lines that do not follow the schema are skipped and their error messages appended to it;
            otherwise the first such line raises.

    Raises:
        UserError: a line is invalid (see `skipped`), the file cannot be read, or it has no dialogues.
    """
    dialogues = []
    for where, value in iter_jsonl(path):
        try:
            dialogues.append(Dialogue.from_dict(value, where))
        except UserError as error:
            leave_out(str(error), skipped)
    if not dialogues:
        raise UserError(f"file {path}: no dialogue in it; expected one JSON object with 'messages' per line")
    return dialogues


def write_jsonl(path: str | os.PathLike[str], dialogues: Iterable[Dialogue]) -> int:
    """Write dialogues to a JSONL file atomically, one per line, and return how many were written."""
    return write_lines(path, (json.dumps(dialogue.to_dict(), ensure_ascii=False) for dialogue in dialogues))
