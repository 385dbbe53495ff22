"""The procedural problems are many, distinct, verified, split by composition, and the same on every machine."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from functools import lru_cache

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural.families import EVERYTHING, MICRO, PROCEDURAL_SPLITS
from reflectioncoder.problems.procedural.kinds import PROBLEM_KINDS
from reflectioncoder.problems.procedural.maps import MAPS, RULES
from reflectioncoder.problems.procedural.parts import INT_FILTERS, STR_FILTERS
from reflectioncoder.problems.procedural.problems import compositions, iter_exact, iter_texts, procedural_problems
from reflectioncoder.problems.procedural.reductions import REDUCTIONS
from reflectioncoder.problems.procedural.render import Composition, Exact, evaluate_pipeline


@lru_cache
def sampled() -> tuple[Problem, ...]:
    return tuple(procedural_problems(400, 7, "train") + procedural_problems(200, 7, "heldout"))


@lru_cache
def drawn() -> tuple[tuple[Exact, Problem], ...]:
    return tuple(itertools.islice(iter_exact(9, "train"), 400))


def passes(code: str, tests: tuple[str, ...]) -> int:
    """Number of asserts that hold, each in its own namespace."""
    held = 0
    for test in tests:
        namespace: dict[str, object] = {}
        exec(code, namespace)
        try:
            exec(test, namespace)
        except Exception:
            continue
        held += 1
    return held


@pytest.mark.slow
def test_solutions_pass_all_asserts_that_the_independent_functions_gave() -> None:
    for problem in sampled():
        assert problem.solution is not None
        assert passes(problem.solution, problem.tests) == len(problem.tests), problem


def test_every_problem_is_complete_and_short() -> None:
    for problem in sampled():
        assert len(problem.tests) >= 6 and len(set(problem.tests)) == len(problem.tests)
        assert problem.entry_point and problem.entry_point.isidentifier()
        assert f"`{problem.entry_point}(" in problem.instruction
        assert all(test.startswith(f"assert {problem.entry_point}(") for test in problem.tests)
        assert problem.solution is not None and problem.solution.count("\n") <= 14
        assert "{" not in problem.instruction and len(problem.instruction.split()) <= 65
        assert max(map(len, problem.solution.splitlines())) <= 110
    assert sum(len(p.solution or "") for p in sampled()) / len(sampled()) < 280


@pytest.mark.parametrize(
    "body",
    [
        "return None",
        "return arg",
        "return 0",
        "return ''",
        "return []",
        "return {}",
        "return -1",
        "return 1",
        "return len(arg)",
    ],
)
def test_trivial_functions_fail(body: str) -> None:
    for problem in sampled():
        assert passes(f"def {problem.entry_point}(arg):\n    {body}\n", problem.tests) < len(problem.tests), problem


def test_asserts_notice_a_changed_comparison_or_a_lost_condition() -> None:
    swaps = (
        (" > ", " >= "),
        (" < ", " > "),
        (" == ", " != "),
        (" and ", " or "),
        (" or ", " and "),
        ("[1:]", "[2:]"),
        ("max(", "min("),
        (" += ", " -= "),
    )
    changed = noticed = 0
    for problem in sampled():
        assert problem.solution is not None
        for old, new in swaps:
            if old in problem.solution:
                changed += 1
                noticed += passes(problem.solution.replace(old, new), problem.tests) < len(problem.tests)
    assert changed > 400 and noticed / changed > 0.75


def test_answers_of_problems_computed_by_hand() -> None:
    squares = Exact(Composition("ints", "", (("", "even"),), "", "", "square", "sum"), (), ((),), (), "natural")
    assert evaluate_pipeline(squares, [1, 2, -4, 3]) == 20
    assert evaluate_pipeline(squares, []) == 0
    longest = Exact(Composition("text", "skip", (("", "contains"),), "", "", "", "longest"), (), (("a",),), (), None)
    assert evaluate_pipeline(longest, "banana apple star note area") == "apple"
    assert evaluate_pipeline(longest, "banana") is None
    best = Exact(
        Composition("log", "last_wins", (("value", "gt"), ("key", "starts")), "or", "value", "", "max"),
        (),
        ((4,), ("b",)),
        (),
        -1,
    )
    assert evaluate_pipeline(best, "ann:9 bob:2 ann:3") == 2
    assert evaluate_pipeline(best, "ann:3") == -1
    digits = Exact(Composition("digits", "until_zero", (), "", "", "times", "running"), (), (), (3,), "natural")
    assert evaluate_pipeline(digits, -1302) == [3, 12]
    columns = Exact(Composition("columns", "", (("maximum", "odd"),), "", "sum", "", "list"), (), ((),), (), "natural")
    assert evaluate_pipeline(columns, [[1, 2], [4, 5]]) == [7]


@pytest.mark.slow
def test_space_is_large_at_every_level() -> None:
    size = Counter(c.level for kind in PROBLEM_KINDS for c in itertools.islice(compositions(kind), 15_000))
    assert set(size) == {1, 2, 3, 4} and sum(size.values()) >= 100_000 and min(size.values()) >= 1_000


def test_vocabularies_are_broad() -> None:
    assert len(PROBLEM_KINDS) >= 8 and len(INT_FILTERS) >= 15 and len(STR_FILTERS) >= 15 and len(RULES) >= 10
    assert sum(map(len, MAPS.values())) >= 20 and all(len(parts) >= 6 for parts in REDUCTIONS.values())
    assert sum(map(len, REDUCTIONS.values())) >= 30


@pytest.mark.slow
def test_different_keys_are_different_functions() -> None:
    """On random inputs, at most 2 % of the sampled problems behave exactly like another one of their kind."""
    agree = pairs = 0
    for name, kind in PROBLEM_KINDS.items():
        rng = random.Random(name)
        inputs = [kind.sample(rng, (2, 3, 5, "a", "e")) for _ in range(60)]
        behaviours = [tuple(repr(evaluate_pipeline(e, i)) for i in inputs) for e in _exacts(name)]
        pairs += len(behaviours)
        agree += len(behaviours) - len(set(behaviours))
    assert pairs > 300 and agree <= 0.02 * pairs


def _exacts(kind: str) -> list[Exact]:
    return [exact for exact, _ in drawn() if exact.composition.kind == kind]


def test_ids_and_instructions_are_distinct() -> None:
    assert len({p.id for p in sampled()}) == len({p.extra["key"] for p in sampled()}) == len(sampled())
    assert len({p.instruction for p in sampled()}) >= 0.99 * len(sampled())
    assert len({p.instruction.split()[0] for p in sampled()} - {f"`{p.entry_point}" for p in sampled()}) >= 6


@pytest.mark.slow
def test_splits_share_no_composition_but_share_the_parts() -> None:
    train, heldout = procedural_problems(300, 1, "train"), procedural_problems(300, 2, "heldout")
    first, second = ({p.extra["composition"] for p in problems} for problems in (train, heldout))
    assert not first & second
    parts, held_parts = ({part for key in keys for part in key.split("/")[5:6]} for keys in (first, second))
    assert len(parts & held_parts) > 20


def test_split_ignores_everything_but_the_composition() -> None:
    composition = Composition("ints", "", (("", "even"),), "", "", "", "sum")
    assert EVERYTHING.split_of(composition) == EVERYTHING.split_of(
        Composition("ints", "", (("", "even"),), "", "", "", "sum")
    )
    shares = Counter(EVERYTHING.split_of(c) for c, _ in zip(compositions("words"), range(5000), strict=False))
    assert 0.15 < shares["heldout"] / 5000 < 0.25


def test_levels_take_turns_and_can_be_chosen() -> None:
    assert Counter(p.level for p in procedural_problems(40, 3, "train")) == {1: 10, 2: 10, 3: 10, 4: 10}
    assert {p.level for p in procedural_problems(10, 3, "train", levels=(2,))} == {2}


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert procedural_problems(30, 5, "heldout")[:10] == procedural_problems(10, 5, "heldout")
    assert procedural_problems(10, 5, "heldout") != procedural_problems(10, 6, "heldout")


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_the_same_in_another_process(hash_seed: str) -> None:
    program = (
        "from reflectioncoder.problems.procedural.problems import procedural_problems\n"
        "for p in procedural_problems(25, 11, 'train'): print(p.id, repr(p.instruction), p.tests)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines() == [f"{p.id} {p.instruction!r} {p.tests}" for p in procedural_problems(25, 11, "train")]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UserError, match="split 'test': must be 'train' or 'heldout'"):
        procedural_problems(1, 1, "test")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="levels"):
        procedural_problems(1, 1, "train", levels=(5,))
    with pytest.raises(UserError, match="negative"):
        procedural_problems(-1, 1, "train")


def test_a_family_has_only_its_parts_and_three_splits_that_share_no_composition() -> None:
    splits = {split: list(itertools.islice(iter_exact(4, split, (1, 2), MICRO), 150)) for split in PROCEDURAL_SPLITS}
    keys = {split: {exact.composition.key for exact, _ in found} for split, found in splits.items()}
    assert not keys["pretrain"] & keys["train"] and not keys["train"] & keys["heldout"]
    assert not keys["pretrain"] & keys["heldout"]
    for split, found in splits.items():
        parts = [
            {exact.composition.map, exact.composition.reduction, *(key for _, key in exact.composition.filters)}
            for exact, _ in found
        ]
        assert {exact.composition.kind for exact, _ in found} == {"ints"}
        assert not any(exact.composition.rule for exact, _ in found)
        new = sum(bool(part & MICRO.new) for part in parts)
        assert new == 0 if split == "pretrain" else new > 60
        for _, problem in found[:30]:
            assert passes(problem.solution or "", problem.tests) == len(problem.tests)


def test_texts_are_written_as_problems_are_and_never_end() -> None:
    texts = list(itertools.islice(iter_texts(4, "pretrain", (1,), MICRO), 3000))
    assert len(set(texts)) > 2000  # more than the split has problems: wordings differ
    for instruction, solution in texts[:200]:
        name = solution.split("(")[0].removeprefix("def ")
        assert f"`{name}(" in instruction
        compile(solution, "solution", "exec")


def test_a_family_without_pre_training_has_no_such_split() -> None:
    with pytest.raises(UserError, match="split 'pretrain'"):
        procedural_problems(1, 1, "pretrain")
