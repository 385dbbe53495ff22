"""Rows and loss weights derived by hand, packing, and the plan of the steps."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import (
    Row,
    Rows,
    build_rows,
    cost,
    last_round,
    loss_weights,
    plan_steps,
    split_by_cost,
)

# BOS 0 | user: 1 role, 2-4 block, 5 end | assistant: 6 role, 7-10 code, 11-13 execution, 14-16 text, 17 end
# | user: 18 role, 19-21 block, 22 end | assistant: 23 role, 24-26 block, 27 end | EOS 28
SAMPLE = tiny.encoded([("code", 2), ("execution", 1), ("text", 1)], user=1, question=1, answer=1)


def test_rows_of_the_paper() -> None:
    rows = build_rows(SAMPLE, MaskingConfig(), "keep", 1, 3, 0)
    assert rows.student is not None
    assert rows.teacher.positions == tuple(range(29))
    assert rows.teacher.targets == (7, 8, 9, 10, 14, 15, 16, 17, 24, 25, 26, 27)
    assert rows.teacher.distill == (23, 24, 25, 26)
    assert rows.student.positions == (0, 7, 8, 9, 10, 14, 15, 16, *range(18, 29))
    assert rows.student.ids == tuple(SAMPLE.ids[t] for t in rows.student.positions)
    assert [rows.student.positions[t] for t in rows.student.targets] == [24, 25, 26, 27]
    assert [rows.student.positions[t] for t in rows.student.distill] == [23, 24, 25, 26]
    assert rows.tokens == 29 + 19 == cost(SAMPLE, MaskingConfig(), 1, 3, 0)


def test_rows_of_the_release() -> None:
    rows = build_rows(SAMPLE, MaskingConfig("all", semantics="release"), "keep", 1, 3, 0)
    assert rows.student is not None
    assert rows.teacher.targets == (6, 7, 8, 9, 10, 14, 15, 16, 17, 23, 24, 25, 26, 27, 28)
    assert rows.teacher.distill == (23, 24, 25, 26, 27)
    assert rows.student.positions == tuple(range(18, 29))
    assert [rows.student.positions[t] for t in rows.student.targets] == [23, 24, 25, 26, 27]
    assert [rows.student.positions[t] for t in rows.student.distill] == [23, 24, 25, 26, 27]


def test_rebase_numbers_the_student_from_zero() -> None:
    rows = build_rows(SAMPLE, MaskingConfig(), "rebase", 1, 3, 0)
    assert rows.student is not None and rows.student.positions == tuple(range(19))
    assert rows.teacher.positions == tuple(range(29))


def test_last_round_is_bos_question_answer_eos() -> None:
    short = last_round(SAMPLE)
    assert short.ids == (SAMPLE.ids[0], *SAMPLE.ids[18:])
    assert short.message_bounds == ((1, 6), (6, 11))
    rows = build_rows(short, MaskingConfig(), "keep", 0, 3, 0)
    assert rows.student is None and rows.teacher.targets == (7, 8, 9, 10)
    assert last_round(tiny.encoded([], reflection=False)).ids == tiny.encoded([], reflection=False).ids


def counted(teacher: int, student: int = 0, kl: int = 0) -> Rows:
    row = Row((9,) * 50, tuple(range(50)), tuple(range(1, 1 + teacher)))
    other = Row((9,) * 50, tuple(range(50)), tuple(range(1, 1 + student)), tuple(range(kl))) if student else None
    return Rows(row, other)


def test_loss_weights_by_hand() -> None:
    batch = [counted(6, 2, 2), counted(4)]

    def weights(ce: str, norm: str, kl: float = 1.0) -> list[tuple[float, float, float]]:
        found = loss_weights(batch, LossConfig(ce, norm, kl))  # type: ignore[arg-type]
        return [(w.teacher, w.student, w.kl) for w in found]

    assert weights("pooled", "sample")[0] == pytest.approx((1 / 16, 1 / 16, 1 / 4))
    assert weights("pooled", "sample")[1][0] == pytest.approx(1 / 8)
    assert weights("separate", "sample", 0.5)[0] == pytest.approx((1 / 12, 1 / 4, 1 / 8))
    assert weights("pooled", "token") == [pytest.approx((1 / 12, 1 / 12, 1 / 2))] * 2
    assert weights("separate", "token") == [pytest.approx((1 / 10, 1 / 2, 1 / 2))] * 2


def test_pack_puts_rows_one_after_another_and_pairs_teacher_with_student() -> None:
    rows = [
        build_rows(SAMPLE, MaskingConfig(), "keep", 1, 3, 0),
        build_rows(last_round(SAMPLE), MaskingConfig(), "keep", 1, 3, 0),
    ]
    batch = pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))
    assert batch.cu_seqlens.tolist() == [0, 29, 48, 60] and batch.max_length == 29 and batch.tokens == 60
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.position_ids[0, 29:48].tolist() == list(rows[0].student.positions)  # type: ignore[union-attr]
    assert batch.index[:4].tolist() == [23, 24, 25, 26]
    assert batch.index[4:8].tolist() == [42, 43, 44, 45]
    assert batch.target[:4].tolist() == batch.target[4:8].tolist() == list(SAMPLE.ids[24:28])
    assert batch.index[8:].tolist() == [6, 7, 8, 9, 13, 14, 15, 16, 54, 55, 56, 57]
    assert batch.ce_weight.sum().item() == pytest.approx(1)
    assert batch.kl_weight.sum().item() == pytest.approx(0.5)  # one of two samples has a student
    assert [
        batch.teacher_mean.sum().item(),
        batch.student_mean.sum().item(),
        batch.kl_mean.sum().item(),
    ] == pytest.approx([1, 1, 1])


def test_release_scores_places_of_kl_without_a_label() -> None:
    rows = build_rows(SAMPLE, MaskingConfig("all", semantics="release"), "keep", 1, 3, 0)
    batch = pack([(rows, loss_weights([rows], LossConfig())[0])])
    assert len(batch.kl_weight) == 5
    # The last scored position predicts EOS, which is a label of the teacher but not of the student.
    assert batch.ce_weight[9].item() == 0 and batch.ce_weight[4].item() > 0
    assert batch.ce_weight.sum().item() == pytest.approx(1)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 300))
def test_split_uses_every_sample_once_within_the_budget(costs: list[int], budget: int) -> None:
    groups = split_by_cost(costs, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(costs)))
    assert all(len(group) == 1 or sum(costs[i] for i in group) <= budget for group in groups)
    assert groups == split_by_cost(costs, budget)


def test_split_balances() -> None:
    assert sorted(sum([5, 5, 4, 3, 3][i] for i in group) for group in split_by_cost([5, 5, 4, 3, 3], 12)) == [9, 11]


def no_cost(sample: int, step: int, max_steps: int) -> int:
    return 10


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_epochs_take_every_sample_as_often_as_up_sampled(repeats: list[int], size: int, epochs: int, seed: int) -> None:
    steps = plan_steps(repeats, no_cost, batch_size=size, epochs=epochs, seed=seed)
    taken = [i for step in steps for i in step]
    assert [taken.count(i) for i in range(len(repeats))] == [epochs * times for times in repeats]
    assert all(len(step) == size for step in steps[:-1]) and len(steps[-1]) <= size
    first = taken[: sum(repeats)]
    assert [first.count(i) for i in range(len(repeats))] == repeats
    assert steps == plan_steps(repeats, no_cost, batch_size=size, epochs=epochs, seed=seed)


def test_max_steps_and_max_tokens_bound_the_run() -> None:
    def plan(**bounds: int) -> list[tuple[int, ...]]:
        return plan_steps([1, 2, 1], no_cost, batch_size=3, epochs=1, **bounds)

    assert len(plan(max_steps=7)) == 7
    assert len(plan(max_tokens=90)) == 3  # 30 tokens per step: the third step reaches 90
    assert len(plan(max_tokens=91)) == 4
    assert len(plan(max_tokens=1)) == 1
    assert len(plan(max_tokens=900, max_steps=5)) == 5
    assert len(plan(max_tokens=90, max_steps=5)) == 3
    assert plan(max_steps=7)[:4] == plan(max_steps=4)


def test_a_token_budget_counts_the_masks_of_the_run_it_makes() -> None:
    samples = [tiny.encoded([("code", 9), ("execution", 30), ("text", 9)] * 2, seed) for seed in range(5)]

    def cost_at(i: int, step: int, max_steps: int) -> int:
        return cost(samples[i], MaskingConfig(), step, max_steps, 0)

    steps = plan_steps([1] * 5, cost_at, batch_size=2, epochs=1, max_tokens=5000)
    each = [sum(cost_at(i, s, len(steps)) for i in batch) for s, batch in enumerate(steps)]
    assert sum(each) >= 5000
    assert each[0] > each[-1]
    fewer = len(steps) - 1
    assert sum(cost_at(i, s, fewer) for s, batch in enumerate(steps[:-1]) for i in batch) < 5000


def test_another_seed_gives_another_order() -> None:
    plans = {tuple(plan_steps([1] * 10, no_cost, batch_size=5, epochs=1, seed=seed)) for seed in range(5)}
    assert len(plans) == 5
