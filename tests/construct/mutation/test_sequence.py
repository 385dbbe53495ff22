"""Reflection by mutation: a sequence's text agrees with what happens when its blocks are run again."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

import pytest

from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.mutation.explain import AssertFailure, contrast, parse_assert
from reflectioncoder.construct.mutation.kinds import BUG_KINDS
from reflectioncoder.construct.mutation.reasons import CLOSINGS, EFFECTS, MISTAKEN, STILL
from reflectioncoder.construct.mutation.sequence import reflect_by_mutation
from reflectioncoder.dialogues.dialogue import Dialogue, unfenced
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.problem import Problem

DIGITS = """def multiply_digits(n):
    if n == 0:
        return 0
    product = 1
    for digit in str(n):
        product *= int(digit)
    return product
"""
LONGEST = '''def longest(words, minimum=1):
    """The longest words, in order."""
    best = []
    size = minimum
    for word in words:
        if len(word) > size:
            best = [word.lower()]
            size = len(word)
        elif len(word) == size:
            best.append(word.lower())
    return best
'''
COUNTER = """class Counter:
    def __init__(self, start=0):
        self.value = start
        self.history = []

    def add(self, amount):
        self.value += amount
        self.history.append(amount)
        return self.value

    def mean(self):
        if not self.history:
            return 0
        return sum(self.history) / len(self.history)

def run(amounts):
    counter = Counter(10)
    for amount in amounts:
        counter.add(amount)
    return counter.value, counter.mean()
"""


def problem(name: str, solution: str | None, *tests: str) -> Problem:
    return Problem(name, f"Write {name}.", solution, tests, name, source="test")


PROBLEMS = [
    problem(
        "multiply_digits",
        DIGITS,
        *(f"assert multiply_digits({n}) == {r}" for n, r in ((145, 20), (123, 6), (999, 729), (0, 0), (10, 0), (7, 7))),
    ),
    problem(
        "longest",
        LONGEST,
        "assert longest([]) == []",
        "assert longest(['a', 'BB', 'cc']) == ['bb', 'cc']",
        "assert longest(['', '']) == []",
        "assert longest(['A']) == ['a']",
        "assert longest(['abc', 'de'], minimum=4) == []",
        "assert not longest(['abc'], 4)",
    ),
    problem(
        "run",
        COUNTER,
        "assert run([]) == (10, 0)",
        "assert run([1, 2]) == (13, 1.5)",
        "assert run([-10]) == (0, -10)",
        "assert Counter().add(3) == 3",
        "assert Counter(2).mean() in (0, 0.0)",
    ),
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as one:
        yield one


@pytest.fixture(scope="module")
def made(interpreter: Interpreter) -> list[tuple[Problem, int, Dialogue]]:
    """Sequences of each problem for eight seeds; none of these problems is rejected."""
    found = []
    for one in PROBLEMS:
        for seed in range(8):
            dialogue = reflect_by_mutation(one, interpreter, seed)
            assert isinstance(dialogue, Dialogue), dialogue
            found.append((one, seed, dialogue))
    return found


def test_running_the_code_blocks_again_prints_the_recorded_text(
    made: list[tuple[Problem, int, Dialogue]], interpreter: Interpreter
) -> None:
    for one, _, dialogue in made:
        blocks = dialogue.first_round
        assert [b.type for b in blocks] == ["code", "execution", "text"] * dialogue.rounds
        results = [interpreter.run([blocks[i].content])[0] for i in range(0, len(blocks), 3)]
        assert [result.text for result in results] == [blocks[i].content for i in range(1, len(blocks), 3)]
        assert [result.outcome for result in results] == ["error"] * (dialogue.rounds - 1) + ["ok"]
        final = unfenced(dialogue.final_answer)
        assert final == (one.solution or "").strip("\n")
        assert interpreter.run(["\n".join([final, *one.tests])])[0].ok


def test_the_analysis_names_the_failing_assert_and_what_it_really_gave(
    made: list[tuple[Problem, int, Dialogue]], interpreter: Interpreter
) -> None:
    for _, _, dialogue in made:
        blocks = dialogue.first_round
        for i in range(0, len(blocks) - 3, 3):
            code, text = blocks[i].content, blocks[i + 2].content
            result = interpreter.run([code])[0]
            assert result.line is not None
            lines = code.split("\n")
            test = lines[result.line - 1]
            assert test.startswith("assert ") and test in text
            if result.exception == "AssertionError":
                call = ast.parse(test).body[0].test  # type: ignore[attr-defined]
                left = call.left if isinstance(call, ast.Compare) else call.operand
                cells = ["\n".join(lines[: result.line - 1]), f"print(repr({ast.unparse(left)}))"]
                assert f"`{interpreter.run(cells)[1].text.strip()}`" in text
            else:
                assert f"{result.exception}: {result.message}" in text


def test_each_round_repairs_one_bug_of_the_one_before(made: list[tuple[Problem, int, Dialogue]]) -> None:
    several = 0
    for one, _, dialogue in made:
        codes = [b.content.split("\n\n# ")[0] for b in dialogue.first_round if b.type == "code"]
        assert codes[-1] == (one.solution or "").strip("\n")
        assert len(set(codes)) == len(codes) == dialogue.rounds
        assert dialogue.extra["provenance"]["rounds"] == dialogue.rounds
        assert len(dialogue.extra["provenance"]["mutations"]) == dialogue.rounds - 1
        several += dialogue.rounds > 2
    assert several  # of 24 sequences, about 30 % have more than one bug


def test_the_same_seed_gives_the_same_sequence_and_another_seed_another(
    made: list[tuple[Problem, int, Dialogue]],
) -> None:
    with Interpreter() as fresh:
        one, seed, dialogue = made[3]
        assert reflect_by_mutation(one, fresh, seed) == dialogue
    assert len({d.first_round for one, _, d in made if one.id == "multiply_digits"}) >= 6


def test_one_bug_at_most_where_that_is_asked_for(interpreter: Interpreter) -> None:
    for seed in range(6):
        dialogue = reflect_by_mutation(PROBLEMS[0], interpreter, seed, max_bugs=1)
        assert isinstance(dialogue, Dialogue) and dialogue.rounds == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (problem("f", None, "assert f()"), "no solution"),
        (problem("f", "def f():\n    return 1\n"), "no tests"),
        (problem("f", "def f(:\n", "assert f()"), "solution does not parse"),
        (problem("f", "def f():\n    return 1\n", "print(f())"), "test is not a single assert"),
        (problem("f", "def f():\n    return 1\n", "assert f() == 2"), "solution fails its tests"),
        (problem("f", "def f():\n    while True:\n        pass\n", "assert f()"), "solution fails its tests"),
        (problem("f", "def f(x):\n    return x > 0\n", "assert f is not None"), "no failing mutant"),
    ],
)
def test_what_gives_no_sequence_is_rejected_with_its_reason(
    bad: Problem, reason: str, interpreter: Interpreter
) -> None:
    rejected = reflect_by_mutation(bad, interpreter, 0)
    assert isinstance(rejected, Rejected)
    assert (rejected.problem_id, rejected.reason) == ("f", reason)


@pytest.mark.parametrize(
    ("test", "call", "wanted"),
    [
        ("assert f(1) == [2]", "f(1)", "`[2]`"),
        ("assert None is f(1)", "f(1)", "`None`"),
        ("assert not f(1)", "f(1)", "a false value"),
        ("assert f(1)", "f(1)", "a true value"),
        ("assert abs(f(1) - 2) < 1e-6", "abs(f(1) - 2)", "a value < `1e-6`"),
    ],
)
def test_an_assert_is_read_as_call_and_expectation(test: str, call: str, wanted: str) -> None:
    check = parse_assert(test)
    assert (check.call, check.wanted) == (call, wanted)
    assert AssertFailure(check, "AssertionError", "").actual is None


@pytest.mark.parametrize(
    ("actual", "expected", "words"),
    [
        ("3", "2", "1 too large"),
        ("2.0", "'a'", "type `float` instead of `str`"),
        ("None", "2", ""),  # the first sentence of an analysis names both values already
        ("True", "False", ""),
        ("2.0", "2", "a float"),
        ("[1, 3]", "[1, 2, 3]", "`2` is missing"),
        ("[2, 1]", "[1, 2]", "wrong order"),
        ("[1, 2]", "[1, 3]", "item 1 is `2` instead of `3`"),
        ("'AB'", "'ab'", "upper and lower case"),
        ("{'a': 1}", "{'a': 2}", "`'a'` gets `1` instead of `2`"),
        ("f()", "2", ""),
    ],
)
def test_a_wrong_value_is_contrasted_with_the_right_one(actual: str, expected: str, words: str) -> None:
    clause = contrast(actual, expected)
    assert words in clause and bool(clause) == bool(words)


def test_some_sequences_begin_with_a_repair_that_is_wrong(made: list[tuple[Problem, int, Dialogue]]) -> None:
    wrong = [dialogue for _, _, dialogue in made if dialogue.extra["provenance"].get("wrong_repairs")]
    assert wrong and len(wrong) < len(made) / 2
    for dialogue in wrong:
        first, second, last = (b.content for b in dialogue.first_round if b.type == "code")
        programs = [text.split("\n\n# ")[0].split("\n") for text in (first, second, last)]
        assert len({len(lines) for lines in programs}) == 1
        # the wrong repair changes one line, and the right one changes that line again
        changed = [
            {n for n, (a, b) in enumerate(zip(x, y, strict=True)) if a != b} for x, y in itertools.pairwise(programs)
        ]
        assert changed[0] == changed[1] and len(changed[0]) == 1
        (line,) = changed[0]
        guess, explained = (b.content for b in dialogue.first_round[2:6:3])
        assert programs[0][line].strip() in guess and programs[1][line].strip() in guess
        assert explained.startswith(STILL)


def test_wordings_are_many_and_each_kind_says_what_it_does() -> None:
    assert len(set(CLOSINGS)) >= 40
    assert EFFECTS.keys() == BUG_KINDS.keys()
    assert len(set(EFFECTS.values())) == len(EFFECTS)
    words = {"function": "f", "test": "assert f(1)", "repairs": "the repair", "repairs_first": "The repair"}
    assert all("{" not in text.format(**words) for text in CLOSINGS)
    assert all("{" not in text.format(line="a", other="b") for text in MISTAKEN)


def test_the_analysis_says_what_the_bug_does_to_the_run(made: list[tuple[Problem, int, Dialogue]]) -> None:
    for _, _, dialogue in made:
        if dialogue.extra["provenance"].get("wrong_repairs"):
            continue
        texts = [b.content for b in dialogue.first_round if b.type == "text"]
        for kind, text in zip(dialogue.extra["provenance"]["mutations"], texts, strict=False):
            assert EFFECTS[kind] in text
