"""Rounds of a model's own debugging: what it is shown, what it reaches, and what is scored."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import tiny
from killing import ended, in_child

from reflectioncoder.cli.evaluate import rounds_table
from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.construct.prompts import reflection_instruction
from reflectioncoder.dialogues.dialogue import Block, fenced, instruction_dialogue, reflection_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.evaluate import evaluate
from reflectioncoder.evaluate.results import Result, after_rounds
from reflectioncoder.evaluate.rounds import HEADING, split_asserts, visible_tests
from reflectioncoder.generate.completions import Completion, code_of
from reflectioncoder.generate.registry import BACKENDS
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.report.paper_tables import paper_tables
from reflectioncoder.tasks.base import Prompt, Task

SHOWN = "Write `add(x)`: x plus 1.\nYour code should satisfy:\n```python\nassert add(1) == 2\n```"
PROBLEMS = [
    {"id": "add", "instruction": SHOWN, "tests": ["assert add(1) == 2", "assert add(700) == 701"]},
    {"id": "half", "instruction": "Write `half(x)`: x halved.", "tests": ["assert half(600) == 300"]},
    {"id": "good", "instruction": "Write `good(x)`: x itself.", "tests": ["assert good(500) == 500"]},
]
ADD = "def add(x):\n    return x + {}\n"
FIRST = {"add": ADD.format(3), "half": "def half(x):\n    return x\n", "good": "def good(x):\n    return x\n"}


class Scripted:
    """A back end that knows a bad first answer, and better ones by the number of earlier tries; keeps its prompts."""

    paid = False
    fingerprint = "scripted"
    seen: ClassVar[list[Prompt]] = []
    dies: ClassVar[bool] = False

    def __init__(self, config: GenerateConfig, task: Task, *_: object) -> None:
        self.prompts = {prompt.task_id: prompt for prompt in task.prompts()}
        self.wanted = {(id, 0): f"hash of {prompt}" for id, prompt in self.prompts.items()}

    def load(self) -> None:
        """There is nothing to load."""

    def answer(self, prompt: Prompt) -> str:
        name = prompt.task_id.partition("@")[0]
        if not prompt.tries:
            return fenced(FIRST[name])
        if prompt.tries[-1].output is None:  # it is asked for asserts
            return f"Sure.\n\n```python\nassert {name}(4) == {4 if name == 'good' else 2}\nassert {name}(0) == 0\n```"
        if name == "add":
            return f"It adds too much.\n\n{fenced(ADD.format(3 - len(prompt.tries)))}"
        return f"It must be halved.\n\n{fenced('def half(x):' + chr(10) + '    return x // 2')}"

    def complete(self, missing: Sequence[tuple[str, int]], keep: Callable[[Completion, int], None]) -> None:
        for id, sample in missing:
            prompt = self.prompts[id]
            if self.dies and len(prompt.tries) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen.append(prompt)
            raw = self.answer(prompt)
            keep(Completion(id, sample, code_of(raw, prompt, "chat"), raw, self.wanted[id, sample], finish="end"), 5)


@pytest.fixture(autouse=True)
def back_end() -> Iterator[None]:
    Scripted.seen, Scripted.dies = [], False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BACKENDS, "_entries", {**BACKENDS, "scripted": Scripted})
        yield


def settings(folder: Path, rounds: int, **changes: object) -> EvaluateConfig:
    problems = folder / "problems.jsonl"
    problems.write_text("".join(f"{json.dumps(row)}\n" for row in PROBLEMS))
    how = {"task": str(problems), "backend": "scripted", "output": str(folder / "first.jsonl"), **changes}
    return EvaluateConfig(
        GenerateConfig(**how),
        output=str(folder / "score"),
        rounds=rounds,
        workers=1,  # type: ignore[arg-type]
    )


def verdicts(folder: Path, name: str) -> dict[str, bool]:
    lines = (folder / "score" / name).read_text().splitlines()
    return {row["task_id"]: row["passed"] for row in map(json.loads, lines)}


def test_the_first_answers_and_what_they_become_are_both_scored(tmp_path: Path) -> None:
    score = evaluate(settings(tmp_path, 2))
    assert verdicts(tmp_path, "results.jsonl") == {"add": False, "half": False, "good": True}
    assert verdicts(tmp_path, "results_after.jsonl") == {"add": True, "half": True, "good": True}
    assert score.pass_at_1 == pytest.approx(1 / 3)
    assert score.after is not None
    assert (score.after.pass_at_1, score.after.gap) == (1.0, pytest.approx(2 / 3))
    assert (score.after.rounds, score.after.repaired, score.after.broken) == (2, 2, 0)
    saved = json.loads((tmp_path / "score" / "score.json").read_text())
    assert saved["after"]["gap"] == score.after.gap
    assert rounds_table(score.after)[0].startswith("after 2 rounds of its own debugging: pass@1 100.0%")
    assert ", 100.0 after 2 rounds (+66.7)" in paper_tables([str(tmp_path / "score")])


def test_one_round_is_not_enough_for_what_needs_two(tmp_path: Path) -> None:
    evaluate(settings(tmp_path, 1))
    assert verdicts(tmp_path, "results_after.jsonl") == {"add": False, "half": True, "good": True}


def test_the_model_never_sees_a_hidden_test(tmp_path: Path) -> None:
    evaluate(settings(tmp_path, 2))
    told = repr(Scripted.seen)
    assert "assert add(1) == 2" in told
    assert not any(number in told for number in ("700", "701", "600", "300", "500"))
    # a program that passes the asserts that it is run with is asked for nothing more
    tried = [prompt.task_id for prompt in Scripted.seen if prompt.tries and prompt.tries[-1].output is not None]
    assert tried == ["add@0", "half@0", "add@0"]


def test_the_model_sees_the_real_output_and_its_own_programs(tmp_path: Path) -> None:
    evaluate(settings(tmp_path, 2))
    last = [prompt for prompt in Scripted.seen if len(prompt.tries) == 2][-1]
    first, second = last.tries
    assert first.program == f"def add(x):\n    return x + 3\n\n{HEADING}\nassert add(1) == 2"
    with Interpreter() as interpreter:
        assert [first.output, second.output] == [interpreter.run(item.program).text for item in last.tries]
    assert "The program was run with these tests" in first.asked
    assert "AssertionError" in first.asked
    assert second.analysis == "It adds too much."


def test_a_run_that_is_killed_asks_for_no_answer_twice(tmp_path: Path) -> None:
    Scripted.dies = True
    assert not ended(in_child(lambda: evaluate(settings(tmp_path, 2))))
    Scripted.dies = False
    evaluate(settings(tmp_path, 2))
    assert [(prompt.task_id, len(prompt.tries)) for prompt in Scripted.seen] == [("add@0", 2)]
    assert verdicts(tmp_path, "results_after.jsonl") == {"add": True, "half": True, "good": True}


@pytest.mark.parametrize(
    ("changes", "rounds", "message"),
    [
        ({"prompt_style": "plain"}, 1, "rounds: need prompt_style native or chat"),
        ({}, -1, "rounds = -1: give a number of at least 0"),
    ],
)
def test_bad_settings_are_one_line(changes: dict[str, object], rounds: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(settings(tmp_path, rounds, **changes))


def test_visible_tests_are_those_of_the_prompt() -> None:
    code = 'from typing import List\n\ndef f(xs: List[int]) -> int:\n    """Sum.\n    >>> f([1, 2])\n    3\n    """\n'
    prompt = Prompt("x", f"Write a complete Python function for the problem.\n\n{code}", code)
    assert visible_tests(prompt) == ("assert f([1, 2]) == 3",)
    assert visible_tests(Prompt("y", SHOWN, "")) == ("assert add(1) == 2",)
    assert visible_tests(Prompt("z", "Write `f`. We assert that it works.", "")) == ()


def test_asserts_are_split_from_a_program() -> None:
    program = "def f(x):\n    assert x\n    return x\n\n# Test cases\nassert f(1) == 1\nassert f(\n    2\n) == 2\n"
    assert split_asserts(program) == (
        "def f(x):\n    assert x\n    return x\n",
        ("assert f(1) == 1", "assert f(\n    2\n) == 2"),
    )
    assert split_asserts("I cannot") == ("I cannot", ())


def test_the_gap_is_that_of_the_paired_problems() -> None:
    def results(*passed: bool) -> list[Result]:
        return [Result(f"p{i}", 0, one, "ok" if one else "error", "", 0.0) for i, one in enumerate(passed)]

    found = after_rounds(3, results(True, False, False, False), results(False, True, True, False))
    assert found is not None
    assert (found.pass_at_1, found.gap, found.repaired, found.broken) == (0.5, 0.25, 2, 1)
    assert found.gap_low <= 0.25 <= found.gap_high
    assert after_rounds(3, [], []) is None


@pytest.mark.slow
def test_a_model_that_knows_the_format_repairs_its_answer_in_blocks(tmp_path: Path) -> None:
    asked, bad, good = "Write `inc(x)`.", "def inc(x):\n    return x", "def inc(x):\n    return x + 1"
    test = f"\n\n{HEADING}\nassert inc(1) == 2"
    with Interpreter() as interpreter:
        failed, passed = interpreter.run(bad + test), interpreter.run(good + test)
    sequence = [
        Block("code", bad + test), Block("execution", failed.text), Block("text", "It must add 1."),
        Block("code", good + test), Block("execution", passed.text),
    ]  # fmt: skip
    lessons = [
        instruction_dialogue(asked, fenced(bad)),
        reflection_dialogue(reflection_instruction(asked), sequence, asked, bad),
    ]
    model = tiny.memorised(lessons, tmp_path / "model")
    problems = tmp_path / "inc.jsonl"
    problems.write_text(json.dumps({"id": "inc", "instruction": asked, "tests": ["assert inc(70) == 71"]}))
    how = GenerateConfig(
        model, str(problems), str(tmp_path / "first.jsonl"), max_new_tokens=100, precision="float32", device="cpu"
    )
    score = evaluate(EvaluateConfig(how, output=str(tmp_path / "score"), rounds=1, workers=1))
    assert score.pass_at_1 == 0
    assert score.after is not None and score.after.pass_at_1 == 1
    (answer,) = map(json.loads, (tmp_path / "score" / "round1.jsonl").read_text().splitlines())
    assert answer["raw"] == f"It must add 1.\n\n{fenced(good + test)}"

    # Of a model with fewer positions, a conversation that does not fit ends where it is, and the others go on.
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 200}))
    how = dataclasses.replace(how, output=str(tmp_path / "again.jsonl"))
    score = evaluate(EvaluateConfig(how, output=str(tmp_path / "short"), rounds=1, workers=1))
    assert score.after is not None and (score.after.pass_at_1, score.after.gap) == (0, 0)
    assert not (tmp_path / "short" / "round1.jsonl").exists()
