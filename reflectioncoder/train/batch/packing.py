"""Rows to micro-batches: the tensors that go through the model.

Rows are packed one after another without padding; where one ends is told by cumulative
lengths, never by position ids, whose gaps are not boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reflectioncoder.train.batch.rows import Row, Rows, Weights


@dataclass(frozen=True)
class TeacherRows:
    """The teacher rows of a micro-batch's P pairs alone, for a teacher with weights of its own.

    Args:
        input_ids, position_ids, cu_seqlens, max_length: as in `MicroBatch`.
        index: [P], indices whose outputs are the teacher's side of the pairs.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_length: int
    index: torch.Tensor


@dataclass(frozen=True)
class MicroBatch:
    """Packed rows of some samples, and the indices that are scored.

    The first 2P of the n scored indices form P pairs: entry p belongs to a teacher row and entry P + p to its student
    row. Both predict the same token of a final answer and enter KL(teacher || student).

    Args:
        input_ids: [1, T], token ids of all rows.
        position_ids: [1, T], position of each token within its row; a student's may have gaps.
        cu_seqlens: [B + 1], int32, where rows start and end.
        max_length: tokens of the longest row.
        index: [n], index in [0, T) whose output is scored.
        target: [n], the token id to predict.
        ce_weight: [n], weight of the cross-entropy in the loss; 0 where only KL is scored.
        kl_weight: [P], weight of the pair's KL in the loss.
        teacher_mean, student_mean: [n], weights that give the logged means of the cross-entropies.
        kl_mean: [P], weights that give the logged mean of KL.
        apart: the teacher rows once more, if the teacher has weights of its own.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_length: int
    index: torch.Tensor
    target: torch.Tensor
    ce_weight: torch.Tensor
    kl_weight: torch.Tensor
    teacher_mean: torch.Tensor
    student_mean: torch.Tensor
    kl_mean: torch.Tensor
    apart: TeacherRows | None = None

    @property
    def tokens(self) -> int:
        """Tokens through the model."""
        return self.input_ids.shape[1] + (self.apart.input_ids.shape[1] if self.apart else 0)

    def to(self, device: torch.device | str) -> MicroBatch:
        """Copy to another device; copies to a GPU are asynchronous."""

        def move(value: Any) -> Any:
            if isinstance(value, TeacherRows):
                return TeacherRows(**{field.name: move(getattr(value, field.name)) for field in fields(value)})
            if not isinstance(value, torch.Tensor):
                return value
            if torch.device(device).type == "cuda":
                return value.pin_memory().to(device, non_blocking=True)
            return value.to(device)

        return MicroBatch(**{field.name: move(getattr(self, field.name)) for field in fields(self)})


def _repeated(values: Sequence[float], times: Sequence[int], kind: Any) -> NDArray[Any]:
    return np.repeat(np.array(values, dtype=kind), np.array(times, dtype=np.int64))


def _joined(parts: Sequence[Sequence[int]], starts: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Concatenate sequences of integers; `starts`, if given, is an offset added to each sequence."""
    lengths = [len(part) for part in parts]
    found = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=sum(lengths))
    return found if starts is None else found + _repeated(starts, lengths, np.int64)


def _apart(rows: Sequence[Row]) -> TeacherRows | None:
    """Pack teacher rows alone; None if there are none."""
    if not rows:
        return None
    bounds = [0, *accumulate(len(row.ids) for row in rows)]
    return TeacherRows(
        input_ids=torch.from_numpy(_joined([row.ids for row in rows]))[None],
        position_ids=torch.from_numpy(_joined([row.positions for row in rows]))[None],
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        max_length=max(len(row.ids) for row in rows),
        index=torch.from_numpy(_joined([row.distill for row in rows], bounds[:-1])),
    )


def pack(samples: Sequence[tuple[Rows, Weights]], apart: bool = False) -> MicroBatch:
    """Put the rows of samples one after another into one micro-batch, without padding.

    The tensors of the result have the dimensions T (tokens of all rows), B (rows), n (scored positions) and P (pairs
    that enter KL); see `MicroBatch` and docs/dimensions.md.

    Args:
        samples: rows and token weights of each sample, from `build_rows` and `loss_weights`. A reflection sample has
            two rows, an instruction sample one.
        apart: also pack the teacher rows of pairs alone.

    No samples give one row of one token that counts nothing: ranks of a sharded run must all make the same number of
    passes, and one that has fewer samples than passes makes up the difference with those.
    """
    samples = samples or [(Rows(Row((0, 0), (0, 1), (1,))), Weights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))]
    rows: list[Row] = []
    worth: list[tuple[float, float, float]] = []  # weights of a row's targets: loss, teacher mean, student mean
    pairs: list[tuple[int, Weights]] = []  # index of each student row; its teacher row comes just before it
    for both, weights in samples:
        rows.append(both.teacher)
        worth.append((weights.teacher, weights.teacher_mean, 0.0))
        if both.student is not None:
            pairs.append((len(rows), weights))
            rows.append(both.student)
            worth.append((weights.student, 0.0, weights.student_mean))
    bounds = [0, *accumulate(len(row.ids) for row in rows)]
    ids = _joined([row.ids for row in rows])
    # For every index: the token to predict and its weights; zeros where nothing is scored.
    asking = _joined([row.targets for row in rows], bounds[:-1]) - 1
    target = np.zeros(len(ids), dtype=np.int64)
    target[asking] = ids[asking + 1]
    counts = np.zeros((3, len(ids)))
    counts[:, asking] = np.repeat(np.array(worth).T, [len(row.targets) for row in rows], axis=1)
    distill = [
        _joined([rows[number - back].distill for number, _ in pairs], [bounds[number - back] for number, _ in pairs])
        for back in (1, 0)
    ]
    paired = np.zeros(len(ids), dtype=bool)
    for places in distill:
        paired[places] = True
    index = np.concatenate([*distill, asking[~paired[asking]]])
    each = [len(rows[number].distill) for number, _ in pairs]
    ce_weight, teacher_mean, student_mean = (torch.from_numpy(part[index]) for part in counts)
    kl_weight = _repeated([weights.kl for _, weights in pairs], each, np.float64)
    if any(both.emphasis for both, _ in samples):
        emphasis = [both.emphasis or (1.0,) * len(both.student.distill) for both, _ in samples if both.student]
        kl_weight = kl_weight * np.fromiter(chain.from_iterable(emphasis), np.float64, len(kl_weight))
    return MicroBatch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(_joined([row.positions for row in rows]))[None],
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        max_length=max(len(row.ids) for row in rows),
        index=torch.from_numpy(index),
        target=torch.from_numpy(target[index]),
        ce_weight=ce_weight,
        kl_weight=torch.from_numpy(kl_weight),
        teacher_mean=teacher_mean,
        student_mean=student_mean,
        kl_mean=torch.from_numpy(_repeated([weights.kl_mean for _, weights in pairs], each, np.float64)),
        apart=_apart([rows[number - 1] for number, _ in pairs]) if apart else None,
    )
