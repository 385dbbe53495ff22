"""Sequences from attempts: the repair is minimal, and the text is what the programs print."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import attempting
import pytest

from reflectioncoder.construct.attempts.differences import TreeDifference
from reflectioncoder.construct.attempts.sequence import AttemptSettings, find_repair, reflect_on_attempt
from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.mutation.edits import apply_edits
from reflectioncoder.construct.mutation.kinds import find_mutations
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural.problems import procedural_problems


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter(Limits(seconds=1.0)) as opened:
        yield opened


def problem(name: str) -> Problem:
    asked, solution, tests, _ = attempting.ROWS[name]
    return Problem(name, asked, solution, tests, name)


def made(name: str, interpreter: Interpreter, attempt: str = "", **changes: object) -> Dialogue | Rejected:
    settings = AttemptSettings(**changes)  # type: ignore[arg-type]
    return reflect_on_attempt(problem(name), attempt or attempting.ROWS[name][3], interpreter, settings)


def codes(dialogue: Dialogue) -> list[str]:
    return [block.content for block in dialogue.first_round if block.type == "code"]


def passes(program: str, tests: tuple[str, ...]) -> bool:
    """Whether a harmless program passes its tests; with nothing but Python."""
    try:
        exec("\n".join([program, *tests]), {})
    except Exception:
        return False
    return True


def applied(attempt: str, chosen: list[TreeDifference]) -> str:
    for item in sorted(chosen, key=lambda d: (d.edit.start, d.edit.end, d.order), reverse=True):
        attempt = attempt[: item.edit.start] + item.edit.new + attempt[item.edit.end :]
    return attempt


def test_a_repaired_attempt_passes_and_fails_with_any_edit_undone(interpreter: Interpreter) -> None:
    dice, looked, several = random.Random(7), 0, 0
    for item in procedural_problems(14, 5, "train", (1, 2)):
        assert item.solution
        bugs = [m for m in find_mutations(item.solution) if "while" not in item.solution]
        for number in (1, 2):
            try:
                attempt = apply_edits(item.solution, dice.sample(bugs, number))
            except ValueError:  # they overlap
                continue
            attempt = re.sub(r"\bresult\b", "answer", attempt)
            if passes(attempt, item.tests):
                continue
            chosen = find_repair(item, attempt, interpreter)
            assert chosen, attempt
            assert passes(applied(attempt, chosen), item.tests)
            for left_out in chosen:
                assert not passes(applied(attempt, [d for d in chosen if d is not left_out]), item.tests)
            assert len(chosen) <= 2 * number  # a step that stands in the wrong place is removed and added
            looked, several = looked + 1, several + (len(chosen) > 1)
    assert looked >= 12 and several >= 2


def test_two_mistakes_that_show_one_after_the_other_are_two_rounds(interpreter: Interpreter) -> None:
    dialogue = made("gains", interpreter)
    assert isinstance(dialogue, Dialogue)
    first, second, last = codes(dialogue)
    assert first.startswith(attempting.ROWS["gains"][3])
    assert "if x > 1" in second and "total += x\n" in second
    assert "if x > 0" in last
    executions = [block.content for block in dialogue.first_round if block.type == "execution"]
    assert "NameError: name 'y' is not defined" in executions[0]
    assert "assert gains([1, 2, -3]) == 3" in executions[1]
    assert executions[2] in ("", "All tests passed.\n", "Test passed\n", "OK\n")
    assert dialogue.extra["provenance"]["repairs"] == [["value"], ["constant"]]  # type: ignore[index]
    for code, printed in zip(codes(dialogue), executions, strict=True):
        assert interpreter.run(code).text == printed


def test_the_analysis_says_the_facts(interpreter: Interpreter) -> None:
    dialogue = made("double", interpreter)
    assert isinstance(dialogue, Dialogue)
    (analysis, _) = [block.content for block in dialogue.first_round if block.type == "text"]
    assert re.search(r"`assert double\((3|0)\) == [60]`", analysis)
    assert re.search(r"`[52]`", analysis)  # what 3 + 2 or 0 + 2 gave
    assert "n + 2" in analysis and "n * 2" in analysis
    assert dialogue.final_answer == "```python\ndef double(n):\n    return n * 2\n```"


def test_the_final_answer_may_be_the_reference(interpreter: Interpreter) -> None:
    dialogue = made("double", interpreter, answer="reference")
    assert isinstance(dialogue, Dialogue)
    assert dialogue.final_answer == "```python\ndef double(x):\n    return x * 2\n```"
    assert "def double(n):\n    return n * 2\n" in codes(dialogue)[-1]


def test_what_passes_is_a_plain_sample(interpreter: Interpreter) -> None:
    dialogue = made("last", interpreter)
    assert isinstance(dialogue, Dialogue)
    assert not dialogue.is_reflection
    assert [block.content for message in dialogue.messages for block in message.blocks] == [
        "Write `last(xs)`: the last item.",
        f"```python\n{attempting.ROWS['last'][3]}```",
    ]


def test_a_large_repair_is_kept_only_if_asked_for(interpreter: Interpreter) -> None:
    rejected = made("count", interpreter)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "repair too large"
    dialogue = made("count", interpreter, largest_repair=1.0)
    assert isinstance(dialogue, Dialogue)
    assert "len(t.split())" in codes(dialogue)[-1]


@pytest.mark.parametrize(
    ("name", "attempt", "reason"),
    [
        ("double", "  \n", "no code"),
        ("double", "I cannot help with that.", "attempt does not parse"),
        ("double", "import os\ndef double(x):\n    os.remove('/tmp/x')\n", "input_output"),
        ("double", "raise SystemExit\n", "no usable failure"),
        ("spin", attempting.ROWS["spin"][3], "no usable failure"),
    ],
)  # fmt: skip
def test_hostile_attempts_are_rejected_with_a_reason(
    name: str, attempt: str, reason: str, interpreter: Interpreter
) -> None:
    result = made(name, interpreter, attempt)
    assert isinstance(result, Rejected)
    assert result.reason == reason
