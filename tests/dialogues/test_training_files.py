"""Training data in other formats becomes dialogues in one form, and errors name the file and the row."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.construct.outputs import export_formats
from reflectioncoder.dialogues.dialogue import Block, Dialogue, instruction_dialogue, reflection_dialogue, write_jsonl
from reflectioncoder.dialogues.training_files import normalised, plain_code, read_training, to_dialogue, unix_lines
from reflectioncoder.errors import UserError
from reflectioncoder.problems.load import load_problems

REFLECTION = reflection_dialogue(
    "Write and test `f`.",
    [Block("code", "assert f(1)"), Block("execution", "NameError"), Block("text", "Oh."), Block("code", "f = bool")],
    "Write `f`.", "f = bool", id="a", source="own",
)  # fmt: skip
PLAIN = instruction_dialogue("Add.", "```python\na + b\n```")


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "lines_without_a_suffix"])
def test_instruction_sets_are_read_from_jsonl_and_parquet(tmp_path: Path, name: str) -> None:
    pairs = [{"query": "Add.", "answer": PLAIN.final_answer, "resource": "evol", "lang": "python"}]
    (found,) = read_training(write(tmp_path / name, pairs))
    assert found == instruction_dialogue("Add.", PLAIN.final_answer, resource="evol", lang="python")
    chat = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": PLAIN.final_answer}]
    assert read_training(write(tmp_path / name, [{"messages": chat}])) == [PLAIN]
    system = {"role": "system", "content": "Be brief."}
    (found,) = read_training(write(tmp_path / name, [{"messages": [system, *chat]}]))
    assert found == instruction_dialogue("Be brief.\n\nAdd.", PLAIN.final_answer)


def test_other_names_of_pairs() -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    assert to_dialogue(row, "w") == instruction_dialogue("Add.\n\n1 and 2", "3")
    assert to_dialogue({"instruction": "Add.", "input": "", "response": "3"}, "w") == instruction_dialogue("Add.", "3")


def test_what_a_build_writes_is_read_back_from_every_format(tmp_path: Path) -> None:
    kept = [REFLECTION]
    write_jsonl(tmp_path / "sequences.jsonl", kept)
    export_formats(tmp_path, kept, ("parquet", "dataset"))
    for name in ("sequences.jsonl", "sequences.parquet", "dataset"):
        (found,) = read_training(tmp_path / name)
        assert (found.messages, found.type, found.extra["id"]) == (REFLECTION.messages, "reflection", "a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "Add."}, "line 2: neither 'messages' nor a pair like 'query' and 'answer'; found query"),
        ({"query": "Add.", "answer": None}, "found query, answer \\(null\\)"),
        ({"query": " ", "answer": "3"}, "line 2: column 'query' has no text"),
        ({"messages": []}, "line 2: 'messages' must be a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2: the last message must be the assistant's"),
        ([1], "line 2: expected an object"),
    ],
)
def test_bad_rows_are_named_and_can_be_left_out(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "x.jsonl", [{"query": "Add.", "answer": "3"}, row])
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        read_training(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    skipped: list[str] = []
    assert len(read_training(path, skipped)) == 1
    assert skipped == [str(caught.value)]
    with pytest.raises(UserError, match="no dialogue in it"):
        read_training(write(tmp_path / "y.jsonl", []))


CODE = "if a < b and c > d:\n    x = '&'\n"
ESCAPED = "if a &lt; b and c &gt; d:\n    x = '&amp;'\n"


def test_a_sample_that_a_scraper_escaped_is_unescaped_as_a_whole() -> None:
    text = f"Is a &lt; b?\n```python\n{ESCAPED}```\nSo &quot;yes&quot;."
    given = reflection_dialogue("Q &amp; A", [Block("code", ESCAPED), Block("execution", "&lt;f&gt;")], text, "x = 1")
    found = normalised(given)
    contents = [block.content for message in found.messages for block in message.blocks]
    assert contents[:3] == ["Q & A", CODE, "<f>"]
    assert contents[3] == f'Is a < b?\n```python\n{CODE}```\nSo "yes".'


@pytest.mark.parametrize(
    "answer",
    [
        "Use `&lt;` for <.",
        "```python\ndef f(s):\n    return s.replace('<', '&lt;')\n```\nNow < is &lt;.",
        "```html\n&lt;p&gt;\n```",
        "```python\nthis is &lt; no Python at all\n```",
    ],
)
def test_a_sample_about_entities_stays_as_it_is(answer: str) -> None:
    dialogue = instruction_dialogue("How is &amp; written?", answer)
    assert normalised(dialogue) is dialogue


def test_line_ends() -> None:
    assert unix_lines("a\r\nb\rc\n") == "a\nb\nc\n"
    dialogue = instruction_dialogue("a\r\nb", "```python\r\nx = 1\r\n```")
    assert normalised(dialogue) == instruction_dialogue("a\nb", "```python\nx = 1\n```")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f():\n\tif x:\n\t\treturn 1\n", "def f():\n    if x:\n        return 1\n"),
        ("x = 'a\tb'\n", "x = 'a\tb'\n"),  # a tab in a string literal is kept
        ("x = '''\n\ta'''\n", "x = '''\n\ta'''\n"),
        ("for x in y:\n\tz = '''\n\tb'''\n", "for x in y:\n\tz = '''\n\tb'''\n"),
        ("no python:\n\there\n", "no python:\n    here\n"),
        ("x = 1 # \t note\n", "x = 1 # \t note\n"),
    ],
)
def test_tabs(code: str, expected: str) -> None:
    assert plain_code(code) == expected


JAVA = "```java\nclass A { }\n```"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # the fence that closes the Java is none that opens Python, and the list between the blocks is prose
        (
            f"{JAVA}\n\t- as above\n```python\nif a:\n\tb()\n```",
            f"{JAVA}\n\t- as above\n```python\nif a:\n    b()\n```",
        ),
        # a fence in a docstring ends nothing
        (
            '```python\ndef f():\n\t"""Like:\n```\nf()\n```\n"""\n\treturn 1\n```\n\tx',
            '```python\ndef f():\n    """Like:\n```\nf()\n```\n"""\n    return 1\n```\n\tx',
        ),
        ("~~~py3\nif a:\n\tb()\n~~~", "~~~py3\nif a:\n    b()\n~~~"),
        ("````\nif a:\n\tb()\n````", "````\nif a:\n    b()\n````"),
        ("Say:\n```python\nif a:\n\tb()", "Say:\n```python\nif a:\n\tb()"),  # never closed
    ],
)
def test_code_in_answers_is_found_by_the_reader_of_answers(answer: str, expected: str) -> None:
    assert normalised(instruction_dialogue("q", answer)) == instruction_dialogue("q", expected)


@given(st.text(alphabet="\t ax=:'\n#if1", max_size=60))
def test_normalising_never_changes_what_code_means_and_twice_is_once(code: str) -> None:
    def meaning(text: str) -> str | None:
        try:
            return ast.dump(ast.parse(text))
        except SyntaxError:
            return None

    found = plain_code(code)
    if meaning(code) is not None:
        assert meaning(found) == meaning(code)
    assert plain_code(found) == found
    once = normalised(Dialogue(PLAIN.messages[:1] + PLAIN.messages[1:]))
    assert normalised(once) is once


def test_instruction_sets_give_problems(tmp_path: Path) -> None:
    rows = [
        {"query": "Add two numbers in Python.", "answer": "a + b", "resource": "r", "lang": "python"},
        {"query": "Add two numbers in C.", "answer": "a + b", "resource": "r", "lang": "c"},
    ]
    for name in ("x.jsonl", "x.parquet"):
        path = str(write(tmp_path / name, rows))
        problems = load_problems(path, "codefeedback")
        assert [(p.id, p.instruction, p.solution, p.tests) for p in problems] == [
            ("CodeFeedback/1", rows[0]["query"], None, ()), ("CodeFeedback/2", rows[1]["query"], None, ()),
        ]  # fmt: skip
        assert len(load_problems(path, "codefeedback,require=lang=python")) == 1
        with pytest.raises(UserError, match="no column 'language' for 'require'"):
            load_problems(path, "codefeedback,require=language=python")
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "3"},
    ]
    released = [{"role": "user", "content": [{"type": "text", "content": "Add."}]}]
    path = str(write(tmp_path / "m.jsonl", [{"messages": talk}, {"messages": released}]))
    assert [problem.instruction for problem in load_problems(path, "messages")] == ["s\n\nAdd.", "Add."]
    chosen = load_problems(path, "instruction=messages.user")
    assert [problem.instruction for problem in chosen] == ["Add.", "Add."]


def test_an_instruction_set_of_real_rows(data: Path) -> None:
    path = data / "instruct" / "gpteacher" / "codegen-instruct.json.gz"
    skipped: list[str] = []
    dialogues = read_training(path, skipped)
    assert len(dialogues) + len(skipped) == 4535
    assert len(skipped) < 20
    assert all("has no text" in line for line in skipped)
    assert not any("\r" in dialogue.final_answer for dialogue in dialogues)
