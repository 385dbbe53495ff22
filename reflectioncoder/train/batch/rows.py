"""Samples to rows: teacher and student views, loss weights, costs, and the plan of the steps. Needs no torch."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.train.batch.masking import Range, visible_ranges
from reflectioncoder.train.batch.mixing import Repeats, epoch_size, times


@dataclass(frozen=True)
class Row:
    """One input sequence of the model.

    Args:
        ids: n token ids.
        positions: n position ids, increasing, possibly with gaps.
        targets: indices of the tokens that cross-entropy scores; token t is predicted at index t - 1.
        distill: indices whose next-token distribution enters the KL term, equally many in teacher and student.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    distill: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rows:
    """The rows of a sample; they stay together in one forward pass.

    Args:
        teacher: the row of the teacher, or of a plain sample.
        student: the row of the student; None for a plain sample.
        emphasis: weight of each pair of `distill` indices in the divergence, with a mean of 1; empty if all weigh 1.
    """

    teacher: Row
    student: Row | None = None
    emphasis: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens through the model."""
        return len(self.teacher.ids) + (len(self.student.ids) if self.student else 0)


def last_round(encoded: Encoded) -> Encoded:
    """The sample without its earlier rounds: BOS, the last user message, the answer, EOS."""
    start = encoded.message_bounds[-2][0]
    head = encoded.message_bounds[0][0]
    shift = start - head
    return Encoded(
        ids=encoded.ids[:head] + encoded.ids[start:],
        is_label=encoded.is_label[:head] + encoded.is_label[start:],
        spans=(),
        message_bounds=tuple((a - shift, b - shift) for a, b in encoded.message_bounds[-2:]),
        is_reflection=False,
        sample_id=encoded.sample_id,
    )


def teacher_targets(encoded: Encoded, semantics: str) -> tuple[int, ...]:
    """Indices of the tokens that the teacher's cross-entropy scores.

    `paper`: the labels of appendix C. `release`: also the `<|assistant|>` tokens and EOS.
    """
    targets = tuple(compress(range(len(encoded)), encoded.is_label))
    if semantics == "release":
        targets = tuple(sorted({*targets, *(start for start, _ in encoded.message_bounds[1::2]), len(encoded) - 1}))
    return targets


def _asked(encoded: Encoded, semantics: str) -> range:
    """Indices of the tokens of the final answer that the student's cross-entropy scores.

    Paper: everything after `<|assistant|>` up to and including `<|endofmessage|>`. Release: also `<|assistant|>`.
    """
    answer, end = encoded.message_bounds[-1]
    return range(answer if semantics == "release" else answer + 1, end)


def count_targets(encoded: Encoded, semantics: str) -> tuple[int, int, int]:
    """Numbers of teacher cross-entropy targets, student cross-entropy targets and KL terms (the last two are equal)."""
    asked = len(_asked(encoded, semantics)) if encoded.is_reflection else 0
    return len(teacher_targets(encoded, semantics)), asked, asked


def build_rows(
    encoded: Encoded,
    masking: MaskingConfig,
    positions: str,
    step: int,
    max_steps: int,
    seed: int,
    changed_weight: float = 1.0,
) -> Rows:
    """Teacher and student rows of a sample at a step (section 3.2).

    Args:
        encoded: a reflection or an instruction sample; the latter has a teacher row only.
        masking: strategy and semantics.
        positions: `keep` gives student tokens their position ids of the teacher row, `rebase` numbers them from zero.
        step: optimizer steps already taken.
        max_steps: optimizer steps of the whole run.
        seed: seed of the random choices.
        changed_weight: weight of `encoded.changed` in the divergence.
    """
    ranges = visible_ranges(encoded, masking, step, max_steps, seed) if encoded.is_reflection else []
    return rows_of(encoded, ranges, masking.semantics, positions, changed_weight)


def rows_of(
    encoded: Encoded, ranges: Sequence[Range], semantics: str, positions: str, changed_weight: float = 1.0
) -> Rows:
    """Teacher and student rows of a sample, given the token ranges the student sees; see `build_rows`."""
    length = len(encoded.ids)
    targets = teacher_targets(encoded, semantics)
    if not encoded.is_reflection:
        return Rows(Row(encoded.ids, tuple(range(length)), targets))
    asked = _asked(encoded, semantics)
    # The release applies KL at the indices of the target tokens themselves, without the shift by one.
    distill = asked if semantics == "release" else range(asked.start - 1, asked.stop - 1)
    places = tuple(chain.from_iterable(range(a, b) for a, b in ranges))
    shift = length - len(places)  # the second round is complete, so all its tokens shift left by the same amount
    student = Row(
        ids=tuple(chain.from_iterable(encoded.ids[a:b] for a, b in ranges)),
        positions=places if positions == "keep" else tuple(range(len(places))),
        targets=tuple(range(asked.start - shift, asked.stop - shift)),
        distill=tuple(range(distill.start - shift, distill.stop - shift)),
    )
    teacher = Row(encoded.ids, tuple(range(length)), targets, tuple(distill))
    return Rows(teacher, student, _emphasis(encoded, distill, changed_weight))


def _emphasis(encoded: Encoded, distill: range, changed_weight: float) -> tuple[float, ...]:
    """Weights of the tokens predicted at `distill`, with a mean of 1; empty if all weigh the same."""
    changed = set(encoded.changed)
    weights = [changed_weight if place + 1 in changed else 1.0 for place in distill]
    if len(set(weights)) == 1:
        return ()
    scale = len(weights) / sum(weights)
    return tuple(weight * scale for weight in weights)


def cost(encoded: Encoded, masking: MaskingConfig, step: int, max_steps: int, seed: int) -> int:
    """Number of tokens in the sample's rows at a step, without building the rows."""
    if not encoded.is_reflection:
        return len(encoded.ids)
    ranges = visible_ranges(encoded, masking, step, max_steps, seed)
    return len(encoded.ids) + sum(end - start for start, end in ranges)


def one_off_prompt(sample: Encoded) -> tuple[int, ...]:
    """The tokens that the student reads before its answer: BOS, the instruction, and the beginning of a text block."""
    start, answer = sample.message_bounds[-2][0], sample.message_bounds[-1][0]
    return sample.ids[: sample.message_bounds[0][0]] + sample.ids[start : answer + 2]


def least_tokens(sample: Encoded) -> int:
    """Fewest tokens that a sample of a run can put through the model, for a bound on the number of steps."""
    return 2 * len(one_off_prompt(sample)) if sample.is_reflection else len(sample)


@dataclass(frozen=True)
class Weights:
    """Weights of one predicted token of a sample: in the loss, and in the logged mean of each loss term."""

    teacher: float
    student: float
    kl: float
    teacher_mean: float
    student_mean: float
    kl_mean: float


def loss_weights(batch: Sequence[Rows], config: LossConfig) -> list[Weights]:
    """Token weights with which the loss of a global batch is a plain sum (section 3.2, last paragraph).

    The sum is the same however the batch is split into micro-batches.

    Args:
        batch: all samples of the global batch.
        config: `pooled` or `separate` cross-entropy, `sample` or `token` normalization, weight of KL.

    Returns:
        One `Weights` per sample.
    """
    counts = [
        (len(one.teacher.targets), *((len(one.student.targets), len(one.student.distill)) if one.student else (0, 0)))
        for one in batch
    ]
    return weights_of(counts, config)


def weights_of(counts: Sequence[tuple[int, int, int]], config: LossConfig) -> list[Weights]:
    """Like `loss_weights`, from the `count_targets` of each sample of the global batch."""
    totals = [sum(column) for column in zip(*counts, strict=True)]
    with_student = sum(1 for _, student, _ in counts if student)
    of_student = config.student_weight
    weights = []
    for teacher, student, kl in counts:
        if config.normalization == "token":
            means = [1 / total if total else 0.0 for total in totals]
            pooled = 1 / (totals[0] + of_student * totals[1])
            terms = means
        else:
            own = [1 / count if count else 0.0 for count in (teacher, student, kl)]
            means = [own[0] / len(counts), *(value / max(with_student, 1) for value in own[1:])]
            pooled = 1 / (teacher + of_student * student) / len(counts)
            terms = [value / len(counts) for value in own]
        pair = (pooled, pooled) if config.cross_entropy == "pooled" else (terms[0], terms[1])
        ce = (pair[0], of_student * pair[1])
        distillation = config.distillation
        if config.teacher_only:
            ce, distillation = (terms[0], 0.0), 0.0
        weights.append(Weights(*ce, distillation * terms[2], *means))
    return weights


def split_by_cost(costs: Sequence[int], micro_tokens: int, ranks: int = 1) -> list[list[int]]:
    """Spread the samples of a batch over micro-batches of similar cost.

    Samples are placed in order of decreasing cost, each into the least full micro-batch. The number of micro-batches is
    the smallest that keeps each within the budget; a single sample above the budget gets its own micro-batch.

    Args:
        costs: tokens of each sample.
        micro_tokens: maximum tokens of a micro-batch.
        ranks: the number of micro-batches is a multiple of this, so that each rank gets equally many.

    Returns:
        Indices into `costs`, each exactly once; with one rank no micro-batch is empty.
    """
    large_first = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    least = min(max(1, -(-sum(costs) // micro_tokens)), max(1, len(costs)))
    for count in range(-(-least // ranks) * ranks, len(costs) + ranks, ranks):
        heap = [(0, k) for k in range(count)]
        groups: list[list[int]] = [[] for _ in range(count)]
        for i in large_first:
            load, k = heapq.heappop(heap)
            groups[k].append(i)
            heapq.heappush(heap, (load + costs[i], k))
        if all(load <= micro_tokens or len(groups[k]) <= 1 for load, k in heap):
            return [sorted(group) for group in groups]
    raise AssertionError("as many micro-batches as samples are always enough")


def deal(groups: Sequence[list[int]], costs: Sequence[int], ranks: int, rank: int) -> list[list[int]]:
    """The micro-batches of one rank: equally many per rank, of similar cost among those that run at the same time.

    Args:
        groups: the result of `split_by_cost`.
        costs: tokens of each sample.
        ranks: number of ranks.
        rank: this rank, from 0.
    """
    if ranks == 1:
        return list(groups)
    fullest = sorted(groups, key=lambda group: (-sum(costs[i] for i in group), group))
    # The direction alternates, so that no rank always gets the largest micro-batches.
    places = [turn * ranks + (rank if turn % 2 == 0 else ranks - 1 - rank) for turn in range(len(groups) // ranks)]
    return [fullest[place] for place in places]


def sample_stream(repeats: Sequence[Repeats], seed: int) -> Iterator[int]:
    """Endless stream of sample indices, epoch after epoch; each epoch holds sample i `repeats[i]` times, reshuffled."""
    epoch = 0
    while True:
        order = [i for i, one in enumerate(repeats) for _ in range(times(one, epoch))]
        random.Random(f"{seed}:epoch:{epoch}").shuffle(order)
        yield from order
        epoch += 1


def plan_steps(
    repeats: Sequence[Repeats],
    cost_at: Callable[[int, int, int], int],
    *,
    batch_size: int,
    epochs: float,
    max_steps: int = -1,
    max_tokens: int = -1,
    seed: int = 0,
) -> list[tuple[int, ...]]:
    """Which samples each optimizer step takes.

    Args:
        repeats: how often each sample occurs in an epoch (up-sampling, `mixing.repeats_of`).
        cost_at: (sample, step, max steps) -> tokens through the model; the count depends on the mask rate and so on
            the total number of steps.
        batch_size: samples per step; the last step of a run limited by epochs may have fewer.
        epochs: passes over the data; used if neither `max_steps` nor `max_tokens` is given.
        max_steps: number of steps; -1 for no limit.
        max_tokens: the run ends with the step that reaches this many tokens; -1 for no limit.
        seed: seed of the sample order.

    Returns:
        Sample indices of every step.
    """
    if max_steps < 0 and max_tokens < 0:
        samples = list(islice(sample_stream(repeats, seed), max(1, round(epochs * epoch_size(repeats)))))
        return [tuple(samples[i : i + batch_size]) for i in range(0, len(samples), batch_size)]
    stream = sample_stream(repeats, seed)
    steps: list[tuple[int, ...]] = []

    def total(count: int) -> int:
        while len(steps) < count:
            steps.append(tuple(islice(stream, batch_size)))
        return sum(cost_at(i, step, count) for step in range(count) for i in steps[step])

    if max_tokens < 0:
        total(max_steps)
        return steps[:max_steps]
    low, high = 0, 1  # total(low) < max_tokens <= total(high)
    while total(high) < max_tokens and (max_steps < 0 or high < max_steps):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) < max_tokens else (low, middle)
    return steps[: high if max_steps < 0 else min(high, max_steps)]
