"""Each rank builds its share of the batch that the pure functions give, and builds the next step in advance."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

from reflectioncoder.config.train import LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, deal, loss_weights, split_by_cost
from reflectioncoder.train.batch.steps import Ahead, TrainStep, TrainSteps
from reflectioncoder.train.ranks.world import World

BLOCKS = [("code", 4), ("execution", 3), ("text", 2), ("code", 5), ("execution", 2), ("text", 3)]
SAMPLES = [tiny.encoded(BLOCKS[: 2 + i % 5], i, reflection=i % 4 != 3, answer=5 + i) for i in range(12)]


def run(**changes: Any) -> TrainConfig:
    return dataclasses.replace(TrainConfig(batch_size=9, micro_tokens=120, max_steps=8), **changes)


def same(one: TrainStep, other: TrainStep) -> None:
    assert dataclasses.replace(one, micro_batches=[]) == dataclasses.replace(other, micro_batches=[])
    for left, right in zip(one.micro_batches, other.micro_batches, strict=True):
        for field in dataclasses.fields(left):
            a, b = getattr(left, field.name), getattr(right, field.name)
            assert (a.dtype, a.tolist()) == (b.dtype, b.tolist()) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"masking": MaskingConfig("random_token", semantics="release"), "positions": "rebase"},
        {"masking": MaskingConfig("mix"), "loss": LossConfig("separate", "token", 0.5)},
    ],
)
def test_each_rank_builds_its_share_of_what_the_whole_batch_gives(changes: dict[str, Any], ranks: int) -> None:
    config = run(**changes)
    for rank in range(ranks):
        steps = TrainSteps(SAMPLES, [1] * 12, config, World(rank, ranks))
        for number in (0, 3, 7):
            rows = [
                build_rows(SAMPLES[i], config.masking, config.positions, number, 8, config.seed)
                for i in steps.plan[number]
            ]
            weights, costs = loss_weights(rows, config.loss), [one.tokens for one in rows]
            own = deal(split_by_cost(costs, 120, ranks), costs, ranks, rank)
            found = steps[number]
            expected = [pack([(rows[i], weights[i]) for i in group]) for group in own]
            same(found, dataclasses.replace(found, micro_batches=expected))
            lengths = [len(row.ids) for one in rows for row in (one.teacher, one.student) if row is not None]
            assert (found.tokens, found.squares) == (sum(lengths), sum(length**2 for length in lengths))
            targets = [len(row.targets) for one in rows for row in (one.teacher, one.student) if row is not None]
            assert found.scored == sum(targets)


def test_the_next_step_is_made_in_a_thread_and_is_the_same() -> None:
    made: list[tuple[int, bool]] = []

    class Watched(TrainSteps):
        def make(self, step: int, pause: Callable[[], object]) -> TrainStep:
            made.append((step, threading.current_thread() is threading.main_thread()))
            return super().make(step, pause)

    steps = Watched(SAMPLES, [1] * 12, run())
    ahead = Ahead(steps)
    taken = [ahead[number] for number in (0, 1, 2, 6, 7)]  # includes a jump forward and the last step
    ahead.pool.shutdown()
    assert sorted(made) == [(0, True), (1, False), (2, False), (3, False), (6, True), (7, False)]
    for number, step in zip((0, 1, 2, 6, 7), taken, strict=True):
        same(step, steps[number])


def test_what_goes_wrong_ahead_is_raised_where_it_is_needed() -> None:
    class Broken(TrainSteps):
        def make(self, step: int, pause: Callable[[], object]) -> TrainStep:
            if step == 1:
                raise MemoryError("no memory for step 1")
            return super().make(step, pause)

    ahead = Ahead(Broken(SAMPLES, [1] * 12, run()))
    ahead[0]
    with pytest.raises(MemoryError, match="no memory for step 1"):
        ahead[1]
