"""Sequences about word problems: a calculation fails its checks, is explained and repaired; the answer is text."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflectioncoder import BuildConfig, build
from reflectioncoder.construct.filters.sequence import apply_filters, final_code_fails
from reflectioncoder.construct.mutation.kinds import given_mutations
from reflectioncoder.construct.mutation.sequence import reflect_by_mutation
from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message, read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.interpreter.portable import run_portably
from reflectioncoder.problems.cache import load_once
from reflectioncoder.problems.generators import generated_problems
from reflectioncoder.problems.problem import GivenMistake, Problem
from reflectioncoder.syntax.answers.number import read_number

PROBLEMS = generated_problems("arithmetic", 12, 2, "train", (1, 2, 3))


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as opened:
        yield opened


@pytest.fixture(scope="module")
def sequences(interpreter: Interpreter) -> list[Dialogue]:
    found = [reflect_by_mutation(problem, interpreter, 7) for problem in PROBLEMS]
    assert all(isinstance(sequence, Dialogue) for sequence in found)
    return [sequence for sequence in found if isinstance(sequence, Dialogue)]


def test_each_sequence_reasons_calculates_fails_explains_and_repairs(
    sequences: list[Dialogue], interpreter: Interpreter
) -> None:
    kinds = Counter[str]()
    for problem, sequence in zip(PROBLEMS, sequences, strict=True):
        types = [block.type for block in sequence.first_round]
        assert types == ["text", *["code", "execution", "text"] * sequence.rounds]
        assert sequence.first_round[0].content == problem.plan
        codes, runs = ([block.content for block in sequence.first_round[n::3]] for n in (1, 2))
        pairs = list(zip(codes, runs, strict=True))
        for code, printed in pairs:  # what an execution block says is what a fresh session prints
            assert run_portably(interpreter, [code])[0].text == printed
        assert all("AssertionError" in printed for _, printed in pairs[:-1])
        assert read_number(f"Answer: {pairs[-1][1].strip()}") == read_number(problem.answer)
        assert all("assert " in code and code.endswith("print(answer())") for code, _ in pairs)
        kinds.update(sequence.extra["provenance"]["mutations"])
        assert sequence.final_answer == problem.answer and "```" not in sequence.final_answer
        assert [message.role for message in sequence.messages] == ["user", "assistant"] * 2
        assert sequence.messages[2].blocks == (Block("text", problem.instruction),)
        assert problem.instruction in sequence.messages[0].blocks[0].content
    assert len(kinds) >= 4


def test_an_analysis_names_the_wrong_line_and_the_next_program_has_the_repaired_one(sequences: list[Dialogue]) -> None:
    for problem, sequence in zip(PROBLEMS, sequences, strict=True):
        if "wrong_repairs" in sequence.extra["provenance"]:
            continue
        codes = [block.content.split("\n") for block in sequence.first_round if block.type == "code"]
        texts = [block.content for block in sequence.first_round[1:] if block.type == "text"]
        for before, after, text in zip(codes, codes[1:], texts, strict=False):
            ((bad, good),) = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            assert f"`{good.strip()}`" in text and good in (problem.solution or "")
            known = [m for m in problem.mistakes if m.wrong == bad]
            assert any(mistake.cause[1:] in text for mistake in known)


def test_the_number_of_the_answer_is_compared_with_what_the_calculation_returns(
    sequences: list[Dialogue], interpreter: Interpreter
) -> None:
    problem, sequence = PROBLEMS[0], sequences[0]
    assert apply_filters(sequence, problem) is None and final_code_fails(sequence, problem, interpreter) is None

    def answered(text: str) -> Dialogue:
        last = Message("assistant", (Block("text", text),))
        return dataclasses.replace(sequence, messages=(*sequence.messages[:-1], last))

    assert "AssertionError" in (final_code_fails(answered("Answer: 9999"), problem, interpreter) or "")
    rejected = apply_filters(answered("It is 9999."), problem)
    assert rejected is not None and rejected.reason == "no_final_number"
    rejected = apply_filters(answered("As shown above it is 3.\nAnswer: 3"), problem)
    assert rejected is not None and rejected.reason == "mentions_sequence"


def test_a_mistake_of_a_problem_must_name_a_line_of_its_solution() -> None:
    (mutation,) = given_mutations("a = 1\nb = 2\n", [GivenMistake("off", 2, "b = 3", "b is off", "write `b = 2`")])
    assert (mutation.bad, mutation.good, mutation.line) == ("b = 3", "b = 2", 2)
    assert mutation.clauses == ("b is off", "write `b = 2`")
    with pytest.raises(UserError, match="no line 9"):
        given_mutations("a = 1\n", [GivenMistake("off", 9, "b = 3", "", "")])


def test_mistakes_survive_the_cache_of_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflectioncoder.problems.cache.WORTH_IT", 1)
    from reflectioncoder.problems.cache import Loaded

    load_once("arithmetic", [1], tmp_path, lambda: Loaded(PROBLEMS))

    def never() -> Loaded:
        raise AssertionError("read again")

    assert load_once("arithmetic", [1], tmp_path, never).problems == PROBLEMS


def test_a_build_keeps_provenance_and_only_mutation_writes_such_answers(tmp_path: Path) -> None:
    config = BuildConfig(
        problems="arithmetic", levels=(2,), count=4, seed=1, workers=1, output=str(tmp_path / "build"), repeats=1
    )
    made = build(config)
    assert made.funnel == {"problems": 4, "sequences": 4}
    first = read_jsonl(made.path)[0]
    assert (first.extra["source"], first.extra["level"]) == ("arithmetic", 2)
    assert first.extra["provenance"]["method"] == "mutation"
    plain = read_jsonl(tmp_path / "build" / "instructions.jsonl")
    assert [read_number(item.final_answer) is not None for item in plain] == [True] * 4
    assert "| arithmetic | Apache-2.0 | 4 | 4 |" in (tmp_path / "build" / "README.md").read_text()
    chat = dataclasses.replace(config.chat, base_url="http://localhost:1/v1", model="m")
    other = dataclasses.replace(config, sampler="chat", chat=chat, output=str(tmp_path / "chat"))
    with pytest.raises(UserError, match="only the sampler mutation writes"):
        build(other)
    assert not (tmp_path / "chat").exists()
    assert json.loads((tmp_path / "build" / "funnel.json").read_text())["sequences"] == 4


def test_problems_without_mistakes_are_planted_bugs_as_before(interpreter: Interpreter) -> None:
    problem = Problem(
        "add", "Write `add(a, b)`.", "def add(a, b):\n    return a + b\n",
        ("assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 5) == 4"), "add",
    )  # fmt: skip
    sequence = reflect_by_mutation(problem, interpreter, 0)
    assert isinstance(sequence, Dialogue) and sequence.final_answer.startswith("```python\ndef add")
    assert sequence.first_round[0].type == "code"
