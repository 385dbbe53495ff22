"""Rows of every known shape become the same turns; what changes a sample is read or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reflectioncoder.dialogues.dialogue import Dialogue, instruction_dialogue
from reflectioncoder.dialogues.training_files import read_training, to_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.files.fields import FieldMap
from reflectioncoder.problems.load import load_problems

ASK, ANSWER = "Write `f`.", "```python\nf = 1\n```"
USER, REPLY = {"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}
SHAPES: dict[str, dict[str, Any]] = {
    "released": {"messages": [{**m, "content": [{"type": "text", "content": m["content"]}]} for m in (USER, REPLY)]},
    "messages": {"messages": [USER, REPLY]},
    "text parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": ASK}]}, REPLY]},
    "messages as JSON": {"messages": json.dumps([USER, REPLY])},
    "ShareGPT": {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}]},
    "query and answer": {"query": ASK, "answer": ANSWER},
    "Alpaca": {"instruction": ASK, "input": "", "output": ANSWER},
    "instruction and response": {"instruction": ASK, "response": ANSWER},
    "input and output": {"input": ASK, "output": ANSWER},
    "problem and solution": {"problem": ASK, "solution": ANSWER},
    "prompt and completion": {"prompt": ASK, "completion": ANSWER},
    "message lists": {"prompt": [USER], "completion": [REPLY]},
    "united by Parquet": {"messages": None, "query": ASK, "answer": ANSWER, "system": None, "tools": None},
    "provenance": {"query": ASK, "answer": ANSWER, "tools": "[]", "history": [], "type": "MATH", "weight": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_the_same_dialogue_and_the_same_request(tmp_path: Path, name: str) -> None:
    dialogue = to_dialogue(SHAPES[name], "w")
    assert dialogue.messages == instruction_dialogue(ASK, ANSWER).messages
    assert dialogue.type == "instruction"
    (tmp_path / "x.jsonl").write_text(json.dumps(SHAPES[name]))
    if name != "problem and solution":  # where the solution is code
        (problem,) = load_problems(str(tmp_path / "x.jsonl"))
        assert problem.instruction == ASK


def test_shapes_united_in_one_parquet_file_keep_their_null_columns_apart(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": [USER, {**REPLY, "tool_calls": None}]}, {"query": ASK, "answer": ANSWER}]
    names = {name for row in rows for name in row}
    table = pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    first, second = read_training(tmp_path / "x.parquet")
    assert first.messages == second.messages == instruction_dialogue(ASK, ANSWER).messages
    assert not first.extra and not second.extra


def texts(row: dict[str, Any], fields: str = "") -> list[str]:
    return [
        "".join(block.content for block in m.blocks) for m in to_dialogue(row, "w", FieldMap.parse(fields)).messages
    ]


def test_what_changes_a_sample_is_read() -> None:
    row = {"instruction": "A", "input": "i", "output": "B", "system": "S", "history": [["q", "r"]]}
    assert texts(row) == ["S\n\nq", "r", "A\n\ni", "B"]
    assert texts(row, "system=,history=,input=") == ["A", "B"]
    assert texts({"conversations": SHAPES["ShareGPT"]["conversations"], "system": "S"}) == [f"S\n\n{ASK}", ANSWER]
    assert texts({"messages": [USER, REPLY], "system": "S"}) == [f"S\n\n{ASK}", ANSWER]
    assert texts({"messages": [{"role": "developer", "content": "S"}, USER, REPLY]}) == [f"S\n\n{ASK}", ANSWER]
    assert texts({"q": {"de": "A"}, "r": "B"}, "instruction=q.de,answer=r") == ["A", "B"]


def test_messages_without_weight_are_read_and_kept_from_the_loss() -> None:
    for key, value in (("weight", 0), ("train", False)):
        row = {"messages": [USER, {**REPLY, key: value}, USER, {**REPLY, key: not value}]}
        dialogue = to_dialogue(row, "w")
        assert [message.trained for message in dialogue.messages] == [True, False, True, True]
        assert Dialogue.from_dict(dialogue.to_dict()) == dialogue
    # the loss of a row with a prompt and a completion is that of the completion
    lists = {"prompt": [USER, REPLY, USER], "completion": [REPLY]}
    assert [message.trained for message in to_dialogue(lists, "w").messages] == [True, False, True, True]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER, REPLY], "tools": [{"name": "t"}]}, "column 'tools': samples with tools are not supported"),
        ({"messages": [USER, REPLY], "train": False}, "column 'train': whole samples are not weighted"),
        ({"query": "A", "answer": "B", "weight": 0.5}, "column 'weight': whole samples are not weighted"),
        ({"messages": [USER, {**REPLY, "weight": 0.5}]}, "message 2: weight 0.5 is neither 0 nor 1"),
        ({"messages": [USER, {**REPLY, "weight": 0}]}, r"the last message is not to be trained on \(weight 0\)"),
        ({"messages": [USER, {**REPLY, "reasoning_content": "Hm."}]}, "message 2: has 'reasoning_content'"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [1], "content": None}]}, "message 2: has 'tool_call"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, REPLY]}, "message 2: role 'tool' is not one of"),
        ({"messages": [USER, {"role": "system", "content": "S"}, REPLY]}, "a system message after the first turn"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, REPLY]}, "block type 'image_url'"),
        ({"messages": [USER, {"role": "assistant", "content": 42}]}, "message 2: 'content' must be text .* found int"),
        ({"messages": "[oops"}, "column 'messages' holds text that is not JSON"),
        ({"instruction": "A", "output": "B", "history": [["q"]]}, r"column 'history', entry 1: expected \[request"),
        ({"instruction": "A", "output": "B", "input": 3}, "column 'input' must hold text, found int"),
        ({"query": "A", "answer": 42}, "column 'answer' has no text, but int"),
        ({"query": "A", "answer": "B", "prompt": "C", "completion": "D"}, "may be 'query' and 'answer', or 'prompt'"),
        ({"query": "A \ud83d", "answer": "B"}, r"holds \\ud83d, half of a surrogate pair"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "code", "content": "x"}]}], "type": "odd"},
         "type 'odd' is not one of reflection, instruction, generation"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused_by_name(row: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^w.*: {message}") as caught:
        to_dialogue(row, "w")
    assert "\n" not in str(caught.value)


def test_columns_can_be_read_as_provenance() -> None:
    row = {"messages": [USER, REPLY], "tools": [{"name": "t"}], "weight": 70.5}
    assert to_dialogue(row, "w", FieldMap.parse("ignore=tools weight")).extra == {
        "tools": [{"name": "t"}], "weight": 70.5,
    }  # fmt: skip


def test_named_columns_must_exist_and_name_an_answer() -> None:
    row = {"query": "A", "answer": "B"}
    with pytest.raises(UserError, match="no column 'q' for 'instruction'; there are query, answer"):
        to_dialogue(row, "w", FieldMap.parse("instruction=q,answer=answer"))
    with pytest.raises(UserError, match="name a request and no answer to train on; add answer=COLUMN"):
        to_dialogue(row, "w", FieldMap.parse("instruction=query"))
    with pytest.raises(UserError, match="no column 'talk' for 'messages'"):
        to_dialogue(row, "w", FieldMap.parse("messages=talk"))


RAN = [USER, {"role": "assistant", "content": [{"type": "code", "content": "x"}, {"type": "execution", "content": ""}]}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(None, "reflection"), ("reflection", "reflection"), ("python", "reflection"), ("generation", "generation")],
)
def test_every_type_but_plain_ones_is_masked_where_the_blocks_allow_it(kind: str | None, expected: str) -> None:
    row = {"messages": [*RAN, USER, REPLY], **({"type": kind} if kind else {})}
    assert to_dialogue(row, "w").type == expected
    assert to_dialogue(row, "w", FieldMap.parse("type=")).type == "reflection"
    assert to_dialogue({"messages": [USER, REPLY], "type": "chat"}, "w").type == "chat"


def test_requests_of_problems_take_the_same_shapes(tmp_path: Path) -> None:
    def request(row: dict[str, Any], fields: str = "") -> str:
        (tmp_path / "x.jsonl").write_text(json.dumps(row))
        return load_problems(str(tmp_path / "x.jsonl"), fields)[0].instruction

    assert request({"instruction": "A", "input": "i", "output": "B"}) == "A\n\ni"
    assert request({"text": "A", "input": "i"}, "instruction=text") == "A\n\ni"
    assert request({"instruction": "A", "system": "S"}) == "S\n\nA"
    assert request({"messages": [USER, REPLY, USER]}) == ASK
    for row, message in (
        ({"instruction": "A", "history": [["q", "r"]]}, "column 'history': a problem is one request"),
        ({"instruction": "A", "tools": [1]}, "column 'tools'"),
        ({"instruction": "A \ud83d"}, "half of a surrogate pair"),
        ({"text": "A"}, "no column 'instruction' for 'instruction'; there are text"),
    ):
        with pytest.raises(UserError, match=message):
            request(row)
