"""Masks of figure 3 derived by hand, and properties that hold for every mask rate."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.config.train import MaskingConfig
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.masking import mask_rate, visible_ranges
from reflectioncoder.train.batch.strategies import (
    Draw,
    block_mask,
    hidden_count,
    mixed_strategy,
    random_mask,
    sequential_mask,
)

# The blocks of figure 3: C E A C E A ("A", analysis, is the type `text`).
CEACEA = ["code", "execution", "text"] * 2
EAC = ("execution", "text", "code")


def letters(types: list[str], kept: list[bool]) -> str:
    return "".join(
        {"code": "C", "execution": "E", "text": "A"}[t] if k else "." for t, k in zip(types, kept, strict=True)
    )


@pytest.mark.parametrize(
    ("rate", "seen"),
    [
        (0.0, "CEACEA"),
        (0.01, "C.AC.A"),
        (1 / 3, "C.AC.A"),
        (0.34, "C..C.."),
        (2 / 3, "C..C.."),
        (0.67, "......"),
        (1.0, "......"),
    ],
)
def test_block_mask_hides_execution_then_analysis_then_code(rate: float, seen: str) -> None:
    assert letters(CEACEA, block_mask(CEACEA, rate, EAC)) == seen


@pytest.mark.parametrize(
    ("rate", "seen"), [(0.0, ".EA.EA"), (0.329, ".EA.EA"), (0.33, "..A..A"), (0.669, "..A..A"), (0.67, "......")]
)
def test_block_mask_of_the_release_starts_at_once_and_includes_its_thresholds(rate: float, seen: str) -> None:
    assert letters(CEACEA, block_mask(CEACEA, rate, ("code", "execution", "text"), "release")) == seen


@pytest.mark.parametrize(
    ("rate", "seen"), [(0.0, "CEACEA"), (0.1, ".EACEA"), (1 / 3, "..ACEA"), (0.5, "...CEA"), (1.0, "......")]
)
def test_sequential_mask_hides_the_leftmost_blocks(rate: float, seen: str) -> None:
    assert letters(CEACEA, sequential_mask(6, rate)) == seen


def test_mask_rate_is_current_step_over_max_step() -> None:
    assert [mask_rate(step, 4) for step in range(4)] == [0, 0.25, 0.5, 0.75]
    assert [mask_rate(step, 4, "release") for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@given(st.integers(1, 200), st.integers(0, 300), st.data())
def test_hidden_count_is_the_ceiling_of_the_exact_product(max_steps: int, n: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, max_steps))
    exact = Fraction(step, max_steps) * n
    assert hidden_count(n, step / max_steps) == -(-exact.numerator // exact.denominator)


def test_the_release_rounds_the_product_of_floats_up() -> None:
    assert 0.07 * 100 > 7  # 7.000000000000001
    assert [hidden_count(100, 0.07, semantics) for semantics in ("paper", "release")] == [7, 8]
    assert sequential_mask(100, 0.07, "release").count(False) == 8
    assert random_mask(100, 0.07, random.Random(0), "release").count(False) == 8


@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 9))
def test_random_mask_hides_as_many_as_sequential_and_depends_on_the_generator_only(
    n: int, rate: float, seed: int
) -> None:
    kept = random_mask(n, rate, random.Random(seed))
    assert len(kept) == n
    assert sum(kept) == sum(sequential_mask(n, rate))
    assert kept == random_mask(n, rate, random.Random(seed))


@given(
    st.lists(st.sampled_from(CEACEA), max_size=20),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["paper", "release"]),
)
def test_a_higher_rate_never_shows_more(types: list[str], a: float, b: float, semantics: str) -> None:
    low, high = sorted((a, b))
    for before, after in (
        (block_mask(types, low, EAC, semantics), block_mask(types, high, EAC, semantics)),
        (sequential_mask(len(types), low), sequential_mask(len(types), high)),
    ):
        assert all(was or not now for was, now in zip(before, after, strict=True))


def test_random_mask_reaches_every_block() -> None:
    hidden = [random_mask(6, 1 / 6, random.Random(seed)).index(False) for seed in range(100)]
    assert set(hidden) == set(range(6))


def seen(config: MaskingConfig, step: int, max_steps: int = 3, sample_seed: int = 0) -> list[int]:
    sample = tiny.encoded([("code", 2), ("execution", 1), ("text", 1)], sample_seed, user=1, question=1, answer=1)
    return [t for a, b in visible_ranges(sample, config, step, max_steps, seed=0) for t in range(a, b)]


def test_the_student_sees_bos_the_kept_blocks_and_the_second_round() -> None:
    # BOS 0 | user: 1 role, 2-4 block, 5 end | assistant: 6 role, 7-10 code, 11-13 execution, 14-16 text, 17 end
    # | user: 18 role, 19-21 block, 22 end | assistant: 23 role, 24-26 block, 27 end | EOS 28
    second = list(range(18, 29))
    code, execution, text = [7, 8, 9, 10], [11, 12, 13], [14, 15, 16]
    assert seen(MaskingConfig(), 0) == [0, *code, *execution, *text, *second]
    assert seen(MaskingConfig(), 1) == [0, *code, *text, *second]
    assert seen(MaskingConfig(), 2) == [0, *code, *second]
    assert seen(MaskingConfig("all"), 0) == [0, *second]
    assert seen(MaskingConfig("none"), 2) == [0, *code, *execution, *text, *second]
    assert seen(MaskingConfig("sequential"), 2) == [0, *text, *second]
    assert seen(MaskingConfig("sequential_token"), 1) == [0, 11, 12, 13, *text, *second]  # ceil(10 / 3) = 4 hidden
    assert seen(MaskingConfig("all", semantics="release"), 0) == second
    assert seen(MaskingConfig(semantics="release"), 0) == [*code, *second]  # rate 1/3 is above 0.33
    assert seen(MaskingConfig("none", semantics="release"), 0) == list(range(29))


def test_a_fully_masked_student_reads_what_inference_reads() -> None:
    sample = tiny.encoded([("code", 2)])
    places = [t for a, b in visible_ranges(sample, MaskingConfig("all"), 0, 1, 0) for t in range(a, b)]
    start = sample.message_bounds[2][0]
    assert [sample.ids[t] for t in places] == [sample.ids[0], *sample.ids[start:]]


@pytest.mark.parametrize("strategy", ["random", "random_token"])
def test_random_choices_depend_on_seed_step_and_sample_only(strategy: str) -> None:
    config = MaskingConfig(strategy)  # type: ignore[arg-type]
    assert seen(config, 1) == seen(config, 1)
    assert len({tuple(seen(config, 1, 3, sample)) for sample in range(20)}) > 1
    assert len({tuple(seen(config, step, 2 * step)) for step in range(1, 20)}) > 1


def test_mix_draws_per_step_and_under_release_per_sample() -> None:
    def drawn(semantics: str, step: int) -> set[str]:
        config = MaskingConfig("mix", semantics=semantics)  # type: ignore[arg-type]
        return {mixed_strategy(config, Draw(step, str(sample), 0)) for sample in range(40)}

    assert all(len(drawn("paper", step)) == 1 for step in range(10))
    assert set().union(*(drawn("paper", step) for step in range(40))) == {"block", "sequential", "random"}
    assert drawn("release", 0) == {"block", "sequential", "random"}


def test_bad_orders_and_rates_are_refused() -> None:
    with pytest.raises(UserError, match=r"masking\.order"):
        block_mask(CEACEA, 0.5, ("execution", "code", "code"))
    with pytest.raises(ValueError, match="mask rate"):
        block_mask(CEACEA, 1.5, EAC)
