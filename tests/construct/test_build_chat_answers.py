"""A build reads answers in any shape: each published shape ends in a sequence, and thoughts are never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from blocks import bad, final, good
from chat_builds import config, place, rejects, run, write_problems
from chatserver import ChatServer

from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.errors import UserError

SHAPES: list[str] = [
    "{code}",
    "{code}\n```\n\nIt works.",
    "Here is the code:\n\n{code}\n\nIt is done.",
    "Sure!\n\n``` python title=\"a.py\"\n{code}\n```\nDone.",
    "Sure!\n~~~{{python}}\n{code}\n~~~\nDone.",
    "Here it is: ````python\n{code}\n````",
    "<thinking>\nMaybe\n```python\nGUESSED\n```\n</thinking>\n```py3\n{code}\n```",
    "[THINK]GUESSED[/THINK]```python\n{code}```",
    "<plan>\n```python\nGUESSED\n```\n</plan>\n```tool_code\n{code}\n```<|im_end|>",
    "\ufeff```Python3\r\n{code}\r\n```\r\n",
    "> ```python\n{quoted}\n> ```",
]  # fmt: skip


def shaped(shape: str, code: str) -> str:
    return shape.format(code=code, quoted="\n".join(f"> {line}" for line in code.split("\n")))


def test_programs_are_found_in_every_shape(tmp_path: Path) -> None:
    def script(_: int, request: dict[str, Any]) -> str:
        k, turn = place(request)
        return shaped(SHAPES[k], (bad(k), good(k), final(k))[turn])

    output = tmp_path / "out"
    with ChatServer(script) as server:
        marks = {"thought_marks": ("<plan> </plan>",)}
        result, _ = run(config(output, write_problems(tmp_path / "own.jsonl", len(SHAPES)), server.url, marks))
    assert rejects(output) == {}
    for dialogue in read_jsonl(result.path):
        k = int(dialogue.extra["id"][1:])
        programs = [block.content for block in dialogue.first_round if block.type == "code"]
        assert programs == [bad(k), good(k)]
        assert dialogue.final_answer == f"```python\n{final(k)}\n```"
        assert "GUESSED" not in str(dialogue)


def test_a_thought_that_was_cut_is_a_cut_answer(tmp_path: Path) -> None:
    def script(_: int, request: dict[str, Any]) -> str:
        k, turn = place(request)
        cut = f"<think>\nMaybe\n```python\n{good(k)}\n```\n"
        return cut if turn == k else shaped(SHAPES[0], (bad(k), good(k), final(k))[turn])

    output = tmp_path / "out"
    with ChatServer(script) as server:
        run(config(output, write_problems(tmp_path / "own.jsonl", 4), server.url))
    assert rejects(output) == {f"p{k}": "answer_too_long" for k in range(3)}


def test_marks_of_thoughts_come_in_pairs(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", 1)
    settings = config(tmp_path / "out", problems, "http://127.0.0.1:9/v1", {"thought_marks": ("<plan>",)})
    with pytest.raises(UserError, match="thought_marks '<plan>': give an opening and a closing mark"):
        run(settings)
    assert not (tmp_path / "out").exists()
