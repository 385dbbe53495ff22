"""Arithmetic word problems: each is worked out again from its text alone, and no sequence of steps is in two splits."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import islice

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.problems import arithmetic
from reflectioncoder.problems.arithmetic import (
    ENDING,
    LEVELS,
    NEW_STEPS,
    iter_story_problems,
    iter_story_texts,
    story_compositions,
    story_split,
)
from reflectioncoder.problems.generators import generated_problems
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural.families import PROCEDURAL_SPLITS
from reflectioncoder.syntax.answers.number import read_number

# What the sentences of a story mean, written down from the sentences alone: n is the sentence's number, x what was.
MEANINGS: tuple[tuple[str, Callable[[Fraction, int], Fraction]], ...] = (
    (r"finds (another )?\d+|buys \d+|brings \d+|adds \d+|earns \d+|he gets \d+ coins", lambda x, n: x + n),
    (r"loses \d+|\d+ \w+ get lost|gives \d+ of them|gets \d+ of the|spends \d+|pays \d+", lambda x, n: x - n),
    (r"\d+ times as many|[Ee]ach \w+ holds \d+|\d+ \w+ in every|for \d+ coins", lambda x, n: x * n),
    (r"packs them into \w+ of \d+|\d+ in each|among \d+ friends|\d+ friends get", lambda x, n: x / n),
    (r"wants to have \d+|needs \d+", lambda x, n: n - x),
    (r"(has|owns only) \d+", lambda x, n: x - n),
)


def worked_out(instruction: str) -> Fraction:
    """The answer, from the sentences of a story: each number changes what was there before by what is said of it."""
    first, *others = [text for text in re.split(r"[.?] ?", instruction.removesuffix(ENDING)) if re.search(r"\d", text)]
    value = Fraction(re.search(r"\d+", first).group())  # type: ignore[union-attr]
    for sentence in others:
        (number,) = re.findall(r"\d+", sentence)
        value = next(meaning for words, meaning in MEANINGS if re.search(words, sentence))(value, int(number))
    return value


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return [problem for split in PROCEDURAL_SPLITS for problem in islice(iter_story_problems(5, split), 400)]


def test_every_answer_is_right_by_the_story_the_equations_and_the_calculation(problems: list[Problem]) -> None:
    for problem in problems:
        number = worked_out(problem.instruction)
        assert read_number(problem.answer) == number, problem.instruction
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", problem.answer)
        assert len(equations) == problem.level
        for left, operator, right, result in equations:
            assert eval(f"Fraction({left}) {operator} {right}") == int(result)
        assert int(equations[-1][3]) == number
        space: dict[str, Callable[[], int]] = {}
        exec(problem.solution or "", space)
        assert space["answer"]() == number


def test_checks_hold_for_the_solution_and_do_not_repeat_it(problems: list[Problem]) -> None:
    for problem in problems:
        space: dict[str, object] = {}
        exec("\n".join([problem.solution or "", *problem.tests]), space)
        undone, recomputed = problem.tests
        assert recomputed.startswith("assert answer() == ")
        assert str(problem.extra["numbers"][-1]) in undone.split("answer()")[1]
        assert not re.search(r"== \d+$", recomputed)  # never the bare result


def test_mistakes_change_one_line_and_checks_find_those_that_are_wrong(problems: list[Problem]) -> None:
    wrong = Counter[str]()
    for problem in problems[::16]:
        lines = (problem.solution or "").split("\n")
        for mistake in problem.mistakes:
            program = "\n".join([*lines[: mistake.line - 1], mistake.wrong, *lines[mistake.line :]])
            assert ast.dump(ast.parse(program)) != ast.dump(ast.parse(problem.solution or ""))
            space: dict[str, Callable[[], int]] = {}
            exec(program, space)
            if space["answer"]() != worked_out(problem.instruction):
                wrong[mistake.kind] += 1
                with pytest.raises(AssertionError):
                    exec("\n".join(problem.tests), space)
    assert set(wrong) == {"wrong_operation", "swapped_operands", "missed_step", "off_by_one", "wrong_quantity"}
    assert min(wrong.values()) > 20


def test_no_composition_is_in_two_splits_and_every_level_has_all_three(problems: list[Problem]) -> None:
    found: dict[str, set[str]] = {split: set() for split in PROCEDURAL_SPLITS}
    for problem in problems:
        found[problem.id.split("/")[1]].add(problem.extra["composition"])
    assert not found["train"] & found["heldout"] and not found["pretrain"] & (found["train"] | found["heldout"])
    for level in LEVELS[:3]:
        splits = Counter(story_split(*composition) for composition in story_compositions(level))
        assert set(splits) == set(PROCEDURAL_SPLITS)
        assert 0.1 < splits["heldout"] / splits.total() < 0.3
    assert {problem.level for problem in problems} == set(LEVELS)
    assert all(problem.level == len(problem.extra["numbers"]) - 1 for problem in problems)


def test_sums_without_a_story_are_right_and_in_pre_training_only() -> None:
    texts = [text for text in islice(iter_story_texts(2, "pretrain", (1, 4)), 400) if "Answer" not in text[1]]
    assert 150 < len(texts) < 250
    for asked, told in texts:
        sums = re.findall(r"(\d+ [-+*/] \d+) = (\d+)", told)
        assert asked == f"Calculate {', '.join(left for left, _ in sums)}." and len(sums) == 4
        assert all(eval(left) == int(right) for left, right in sums)
    assert all("Answer" in told for _, told in islice(iter_story_texts(2, "train", (1, 4)), 100))


def test_values_stay_in_the_range_of_the_level(problems: list[Problem]) -> None:
    largest = {1: 40, 2: 40, 3: 80, 4: 120}
    for problem in problems:
        values = [int(value) for value in re.findall(r"= (\d+)", problem.answer)]
        assert min(values) >= 1 and max([*values, *problem.extra["numbers"]]) <= largest[problem.level or 0]


def test_pre_training_never_sees_the_new_kinds_of_steps() -> None:
    texts = "\n".join(
        instruction + answer for instruction, answer in islice(iter_story_texts(1, "pretrain", (1, 2)), 2000)
    )
    for words in ("friends", "needed", "wants", "Compared", "owns only", "sells", "sold"):
        assert words not in texts
    for words in ("finds", "bags of", "times as many", "spends", "Calculate "):
        assert words in texts
    assert set(arithmetic.STEP_KINDS) >= NEW_STEPS


def test_problems_depend_on_seed_and_split_only_and_a_longer_list_begins_with_a_shorter_one() -> None:
    first = generated_problems("arithmetic", 40, 3, "heldout", (2, 3))
    assert generated_problems("arithmetic", 12, 3, "heldout", (2, 3)) == first[:12]
    assert generated_problems("arithmetic", 12, 4, "heldout", (2, 3)) != first[:12]
    assert len({problem.id for problem in first}) == len({problem.instruction for problem in first}) == 40


def test_bad_input_is_one_line() -> None:
    for seed, split, levels in ((0, "test", (1,)), (0, "train", (5,)), (0, "train", ())):
        with pytest.raises(UserError) as error:
            next(iter_story_problems(seed, split, levels))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="must not be negative"):
        generated_problems("arithmetic", -1, 0, "heldout", (1,))
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        generated_problems("arithmetics", 1, 0, "train", (1,))
