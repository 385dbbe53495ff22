import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.dialogues.dialogue import (
    BLOCK_TYPES,
    Block,
    Dialogue,
    Message,
    fenced,
    instruction_dialogue,
    read_jsonl,
    reflection_dialogue,
    unfenced,
    write_jsonl,
)
from reflectioncoder.errors import UserError

# In the format of the authors' data sets, with an additional key that this package does not know.
RELEASED = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "content": "Solve it, with tests."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "code", "content": "assert 1 == 2"},
                {"type": "execution", "content": "AssertionError: "},
                {"type": "text", "content": "1 is not 2."},
            ],
        },
        {"role": "user", "content": [{"type": "text", "content": "Solve it."}]},
        {"role": "assistant", "content": [{"type": "text", "content": "```python\npass\n```"}]},
    ],
    "type": "reflection",
    "id": 17,
}


def test_the_released_schema_survives_both_directions():
    dialogue = Dialogue.from_dict(RELEASED)
    assert dialogue.to_dict() == RELEASED
    assert dialogue.is_reflection
    assert dialogue.rounds == 1
    assert dialogue.extra == {"id": 17}
    assert [block.type for block in dialogue.first_round] == ["code", "execution", "text"]


def test_a_released_line_without_type_is_a_reflection_when_it_has_an_execution():
    line = {key: value for key, value in RELEASED.items() if key != "type"}
    assert Dialogue.from_dict(line).is_reflection


def test_builders_give_the_four_messages_of_the_paper():
    dialogue = reflection_dialogue("R", [Block("code", "x"), Block("execution", "")], "I", "pass\n", seed=3)
    assert [message.role for message in dialogue.messages] == ["user", "assistant", "user", "assistant"]
    assert dialogue.final_answer == "```python\npass\n```"
    assert dialogue.to_dict()["seed"] == 3
    assert instruction_dialogue("I", "A").final_answer == "A"


blocks = st.builds(Block, st.sampled_from(BLOCK_TYPES), st.text())
rounds = st.lists(st.tuples(st.lists(blocks, min_size=1), st.lists(blocks, min_size=1)), min_size=1, max_size=3)


@given(rounds)
def test_any_dialogue_survives_a_file(tmp_path_factory, content):
    messages = [
        Message(role, tuple(part)) for turn in content for role, part in zip(("user", "assistant"), turn, strict=True)
    ]
    dialogue = Dialogue(tuple(messages), "other", {"source": "x"})
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    assert write_jsonl(path, [dialogue, dialogue]) == 2
    assert read_jsonl(path) == [dialogue, dialogue]


def broken(change):
    line = json.loads(json.dumps(RELEASED))
    change(line)
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("messages"), "'messages' must be a list"),
        (lambda d: d["messages"][1].update(role="robot"), "message 2: role 'robot' is not one of user, assistant"),
        (lambda d: d["messages"][1].update(role="user"), "message 2 has role 'user', expected 'assistant'"),
        (
            lambda d: d["messages"][1]["content"][0].update(type="code2"),
            "message 2, block 1: block type 'code2' is not one of text, code, execution",
        ),
        (lambda d: d["messages"][3]["content"][0].update(content=5), "message 4, block 1: 'content' must be text"),
        (lambda d: d["messages"].pop(), "the last message must be the assistant's"),
        (lambda d: d.update(messages=d["messages"][:2]), "a reflection dialogue has 4 messages, found 2"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, change, message):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(RELEASED) + "\n\n" + json.dumps(broken(change)) + "\n")
    with pytest.raises(UserError) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f"file {path}, line 3")
    assert message in str(error.value)
    skipped: list[str] = []
    assert len(read_jsonl(path, skipped)) == 1
    assert skipped == [str(error.value)]


def test_text_that_is_not_json_or_not_utf8_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"messages": \n')
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_jsonl(path)
    path.write_bytes(b'{"messages": "\xff\xfe"}\n')
    with pytest.raises(UserError, match="line 1: not UTF-8"):
        read_jsonl(path)


def test_an_empty_or_missing_file_says_so(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no dialogue in it"):
        read_jsonl(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="No such file"):
        read_jsonl(tmp_path / "y.jsonl")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [instruction_dialogue("I", "A")])
    before = path.read_bytes()

    def dialogues():
        yield instruction_dialogue("I", "B")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        write_jsonl(path, dialogues())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.jsonl"]


def test_the_fence_comes_off_as_it_went_on():
    assert unfenced(fenced("a = 1\n\nb = 2")) == "a = 1\n\nb = 2"
    assert unfenced("Here:\n```py\nx\n```\nand\n```python\ny\n```") == "x"
    assert unfenced("x = 1\n") == "x = 1"
    assert unfenced("```python\nx = 1") == "x = 1"
