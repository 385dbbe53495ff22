"""Blocks that a model writes itself (appendix A): where an answer ends, what is wrong with it, and its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reflectioncoder.dialogues.dialogue import Block, BlockType
from reflectioncoder.dialogues.tokens import BLOCK_TOKENS, END_OF_BLOCK, END_OF_MESSAGE, special_ids

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

Ending = Literal["code", "end", "code_refused", "length", "no_block_type", "forged_execution", "unclosed_block"]
MALFORMED: dict[str, str] = {
    "no_block_type": "content without a block type before it",
    "forged_execution": "an execution block of its own",
    "unclosed_block": "a block that is not closed before another or the message's end",
}


@dataclass(frozen=True)
class Marks:
    """Ids of the special tokens that structure an answer.

    Args:
        types: block type by token id.
        end_of_block, end_of_message: token ids.
        every: ids of all special tokens, the tokenizer's own included.
    """

    types: dict[int, BlockType]
    end_of_block: int
    end_of_message: int
    every: frozenset[int]

    @property
    def stops(self) -> frozenset[int]:
        """Special tokens that may end an answer: all except those that open a block the model may write."""
        return self.every - {id for id, kind in self.types.items() if kind != "execution"}

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Marks:
        """Look up the ids in a tokenizer. Raises UserError if it lacks the format's special tokens."""
        named = special_ids(tokenizer)
        every = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        types = {named[token]: kind for kind, token in BLOCK_TOKENS.items()}
        every |= {*named.values(), int(tokenizer.eos_token_id)}
        return cls(types, named[END_OF_BLOCK], named[END_OF_MESSAGE], frozenset(every))


def ending(ids: Sequence[int], marks: Marks, may_run: bool) -> Ending | Literal[""]:
    """Return why an answer ends with its last token, or "" if it continues. Call this after every token.

    Args:
        ids: token ids of the answer so far; it starts at a point where a block or the end of the message must come.
        marks: special tokens of the tokenizer.
        may_run: whether the model may write code; if not, opening a code block ends the answer.
    """
    token = ids[-1]
    if token not in marks.every:
        return "no_block_type" if len(ids) == 1 or ids[-2] == marks.end_of_block else ""
    # a format error would have ended the answer, so the previous special token determines the state
    place = next((ids[i] for i in range(len(ids) - 2, -1, -1) if ids[i] in marks.every), marks.end_of_block)
    if place in marks.types:
        if token != marks.end_of_block:
            return "unclosed_block"
        return "code" if marks.types[place] == "code" else ""
    if token == marks.end_of_message:
        return "end"
    kind = marks.types.get(token)
    if kind == "code":
        return "" if may_run else "code_refused"
    return "" if kind == "text" else "forged_execution" if kind == "execution" else "no_block_type"


def read_blocks(ids: Sequence[int], marks: Marks, tokenizer: PreTrainedTokenizerBase) -> list[Block]:
    """Parse the closed blocks of an answer."""
    blocks, start, kind = [], 0, None
    for place, id in enumerate(ids):
        if id in marks.types:
            start, kind = place + 1, marks.types[id]
        elif id == marks.end_of_block and kind is not None:
            text = tokenizer.decode(list(ids[start:place]), clean_up_tokenization_spaces=False)
            blocks.append(Block(kind, str(text)))
            kind = None
    return blocks
