"""A conversation becomes a reflection sequence or ends with a reason. Each step depends only on the events so far."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.clients.budget import Usage
from reflectioncoder.clients.messages import Answer, Tools, Turn
from reflectioncoder.construct.conversation.conversation import (
    Ask,
    Check,
    Checked,
    Completed,
    ConversationRules,
    ConversationStep,
    Dropped,
    Event,
    Run,
    converse,
    follow,
    from_record,
    to_record,
)
from reflectioncoder.construct.prompts import PROMPT_VERSION, Prompts, load_prompts
from reflectioncoder.dialogues.dialogue import Block, Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import CellResult
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.answers.conversation import extract, shown
from reflectioncoder.syntax.answers.fences import fenced_blocks
from reflectioncoder.syntax.cells import asserts_something, checks_for, uses_earlier

PROBLEM = Problem("p/1", "Write `double`.", tests=("assert double(0) == 0",), entry_point="double", source="own")
RULES = ConversationRules(provenance={"method": "chat", "model": "m"})
BAD = "def double(x):\n    return x\n\nassert double(2) == 4"
GOOD = "def double(x):\n    return 2 * x\n\nassert double(2) == 4"
FINAL = "def double(x):\n    return x + x"
FAILED = CellResult("error", "AssertionError  Traceback (most recent call last)", "AssertionError", "", 4, 0.25)
PASSED = CellResult("ok", "", seconds=0.5)


def next_step(problem: Problem, rules: ConversationRules, events: Sequence[Event]) -> ConversationStep:
    return follow(problem, rules, events).step


def says(text: str, **changes: Any) -> Answer:
    return Answer(text, **{"usage": Usage(1, 10, 5), "model": "served", "seconds": 1.0, **changes})


def code(text: str, before: str = "", after: str = "") -> Answer:
    return says(f"{before}\n```python\n{text}\n```\n{after}")


GOES_WELL: tuple[Event, ...] = (
    code(BAD, "A plan.", "It prints: 4"),
    FAILED,
    code(GOOD, "It returns x."),
    PASSED,
    code(FINAL),
    Checked("", 0.125),
)


def test_the_two_stages_give_the_sequence_of_the_paper() -> None:
    step = next_step(PROBLEM, RULES, ())
    assert isinstance(step, Ask)
    assert [turn.role for turn in step.messages] == ["system", "user"]
    instruction = step.messages[1].text
    assert "Write `double`." in instruction
    assert (step.number, step.tools) == (0, "off")
    assert next_step(PROBLEM, RULES, GOES_WELL[:1]) == Run(BAD)
    step = next_step(PROBLEM, RULES, GOES_WELL[:2])
    assert isinstance(step, Ask)
    assert [turn.role for turn in step.messages] == ["system", "user", "assistant", "user"]
    assert step.messages[2].text == f"A plan.\n```python\n{BAD}\n```"  # the output that the model made up is removed
    assert FAILED.text in step.messages[3].text
    assert next_step(PROBLEM, RULES, GOES_WELL[:3]) == Run(GOOD)
    step = next_step(PROBLEM, RULES, GOES_WELL[:4])
    assert isinstance(step, Ask)
    assert step.messages[-1].text.endswith("Write `double`.")
    assert "single block between ```python and ```" in step.messages[-1].text
    assert step.number == 2
    assert next_step(PROBLEM, RULES, GOES_WELL[:5]) == Check(FINAL, "assert double(2) == 4")
    step = next_step(PROBLEM, RULES, GOES_WELL)
    assert isinstance(step, Completed)
    dialogue = step.dialogue
    assert dialogue.messages[0].blocks == (Block("text", instruction),)
    assert dialogue.first_round == (
        Block("text", "A plan."),
        Block("code", BAD),
        Block("execution", FAILED.text),
        Block("text", "It returns x."),
        Block("code", GOOD),
        Block("execution", ""),
    )
    assert dialogue.messages[2].blocks == (Block("text", "Write `double`."),)
    assert dialogue.final_answer == f"```python\n{FINAL}\n```"
    assert dialogue.extra["id"] == "p/1"
    assert dialogue.extra["source"] == "own"
    assert dialogue.extra["provenance"] == {
        "method": "chat",
        "model": "m",
        "seed": 0,
        "protocol": "fenced",
        "served_model": "served",
        "prompt_version": PROMPT_VERSION,
        "rounds": 2,
        "seconds": 3.875,
        "requests": 3,
        "tokens_in": 30,
        "tokens_out": 15,
    }
    assert Dialogue.from_dict(dialogue.to_dict()) == dialogue


def test_a_last_answer_that_calls_the_closed_tool_is_the_final_code() -> None:
    rules = ConversationRules(protocol="tools")
    call = {"finish": "tool_calls", "tool_id": "a"}
    events = [says("A plan.", tool_code=BAD, **call), FAILED, says("", tool_code=GOOD, **call), PASSED]
    assert next_step(PROBLEM, rules, [*events, says("", tool_code=FINAL, **call)]) == Check(
        FINAL, "assert double(2) == 4"
    )
    fenced = says(f"```python\n{FINAL}\n```", tool_code="double(3)", **call)
    assert next_step(PROBLEM, rules, [*events, fenced]) == Check(FINAL, "assert double(2) == 4")
    empty = next_step(PROBLEM, rules, [*events, says("", tool_code=" ", **call)])
    assert isinstance(empty, Dropped) and empty.rejected.reason == "no_final_code"


def test_a_message_is_recorded_and_sent_back_as_it_came() -> None:
    came = {"content": None, "reasoning_content": "Hm.", "tool_calls": [{"id": "a", "x": {"signature": "c2ln"}}]}
    call = says("", tool_code=BAD, tool_id="a", finish="tool_calls", message=came)
    step = next_step(PROBLEM, ConversationRules(protocol="tools"), [call, FAILED])
    assert isinstance(step, Ask)
    assert step.messages[-2] == Turn("assistant", "", "a", BAD, came)
    assert from_record(*json.loads(json.dumps(to_record(call)))) == call
    plain = says("", tool_code=BAD, tool_id="a")
    assert "message" not in to_record(plain)[1]  # as earlier versions wrote it
    assert from_record(*to_record(plain)) == plain


def test_tool_calls_give_the_same_sequence() -> None:
    rules = ConversationRules(protocol="tools", provenance=RULES.provenance)
    events = [
        says("A plan.", tool_code=BAD, tool_id="a", finish="tool_calls"),
        FAILED,
        says("It returns x.", tool_code=GOOD, tool_id="b", finish="tool_calls"),
        PASSED,
    ]
    step = next_step(PROBLEM, rules, ())
    assert isinstance(step, Ask)
    assert step.tools == "offered"
    step = next_step(PROBLEM, rules, events)
    assert isinstance(step, Ask)
    assert step.tools == "closed"
    assert [(turn.role, turn.tool_id) for turn in step.messages[2:]] == [
        ("assistant", "a"), ("tool", "a"), ("assistant", "b"), ("tool", "b"), ("user", ""),
    ]  # fmt: skip
    by_tools = next_step(PROBLEM, rules, [*events, *GOES_WELL[4:]])
    by_fences = next_step(PROBLEM, RULES, GOES_WELL)
    assert isinstance(by_tools, Completed)
    assert isinstance(by_fences, Completed)
    assert by_tools.dialogue.messages == by_fences.dialogue.messages
    # A code block is accepted, too, if the model writes one instead of a tool call.
    mixed = next_step(PROBLEM, rules, [GOES_WELL[0], *events[1:], *GOES_WELL[4:]])
    assert isinstance(mixed, Completed)
    assert mixed.dialogue.messages == by_fences.dialogue.messages


TIMEOUT = CellResult("timeout", "1\n2\n", message="over 5 s")
ENDINGS: dict[str, tuple[Sequence[Event], str, str]] = {
    "no code twice": ([says("Well."), says("Let me think.")], "no_code", "2 answers in a row"),
    "empty block twice": ([says("```python\n```"), says("```\n```")], "no_code", "2 answers"),
    "output only": ([says("```output\n4\n```"), says("```text\nx\n```")], "no_code", "2 answers"),
    "cut off": ([code(BAD), FAILED, says("```python\nde", finish="length")], "answer_too_long", "answer 2"),
    "first passes": ([code(GOOD), PASSED], "single_round", "the first code"),
    "first passes in two cells": (
        [code(FINAL), PASSED, code("assert double(1) == 2"), PASSED], "single_round", "the first code",
    ),
    "never": ([code(BAD), FAILED] * 8, "unresolved", "the last of 8 rounds still fails"),
    "asserts something else": (
        [code(BAD), FAILED, code(FINAL + "\nassert True"), PASSED], "idle_asserts", "no assert calls `double`",
    ),
    "never asserts": (
        [code(BAD), FAILED, *[code(FINAL), PASSED] * 7], "unresolved", "the last of 8 rounds asserts nothing",
    ),
    "opens": ([code("open('x')\n" + BAD)], "input_output", "`open` in line 1"),
    "opens later": ([code(BAD), FAILED, code("import pathlib\n" + GOOD)], "input_output", "`pathlib`"),
    "no final code": ([*GOES_WELL[:4], says("It is done.")], "no_final_code", "no code blocks"),
    "two final codes": (
        [*GOES_WELL[:4], says(f"```python\n{FINAL}\n```\nor\n```python\n{GOOD}\n```")], "several_final_codes", "2 code",
    ),
    "final in another language": ([*GOES_WELL[:4], says("```rust\nfn main\n```")], "no_final_code", "holds rust"),
    "final is no Python": ([*GOES_WELL[:4], code("def double(x:")], "no_final_code", "is not Python"),
    "final is something else": (
        [*GOES_WELL[:4], code("def triple(x):\n    return 3 * x")], "final_code_fails", "use nothing that it defines",
    ),
    "final is cut off": ([*GOES_WELL[:4], says("```python\nde", finish="length")], "answer_too_long", "answer 3"),
    "final fails": ([*GOES_WELL[:5], Checked("error: AssertionError")], "final_code_fails", "error: AssertionError"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_what_leads_nowhere_ends_with_its_reason(name: str) -> None:
    events, reason, detail = ENDINGS[name]
    for length in range(len(events)):  # it does not end earlier
        assert isinstance(next_step(PROBLEM, RULES, events[:length]), (Ask, Run, Check))
    step = next_step(PROBLEM, RULES, events)
    assert isinstance(step, Dropped)
    assert step.rejected.problem_id == "p/1"
    assert step.rejected.reason == reason
    assert detail in step.rejected.detail
    runs = sum(isinstance(event, CellResult) for event in events)
    assert (step.dialogue.rounds if step.dialogue else 0) == runs


def test_an_answer_without_code_gets_a_second_chance_and_is_part_of_the_analysis() -> None:
    events = [says("Think first."), code(BAD, "Then write."), FAILED, *GOES_WELL[2:]]
    asked = next_step(PROBLEM, RULES, events[:1])
    assert isinstance(asked, Ask)
    assert asked.messages[-1] == Turn("user", RULES.prompts.no_code)
    step = next_step(PROBLEM, RULES, events)
    assert isinstance(step, Completed)
    assert step.dialogue.first_round[0] == Block("text", "Think first.\n\nThen write.")


def test_a_cell_runs_after_the_cells_it_needs_and_only_then() -> None:
    events: list[Event] = [code("def double(x):\n    return x"), PASSED, code("assert double(2) == 4")]
    assert next_step(PROBLEM, RULES, events) == Run("assert double(2) == 4", ("def double(x):\n    return x",))
    assert next_step(PROBLEM, RULES, [*events, FAILED, code(GOOD)]) == Run(GOOD)
    # An exceeded limit ends the session, and the notebook loses its state.
    assert next_step(PROBLEM, RULES, [*events, TIMEOUT, code("assert double(1) == 2")]) == Run("assert double(1) == 2")
    asked = next_step(PROBLEM, RULES, [*events, TIMEOUT])
    assert isinstance(asked, Ask)
    assert "1\n2\nThe interpreter was stopped (over 5 s) and has lost its state." in asked.messages[-1].text


def test_events_of_another_conversation_are_refused() -> None:
    for events in ([PASSED], [code(BAD), code(BAD)], [*GOES_WELL, PASSED], [code(BAD), Checked("")]):
        with pytest.raises(ValueError, match="was due"):
            next_step(PROBLEM, RULES, events)


class Scripted:
    """A sampler that returns given answers in order."""

    name, model, fingerprint = "scripted", "m", ""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers, self.asked = list(answers), 0

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        self.asked += 1
        return self.answers[number]

    def stop(self) -> None: ...

    async def close(self) -> None: ...


PIECES = st.sampled_from(
    [
        "Plan.", "```python\ndef double(x):\n    return x\n```", f"```python\n{BAD}\n```", f"```py\n{GOOD}\n```",
        "```output\nGUESSED\n```", "```\nbare\n```", "```python\ndef", "<think>```python\nGUESSED\n```</think>",
        "open('f')", "```", "~~~\nassert 1\n~~~", "  ```python\n  x = 1\n  ```", "````\n```\n````",
    ]
)  # fmt: skip
ANSWERS = st.lists(
    st.lists(PIECES, max_size=4).map("\n".join) | st.just(f"```python\n{GOOD}\n```"), min_size=1, max_size=5
)
RESULTS = st.lists(st.sampled_from(["failed", "passed", "timeout"]), min_size=1, max_size=4)


@given(ANSWERS, RESULTS, st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_any_conversation_ends_and_goes_on_from_any_point(texts: list[str], outcomes: list[str], kept: int) -> None:
    answers = [says(texts[i % len(texts)]) for i in range(20)]
    known = {"failed": FAILED, "passed": PASSED, "timeout": TIMEOUT}
    results = [known[outcomes[i % len(outcomes)]] for i in range(20)]

    def carry_on(events: list[Event]) -> tuple[Completed | Dropped, list[Event], int]:
        sampler, recorded = Scripted(answers), list(events)

        async def run(_: Run) -> CellResult:
            return results[sum(isinstance(event, CellResult) for event in recorded)]

        async def check(_: Check) -> Checked:
            return Checked("")

        async def record(event: Event) -> None:
            recorded.append(event)

        end = asyncio.run(converse(PROBLEM, RULES, events, sampler, run, check, record))
        return end, recorded, sampler.asked

    end, events, asked = carry_on([])
    runs = sum(isinstance(event, CellResult) for event in events)
    assert runs <= 8
    assert asked == sum(isinstance(event, Answer) for event in events) <= 2 * 8 + 2
    dialogue = end.dialogue
    for block in dialogue.first_round if dialogue else ():
        assert "GUESSED" not in block.content
    # After a kill at any event, the recorded events are read back, and no request or run is repeated.
    kept = min(kept, len(events))
    stored = [json.loads(json.dumps(to_record(event))) for event in events[:kept]]
    again, all_events, asked_again = carry_on([from_record(kind, value) for kind, value in stored])
    assert again == end
    assert all_events == events
    assert asked_again == asked - sum(isinstance(event, Answer) for event in events[:kept])


EXTRACTED = {
    "marked": ("Plan.\n```python\nx = 1\n```\nOutput: 1", "Plan.", "x = 1", "Plan.\n```python\nx = 1\n```"),
    "short mark": ("```py\nx = 1\n```", "", "x = 1", "```py\nx = 1\n```"),
    "capital, attributes": ("```Python title=a\nx\n```", "", "x", "```Python title=a\nx\n```"),
    "bare": ("So:\n```\ndef f(): pass\n```", "So:", "def f(): pass", "So:\n```\ndef f(): pass\n```"),
    "bare output": ("So:\n```\n[1, 2]\n```", "So:", "", "So:\n```\n[1, 2]\n```"),
    "no code": (" Hello. ", "Hello.", "", "Hello."),
    "unclosed": ("A\n```python\nx = 1", "A", "x = 1", "A\n```python\nx = 1\n```"),
    "joined up to the asserts": (
        "A\n```python\ndef f(): pass\n```\nB\n```python\nassert f() is None\n```\nC\n```python\ny\n```",
        "A\nB", "def f(): pass\n\nassert f() is None",
        "A\n```python\ndef f(): pass\n```\nB\n```python\nassert f() is None\n```",
    ),
    "asserts come first": ("```py\nassert f()\n```\n```py\ny\n```", "", "assert f()", "```py\nassert f()\n```"),
    "made-up output between": (
        "```python\nx\n```\n```text\n3\n```\n```python\nassert x\n```", "", "x", "```python\nx\n```",
    ),
    "a new draft replaces": (
        "```python\ndef f(): 1\n```\nBetter:\n```python\ndef f(): 2\nassert 1\n```", "Better:", "def f(): 2\nassert 1",
        "```python\ndef f(): 1\n```\nBetter:\n```python\ndef f(): 2\nassert 1\n```",
    ),
    "in a list": ("1. Do\n   ```python\n   if x:\n       y\n   ```", "1. Do", "if x:\n    y",
                  "1. Do\n   ```python\n   if x:\n       y\n   ```"),
    "other language": ("```bash\npip install x\n```", "", "", "```bash\npip install x\n```"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXTRACTED)
def test_code_is_found_in_an_answer(name: str) -> None:
    text, analysis, program, kept = EXTRACTED[name]
    found = extract(text)
    assert (found.analysis, found.code, found.kept) == (analysis, program, kept)


@given(st.text(alphabet="`~a\n \tpython", max_size=60))
def test_any_text_can_be_searched_for_code(text: str) -> None:
    found = extract(text)
    if found.code:
        assert extract(found.kept).code == found.code  # the text sent back to the model has the same code


def test_code_keeps_what_its_literals_hold() -> None:
    code = 'def f():\n    return "\x0c\u2028"\n\nassert f()'
    found = extract(f"Here:\n```python\n{code}\n```\n")
    assert found.code == code and code in found.kept


@given(st.text(alphabet="`a\n ", max_size=40))
def test_shown_output_is_one_block(text: str) -> None:
    assert [block.code for block in fenced_blocks(shown(text))] == [text.strip("\n") or "(nothing)"]


@pytest.mark.parametrize(
    ("cell", "needed"),
    [
        ("assert f(1) == 2", True),
        ("def f(x): return x\nassert f(1) == 2", False),
        ("print(len([]))", False),
        ("g(1)", False),  # defined nowhere: the cell runs unchanged and fails
        ("import numpy as np\nnp.zeros(1)", False),
        ("[n for n in range(3)]", False),
        ("def broken(", False),
        ("n + 1", True),
    ],
)
def test_cells_need_earlier_ones_for_names_they_do_not_bind(cell: str, needed: bool) -> None:
    assert uses_earlier(cell, ["def f(x): return 2 * x", "def oops(", "n = 1"]) is needed


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x):\n    assert x > 0\n    return x", False),  # the assert only checks an argument
        ("def f(x):\n    assert x > 0\n    return x\nprint(f(1))", False),
        ("def f(x):\n    return x\nassert f(1) == 1", True),
        ("def f(x):\n    return x\nfor i in range(3):\n    assert f(i) == i", True),
        ("def test_f():\n    assert f(1) == 1", False),  # never called
        ("def test_f():\n    assert f(1) == 1\ntest_f()", True),
        ("def check(candidate):\n    assert candidate(1) == 1\ncheck(f)", True),
        ("def main():\n    assert f(1) == 1\nif __name__ == '__main__':\n    main()", True),
        ("print('assert')", False),
        ("def f(:\nassert f(1)", True),
        ("def f(:\n    assert 1", False),
    ],
)
def test_asserts_count_where_they_are_run_and_test_something(program: str, tests: bool) -> None:
    assert asserts_something(program) is tests


@pytest.mark.parametrize(
    ("final", "last", "earlier", "expected"),
    [
        ("def f(): return 1", "def f(): return 2\nassert f() == 1", (), "assert f() == 1"),
        ("f = lambda: 1", "def f(): return 2\nr = f()\nassert r == 1", (), "r = f()\nassert r == 1"),
        ("def f(): pass", "import math\ndef g(): f()\nassert g", (), "import math\ndef g():\n    f()\nassert g"),
        ("def f(): pass", "assert f() == a", ("a = 1\nassert f() == 2", "def f(): 1"), "a = 1\nassert f() == a"),
        ("def g(): pass", "def f(): return 2\nassert f() == 1", (), None),
        ("def f(): pass", "from __future__ import annotations\nassert f() is None", (), "assert f() is None"),
        ("class A: pass", "class A: x = 1\nassert A().x == 1", (), "assert A().x == 1"),
    ],
)
def test_the_last_asserts_are_those_of_the_last_program(
    final: str, last: str, earlier: tuple[str, ...], expected: str | None
) -> None:
    assert checks_for(final, last, earlier) == expected


def test_prompts_can_be_overridden_and_say_which_they_are(tmp_path: Path) -> None:
    assert load_prompts() == Prompts()
    path = tmp_path / "prompts.toml"
    path.write_text('reanswer = "Now the code:\\n{problem}"\nreflection = ["Go.\\n{problem}"]')
    prompts = load_prompts(path)
    assert prompts.version.startswith("file-")
    step = next_step(PROBLEM, ConversationRules(prompts), GOES_WELL[:4])
    assert isinstance(step, Ask)
    assert step.messages[1].text == "Go.\nWrite `double`."
    assert step.messages[-1].text.endswith("Now the code:\nWrite `double`.")
    path.write_text('version = "mine-1"\nreanswer = "Now:\\n{problem}"')
    assert load_prompts(path).version == "mine-1"
    assert len({Prompts().digest, prompts.digest, load_prompts(path).digest}) == 3
    for text, message in {
        "reanser = 'x'": "unknown key 'reanser'",
        "reanswer = 'no placeholder'": "key 'reanswer' lacks {problem}",
        "reflection = 1": "key 'reflection' must be text or a list of it",
        "failed = '  '": "key 'failed' must be text",
        "failed": "prompts file",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_prompts(path)
        assert message in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        load_prompts(tmp_path / "none")
