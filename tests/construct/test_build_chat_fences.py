"""Code in unusual fences gives a sequence or a typed reason, and no problem is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blocks import bad, final, good
from chat_builds import config, place, rejects, run, write_problems
from chatserver import ChatServer

from reflectioncoder.dialogues.dialogue import read_jsonl


def fenced(code: str, opening: str = "```python", closing: str = "```") -> str:
    return f"{opening}\n{code}\n{closing}"


def halves(program: str) -> str:
    """A program in two code blocks: definitions, then asserts."""
    definition, _, asserts = program.partition("\n\nassert")
    return f"{fenced(definition)}\nThe tests:\n{fenced(f'assert{asserts}')}"


def test_odd_fences_end_in_a_sequence_or_a_reason(tmp_path: Path) -> None:
    cases: list[tuple[str, list[str]]] = [
        ("", [fenced(bad(0), "~~~python", "~~~"), fenced(good(0), "~~~python", "~~~"), fenced(final(0), "~~~", "~~~")]),
        ("", [fenced(code, "```python", "") for code in (bad(1), good(1), final(1))]),  # never closed
        ("", [fenced(code, "````py", "````") for code in (bad(2), good(2), final(2))]),
        ("", [fenced(code, "```", "```") for code in (bad(3), good(3), final(3))]),  # no language
        ("", [halves(bad(4)), halves(good(4)), fenced(final(4))]),
        # The second program of an answer is not run, so the first one must be repaired in the next answer.
        ("", [f"{fenced(bad(5))}\nIt fails. Better:\n{fenced(good(5))}", fenced(good(5)), fenced(final(5))]),
        ("single_round", [f"{fenced(good(6))}\n{fenced(bad(6))}"]),
        ("no_code", [fenced(bad(7), "```json"), fenced(bad(7), "```text")]),
        ("", [bad(8), good(8), final(8)]),  # no fences at all
        ("no_code", ["```python\n```", "```\n```"]),
        ("", [fenced(bad(10)), fenced(good(10)), f"{fenced(final(10))}\nAgain:\n{fenced(final(10))}"]),
        ("no_final_code", [fenced(bad(11)), fenced(good(11)), fenced("int add();", "```c++")]),
        ("no_final_code", [fenced(bad(12)), fenced(good(12)), "The function is as above."]),
        ("", [fenced(bad(13)), fenced(good(13)), f"{fenced(final(13))}\nUse it:\n{fenced('print(1)')}"]),
    ]

    def script(_: int, request: dict[str, Any]) -> str:
        k, turn = place(request)
        return cases[k][1][turn]

    output = tmp_path / "out"
    with ChatServer(script) as server:
        result, _ = run(config(output, write_problems(tmp_path / "own.jsonl", len(cases)), server.url))
        assert len(server.requests) == sum(len(said) for _, said in cases)
    assert rejects(output) == {f"p{k}": reason for k, (reason, _) in enumerate(cases) if reason}
    for dialogue in read_jsonl(result.path):
        k = int(dialogue.extra["id"][1:])
        programs = [block.content for block in dialogue.first_round if block.type == "code"]
        assert "".join(programs).split() == "".join((bad(k), good(k))).split()
        assert dialogue.final_answer == f"```python\n{final(k)}\n```"
