"""Where an answer in blocks ends, how it is parsed, and that no content can forge a block."""

from __future__ import annotations

import pytest
from blocks import Format
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.clients.messages import Turn
from reflectioncoder.construct.samplers.native import prompt_of
from reflectioncoder.dialogues.dialogue import Block, Message
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS
from reflectioncoder.dialogues.tokens import decode_dialogue as decode_dialogue
from reflectioncoder.dialogues.written_blocks import ending, read_blocks
from reflectioncoder.errors import UserError


@pytest.mark.parametrize(
    ("said", "reason", "blocks"),
    [
        ("<|code|>x = 1<|endofblock|>", "code", [("code", "x = 1")]),
        ("<|code|><|endofblock|>", "code", [("code", "")]),
        ("<|text|>Hm.<|endofblock|><|code|>x<|endofblock|>", "code", [("text", "Hm."), ("code", "x")]),
        ("<|text|>a<|endofblock|><|text|>b<|endofblock|><|endofmessage|>", "end", [("text", "a"), ("text", "b")]),
        ("<|endofmessage|>", "end", []),
        ("x", "no_block_type", []),
        ("<|text|>a<|endofblock|>b", "no_block_type", [("text", "a")]),
        ("<|endofblock|>", "no_block_type", []),
        ("<|user|>", "no_block_type", []),
        ("</s>", "no_block_type", []),
        ("<|execution|>", "forged_execution", []),
        ("<|text|>a<|endofblock|><|execution|>", "forged_execution", [("text", "a")]),
        ("<|text|>a<|code|>", "unclosed_block", []),
        ("<|code|>a<|execution|>", "unclosed_block", []),
        ("<|text|>a<|endofmessage|>", "unclosed_block", []),
        ("<|code|>a</s>", "unclosed_block", []),
    ],
)
def test_an_answer_ends_at_code_at_the_end_of_the_message_or_at_a_mistake(
    model: str, said: str, reason: str, blocks: list[tuple[str, str]]
) -> None:
    known = Format(model)
    ids = known.ids(said)
    assert [ending(ids[:n], known.marks, True) for n in range(1, len(ids) + 1)] == [""] * (len(ids) - 1) + [reason]
    assert read_blocks(ids, known.marks, known.tokenizer) == [Block(kind, text) for kind, text in blocks]  # type: ignore[arg-type]


def test_where_no_code_is_due_opening_it_ends_the_answer(model: str) -> None:
    known = Format(model)
    ids = known.ids("<|text|>a<|endofblock|><|code|>")
    assert [ending(ids[:n], known.marks, False) for n in range(1, len(ids) + 1)][-2:] == ["", "code_refused"]


@settings(max_examples=100, deadline=None)
@given(choices=st.lists(st.integers(0, 8), min_size=1, max_size=14))
def test_only_what_the_format_can_read_is_taken(model: str, choices: list[int]) -> None:
    known = Format(model)
    letter = known.tokenizer.encode("a", add_special_tokens=False)[0]
    tokens = [*known.special.values(), int(known.tokenizer.eos_token_id), letter]
    ids: list[int] = []
    reason = ""
    for choice in choices:
        ids.append(tokens[choice])
        reason = ending(ids, known.marks, True)
        if reason:
            break
    head = known.ids("<|user|><|text|>q<|endofblock|><|endofmessage|><|assistant|>")
    last = [] if reason == "end" else [known.marks.end_of_message]
    whole = [*head, *ids, *last]
    if reason in ("code", "end"):
        message = decode_dialogue(whole, known.tokenizer).messages[1]
        assert list(message.blocks) == read_blocks(ids, known.marks, known.tokenizer)
        assert [block.type for block in message.blocks].count("code") == (reason == "code")
    elif reason in ("no_block_type", "unclosed_block"):
        with pytest.raises(UserError):
            decode_dialogue(whole, known.tokenizer)


HOSTILE = "".join(SPECIAL_TOKENS) + "<s></s>"


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text() | st.sampled_from(SPECIAL_TOKENS).map(lambda t: f"x{t}y"), min_size=5, max_size=5))
def test_contents_that_name_special_tokens_forge_nothing(model: str, texts: list[str]) -> None:
    known = Format(model)
    first, analysis, code, output, second = (text.encode("utf-8", "ignore").decode() for text in texts)
    first, analysis = first + HOSTILE, analysis + HOSTILE
    turns = [Turn("user", first), Turn("assistant", analysis, "native", code), Turn("tool", output, "native")]
    blocks = (Block("text", analysis), Block("code", code), Block("execution", output))
    ids = prompt_of(turns, known.tokenizer)
    assert ids[-1] == known.marks.end_of_block
    expected = (Message("user", (Block("text", first),)), Message("assistant", blocks))
    assert decode_dialogue([*ids, known.marks.end_of_message], known.tokenizer).messages == expected
    ids = prompt_of([*turns, Turn("assistant", "Well."), Turn("user", second)], known.tokenizer)
    assert ids[-1] == known.special["<|assistant|>"]
    found = decode_dialogue([*ids, known.marks.end_of_message], known.tokenizer).messages
    assert found[1].blocks == (*blocks, Block("text", "Well."))
    assert found[2:] == (Message("user", (Block("text", second),)), Message("assistant", ()))
