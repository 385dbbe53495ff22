"""Conversion of dialogues to token ids and back (appendix C): special tokens, spans, loss labels, chat template.

A message consists of its role token, its blocks (type token, content, end-of-block token) and the end-of-message
token. Messages follow each other directly, with BOS before the first and EOS after the last. Special tokens are never
recognised inside content, so text that spells one stays text and cannot forge a block boundary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from reflectioncoder.dialogues.dialogue import Block, BlockType, Dialogue, Message, Role
from reflectioncoder.errors import UserError

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

ROLE_TOKENS: dict[Role, str] = {"user": "<|user|>", "assistant": "<|assistant|>"}
BLOCK_TOKENS: dict[BlockType, str] = {"text": "<|text|>", "code": "<|code|>", "execution": "<|execution|>"}
END_OF_BLOCK = "<|endofblock|>"
END_OF_MESSAGE = "<|endofmessage|>"
SPECIAL_TOKENS: tuple[str, ...] = (*ROLE_TOKENS.values(), *BLOCK_TOKENS.values(), END_OF_BLOCK, END_OF_MESSAGE)
ANSWER_PREFIX = "```python\n"


@dataclass(frozen=True)
class Span:
    """Token range `[start, end)` of a block, including its type token and its end-of-block token."""

    message: int
    block: int
    type: BlockType
    start: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """A dialogue as tokens.

    Args:
        ids: T token ids. BOS is first if the tokenizer has one; EOS is last.
        is_label: T flags, True for targets of the next-token loss (appendix C): the tokens of an assistant message
            after its role token, up to and including the end-of-message token, except execution blocks, because the
            environment writes those.
        spans: token ranges of all blocks, in order.
        message_bounds: token ranges `[start, end)` of all messages, including role and end-of-message tokens.
        is_reflection: whether masked distillation applies.
        sample_id: id of the sample; seeds its random choices.
        influence: measured influence of each block of the first answer (`influence.measure_influence`); empty if a run
            does not ask for it.
        changed: indices of the final answer's tokens that the repair changed; empty if a run does not ask for them.
    """

    ids: tuple[int, ...]
    is_label: tuple[bool, ...]
    spans: tuple[Span, ...]
    message_bounds: tuple[tuple[int, int], ...]
    is_reflection: bool
    sample_id: str = ""
    changed: tuple[int, ...] = ()
    influence: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


# Cache by tokenizer, because `get_vocab` takes milliseconds.
_formats: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[dict[str, int], frozenset[int]]] = WeakKeyDictionary()


def _format(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], frozenset[int]]:
    """Return the ids of the seven special tokens by name, and the ids of all special tokens of the tokenizer."""
    if tokenizer not in _formats:
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: lacks {', '.join(missing)}; the model was not trained on this "
                "format (`reflectioncoder train` adds these tokens)"
            )
        if tokenizer.eos_token_id is None:
            raise UserError(f"tokenizer {tokenizer.name_or_path}: has no eos_token; set one in tokenizer_config.json")
        named = {token: vocabulary[token] for token in SPECIAL_TOKENS}
        every = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        _formats[tokenizer] = named, frozenset(every | set(named.values()))
    return _formats[tokenizer]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the seven special tokens by name.

    Raises:
        UserError: the tokenizer lacks one of them, or has no EOS token.
    """
    return dict(_format(tokenizer)[0])


def knows_format(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the vocabulary has all seven special tokens, as after training."""
    vocabulary = tokenizer.get_vocab()
    return all(token in vocabulary for token in SPECIAL_TOKENS)


def encode_content(content: str, tokenizer: PreTrainedTokenizerBase, after: str) -> list[int]:
    """Encode the content of one block; no id is a special token.

    Args:
        content: any text.
        tokenizer: a tokenizer with the seven special tokens.
        after: the special token before the content. Some tokenizers prepend a space to the first word of a text, but
            not after a special token, so the content is encoded in its context.

    Raises:
        UserError: see `special_ids`; or the tokenizer encodes ordinary text as a special token.
    """
    named, every = _format(tokenizer)
    ids = tokenizer.encode(after + content, add_special_tokens=False)
    if not every.intersection(ids[1:]) and ids[:1] == [named[after]]:
        return ids[1:]
    ids = tokenizer.encode(content, add_special_tokens=False, split_special_tokens=True)
    if every.intersection(ids):  # a tokenizer that holds them as ordinary tokens: no piece spells one
        names = [str(name) for name in tokenizer.convert_ids_to_tokens(sorted(every))]
        pieces = re.split("|".join(f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names), content)
        ids = [
            id
            for piece in pieces
            for id in tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
        ]
    if forged := every.intersection(ids):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: encodes plain text as its special token "
            f"{tokenizer.convert_ids_to_tokens(min(forged))!r}, so content could forge it; take another tokenizer"
        )
    return ids


def encode_dialogue(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase, sample_id: str = "") -> Encoded:
    """Convert a dialogue to token ids, labels and spans.

    Args:
        dialogue: the dialogue.
        tokenizer: a tokenizer with the seven special tokens.
        sample_id: see `Encoded`.

    Raises:
        UserError: see `special_ids`.
    """
    special = special_ids(tokenizer)
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    is_label = [False] * len(ids)
    spans, bounds = [], []
    for m, message in enumerate(dialogue.messages):
        speaks = message.role == "assistant" and message.trained
        first = len(ids)
        ids.append(special[ROLE_TOKENS[message.role]])
        is_label.append(False)
        for b, block in enumerate(message.blocks):
            start = len(ids)
            ids.append(special[BLOCK_TOKENS[block.type]])
            ids.extend(encode_content(block.content, tokenizer, BLOCK_TOKENS[block.type]))
            ids.append(special[END_OF_BLOCK])
            is_label.extend([speaks and block.type != "execution"] * (len(ids) - start))
            spans.append(Span(m, b, block.type, start, len(ids)))
        ids.append(special[END_OF_MESSAGE])
        is_label.append(speaks)
        bounds.append((first, len(ids)))
    ids.append(int(tokenizer.eos_token_id))
    is_label.append(False)
    return Encoded(tuple(ids), tuple(is_label), tuple(spans), tuple(bounds), dialogue.is_reflection, sample_id)


def decode_dialogue(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, type: str = "instruction") -> Dialogue:
    """Recover the dialogue from the ids that `encode_dialogue` returned.

    Args:
        ids: T token ids, with or without BOS and EOS.
        tokenizer: the tokenizer that encoded them.
        type: type of the dialogue, which the ids do not contain.

    Raises:
        UserError: the ids do not follow the format; the message names the first wrong position.
    """
    special = special_ids(tokenizer)
    roles = {special[token]: role for role, token in ROLE_TOKENS.items()}
    types = {special[token]: block for block, token in BLOCK_TOKENS.items()}
    messages, position = [], 0
    if ids and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id:
        position = 1

    def fail(expected: str) -> UserError:
        return UserError(f"token {position}: expected {expected}")

    while position < len(ids) and ids[position] != tokenizer.eos_token_id:
        role = roles.get(ids[position])
        if role is None:
            raise fail("a role token")
        position += 1
        blocks = []
        while position < len(ids) and ids[position] in types:
            kind = types[ids[position]]
            start = position + 1
            position = start
            while position < len(ids) and ids[position] != special[END_OF_BLOCK]:
                position += 1
            if position == len(ids):
                raise fail(END_OF_BLOCK)
            text = tokenizer.decode(list(ids[start:position]), clean_up_tokenization_spaces=False)
            blocks.append(Block(kind, str(text)))
            position += 1
        if position == len(ids) or ids[position] != special[END_OF_MESSAGE]:
            raise fail(f"a block or {END_OF_MESSAGE}")
        position += 1
        messages.append(Message(role, tuple(blocks)))
    return Dialogue(tuple(messages), type)


def prompt_ids(instruction: str, tokenizer: PreTrainedTokenizerBase, answer_prefix: str = ANSWER_PREFIX) -> list[int]:
    """Encode the prompt of one-off generation (appendix D): the user message and the beginning of the answer."""
    special = special_ids(tokenizer)
    head: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    text = BLOCK_TOKENS["text"]
    return [
        *head,
        special[ROLE_TOKENS["user"]],
        special[text],
        *encode_content(instruction, tokenizer, text),
        special[END_OF_BLOCK],
        special[END_OF_MESSAGE],
        special[ROLE_TOKENS["assistant"]],
        special[text],
        *encode_content(answer_prefix, tokenizer, text),
    ]
