"""Measured influence of each block of a reflection sequence on the likelihood of its final answer.

A block's influence is what the final answer's mean log-probability loses when the student does not see that block, all
others being visible. Blocks that repeat each other have little influence one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.train.batch.masking import Range
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import Row, Rows, Weights, rows_of, split_by_cost
from reflectioncoder.train.compute.loss import token_losses
from reflectioncoder.train.ranks.world import World

UNWEIGHTED = Weights(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Measured:
    """Influences of the blocks of some samples.

    Args:
        values: for each sample, the influence of each block of its first answer, in nats per token of the final answer;
            empty for plain samples.
        tokens: tokens through the model.
    """

    values: list[tuple[float, ...]]
    tokens: int


def without(sample: Encoded, hidden: int | None, config: TrainConfig) -> Row:
    """The student's row of a sample, with all blocks visible but one.

    Args:
        sample: a reflection sample.
        hidden: number of the hidden block in the first answer; None hides none.
        config: `positions`, and `masking.semantics`.
    """
    (first, _), _, (second, _) = sample.message_bounds[:3]
    ranges: list[Range] = [(0, first)] if first > 0 and config.masking.semantics == "paper" else []
    spans = [span for span in sample.spans if span.message == 1]
    ranges += [(span.start, span.end) for number, span in enumerate(spans) if number != hidden]
    student = rows_of(sample, [*ranges, (second, len(sample))], config.masking.semantics, config.positions).student
    assert student is not None
    return Row(student.ids, student.positions, student.targets)


@torch.no_grad()
def measure_influence(
    model: Any, samples: Sequence[Encoded], config: TrainConfig, world: World | None = None
) -> Measured:
    """Measure the influence of every block with the weights that a model has now.

    Each sample with n blocks takes n + 1 rows; every rank measures its share.

    Args:
        model: a causal language model with `packed_attention.use_varlen_attention` applied.
        samples: encoded samples.
        config: `positions`, `masking.semantics` and `micro_tokens`.
        world: the ranks of the run.
    """
    world = world or World()
    was_training = model.training
    model.eval()
    blocks = [sum(span.message == 1 for span in sample.spans) if sample.is_reflection else 0 for sample in samples]
    starts = [0]
    for count in blocks:
        starts.append(starts[-1] + (count + 1 if count else 0))
    means = torch.zeros(starts[-1] + 1, dtype=torch.float64, device=model.device)  # the last entry counts tokens
    own = [place for place, count in enumerate(blocks) if count][world.rank :: world.size]
    tasks = [(place, hidden) for place in own for hidden in (None, *range(blocks[place]))]
    rows = [without(samples[place], hidden, config) for place, hidden in tasks]
    costs = [len(row.ids) for row in rows]
    for group in split_by_cost(costs, config.micro_tokens) if rows else []:
        batch = pack([(Rows(rows[i]), UNWEIGHTED) for i in group]).to(model.device)
        losses = token_losses(model, batch)
        sizes = [len(rows[i].targets) for i in group]
        for i, part in zip(group, losses.split(sizes), strict=True):
            place, hidden = tasks[i]
            means[starts[place] + (0 if hidden is None else hidden + 1)] = part.double().mean()
        means[-1] += batch.tokens
    found = world.total(means).tolist()
    model.train(was_training)
    values = [
        tuple(found[starts[place] + 1 + block] - found[starts[place]] for block in range(count))
        for place, count in enumerate(blocks)
    ]
    return Measured(values, round(found[-1]))
