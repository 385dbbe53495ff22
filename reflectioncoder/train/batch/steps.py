"""The optimizer steps of a run: its samples, and what each step trains on.

A step depends only on samples, configuration and step number, so ranks, resumed runs and dry runs agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.dialogues.tokens import ANSWER_PREFIX, BLOCK_TOKENS, Encoded, encode_content, encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.changed import changed_tokens
from reflectioncoder.train.batch.dropping import drop_blocks
from reflectioncoder.train.batch.labels import choose_labels
from reflectioncoder.train.batch.masking import Range, mask_rate, visible_ranges, visible_shares
from reflectioncoder.train.batch.mixing import Repeats, epoch_size, numbers, repeats_of
from reflectioncoder.train.batch.packing import MicroBatch, pack
from reflectioncoder.train.batch.rows import (
    cost,
    count_targets,
    deal,
    last_round,
    least_tokens,
    one_off_prompt,
    plan_steps,
    rows_of,
    split_by_cost,
    weights_of,
)
from reflectioncoder.train.data import check_reflections
from reflectioncoder.train.ranks.world import World

SAMPLES_BETWEEN_PAUSES = 16
PAUSE = 0.01  # seconds
SAMPLED_RATES = 12  # mask rates at which the mean cost of a sample over a run is taken


@dataclass(frozen=True)
class TrainStep:
    """One rank's share of a global batch.

    Args:
        micro_batches: micro-batches of this rank; their losses, summed over all ranks, are the loss of the batch.
        mask_rate: mask rate of the step, in [0, 1].
        tokens: tokens through the model, on all ranks.
        scored: indices that have a target, on all ranks.
        squares: sum of the squared row lengths, on all ranks.
        visible: shares of the block tokens that students see, from `masking.visible_shares`.
        again: the part of `tokens` without a backward pass: decoding, and rows of a teacher with weights of its own.
        teacher_tokens, decoded_tokens: parts of `tokens`, for the objective `on_policy`, whose steps are not planned.
    """

    micro_batches: list[MicroBatch]
    mask_rate: float
    tokens: int
    scored: int
    squares: int
    visible: dict[str, float]
    again: int = 0
    teacher_tokens: int = 0
    decoded_tokens: int = 0


class TrainSteps(Dataset[TrainStep]):
    """The optimizer steps of a run: item s is this rank's share of step s.

    Args:
        samples: encoded samples, with measured influences if the configuration needs them.
        repeats: how often each sample occurs in an epoch.
        config: configuration of the run.
        world: the ranks that share a global batch; each gets the same number of micro-batches.
    """

    def __init__(
        self, samples: Sequence[Encoded], repeats: Sequence[Repeats], config: TrainConfig, world: World | None = None
    ) -> None:
        samples = [drop_blocks(sample, config.masking.drop) for sample in samples]
        # Without students, a sequence is a plain sample of several rounds.
        only = config.loss.teacher_only
        self.samples = [dataclasses.replace(sample, is_reflection=False) for sample in samples] if only else samples
        self.config = config
        self.world = world or World()
        self.epoch_size = epoch_size(repeats)
        # Masks that depend on measured values are made step by step, and the tokens of a run are not known before it.
        self.own_answers = config.objective == "on_policy"
        self.adaptive = self.own_answers or (config.masking.schedule == "kl" and not only)
        self.by_tokens = self.adaptive and config.max_tokens > 0
        self.plan = plan_steps(
            repeats,
            self.least_cost if self.by_tokens else self.cost,
            batch_size=config.batch_size,
            epochs=config.epochs,
            max_steps=config.max_steps,
            max_tokens=config.max_tokens,
            seed=config.seed,
        )

    def cost(self, sample: int, step: int, max_steps: int) -> int:
        """Number of tokens in a sample's rows at a step; an estimate if the model has yet to answer it."""
        found = self.samples[sample]
        if self.own_answers and found.is_reflection:  # decoded, and read by the student: as long as the reference
            answer, end = found.message_bounds[-1]
            return len(found) + 2 * (len(one_off_prompt(found)) + end - answer) + self.again(found)
        return cost(found, self.config.masking, step, max_steps, self.config.seed) + self.again(found)

    def least_cost(self, sample: int, step: int, max_steps: int) -> int:
        """The smallest number of tokens that a sample's rows can have, with everything hidden; bounds the steps."""
        return least_tokens(self.samples[sample]) if self.own_answers else self.cost(sample, 1, 1)

    def again(self, sample: Encoded) -> int:
        """Number of tokens that a teacher with weights of its own reads of a sample."""
        return len(sample) if self.config.loss.teacher == "average" and sample.is_reflection else 0

    def teacher_tokens(self, steps: int) -> int:
        """Number of tokens in the teacher rows, plain samples among them, of the first `steps` steps."""
        samples = (self.samples[i] for chosen in self.plan[:steps] for i in chosen)
        return sum(len(sample) + self.again(sample) for sample in samples)

    def passes(self, steps: int) -> float:
        """Passes over the (up-sampled) data in the first `steps` steps."""
        return sum(map(len, self.plan[:steps])) / self.epoch_size

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> TrainStep:
        return self.make(step, lambda: None)

    def make(self, step: int, pause: Callable[[], object], rate: float | None = None) -> TrainStep:
        """Build a step.

        Args:
            step: number of the step, from 0.
            pause: called after every few milliseconds of work.
            rate: mask rate in [0, 1]; by default that of the step.
        """
        config, max_steps, semantics = self.config, len(self.plan), self.config.masking.semantics
        rate = mask_rate(step, max_steps, semantics) if rate is None else rate
        samples = [self.samples[i] for i in self.plan[step]]
        # Weights and costs need the counts of all samples; rows are built only for this rank's samples.
        ranges: list[list[Range]] = []
        counts: list[tuple[int, int, int]] = []
        for number, sample in enumerate(samples):
            seen = sample.is_reflection and visible_ranges(sample, config.masking, step, max_steps, config.seed, rate)
            ranges.append(seen or [])
            counts.append(count_targets(sample, semantics))
            if number % SAMPLES_BETWEEN_PAUSES == 0:
                pause()
        weights = weights_of(counts, config.loss)
        lengths = [(len(sample), sum(b - a for a, b in seen)) for sample, seen in zip(samples, ranges, strict=True)]
        again = [self.again(sample) for sample in samples]
        costs = [sum(pair) + more for pair, more in zip(lengths, again, strict=True)]
        groups = split_by_cost(costs, config.micro_tokens, self.world.size)
        batches: list[MicroBatch] = []
        for group in deal(groups, costs, self.world.size, self.world.rank):
            changed = config.loss.changed_weight
            rows = [rows_of(samples[i], ranges[i], semantics, config.positions, changed) for i in group]
            pairs = [(one, weights[i]) for one, i in zip(rows, group, strict=True)]
            batches.append(pack(pairs, config.loss.teacher == "average"))
            pause()
        return TrainStep(
            micro_batches=batches,
            mask_rate=rate,
            tokens=sum(costs),
            scored=sum(teacher + student for teacher, student, _ in counts),
            squares=sum(teacher**2 + student**2 for teacher, student in lengths),
            visible=visible_shares(samples, ranges),
            again=sum(again),
        )


class Numbers(Dataset[int]):
    """The numbers of the steps, for a run that makes each step when the one before is done.

    Args:
        steps: the steps of the run.
    """

    def __init__(self, steps: TrainSteps) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> int:
        return step


class Ahead(Dataset[TrainStep]):
    """Steps with prefetching: a background thread builds the next step while the current one runs.

    A thread is used instead of a process: no data has to be transferred, and nothing is forked while a GPU is in use.
    Threads share Python's global interpreter lock, so a busy prefetch thread would delay the main thread, which
    launches the GPU kernels. The prefetch thread therefore sleeps between pieces of work unless its result is already
    needed.

    Args:
        steps: the steps of the run.
    """

    def __init__(self, steps: TrainSteps) -> None:
        self.steps = steps
        self.pool = ThreadPoolExecutor(1, "next step")
        self.pending: dict[int, Future[TrainStep]] = {}
        self.wanted = Event()

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> TrainStep:
        self.wanted.set()
        pending = self.pending.pop(step, None)
        found = pending.result() if pending else self.steps[step]
        self.wanted.clear()
        following = step + 1
        if following < len(self):
            self.pending = {following: self.pool.submit(self.steps.make, following, partial(self.wanted.wait, PAUSE))}
        return found


def prepare(
    dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, config: TrainConfig, to_train_on: bool = True
) -> tuple[list[Encoded], list[Repeats], int]:
    """Encode the samples of a run; samples longer than `max_length` are dropped.

    Args:
        dialogues: the dialogues of the files in `config.data`.
        tokenizer: tokenizer with the special tokens added.
        config: configuration of the run.
        to_train_on: require at least one reflection sequence if the objective needs them.

    Returns:
        The samples, with their index in the data as id; how often each occurs in an epoch (as `mix` says, for every
        objective alike, so that objectives see the same samples); and the number of dropped samples.

    Raises:
        UserError: no samples remain, no reflection sequence among them, or the tokenizer has no BOS token to begin a
            sample with.
    """
    if not dialogues:
        raise UserError(f"data {', '.join(config.data)}: no samples found")
    if to_train_on and config.objective != "instruction" and not any(dialogue.is_reflection for dialogue in dialogues):
        raise UserError(
            f"data {', '.join(config.data)}: none of the {len(dialogues)} samples is a reflection sequence; add some "
            '(reflectioncoder build), or set objective = "instruction"'
        )
    if tokenizer.bos_token_id is None and config.bos == "required":
        raise UserError(
            f"model {config.model}: its tokenizer has no BOS token to begin samples with; name one in "
            'tokenizer_config.json, or set bos = "none", as the recipes for Qwen do'
        )
    samples = []
    fence = [encode_content(text, tokenizer, BLOCK_TOKENS["text"]) for text in (ANSWER_PREFIX, "\n```")]
    for number, dialogue in enumerate(dialogues):
        encoded = encode_dialogue(dialogue, tokenizer, sample_id=str(number))
        if config.loss.changed_weight != 1.0 and encoded.is_reflection:
            encoded = dataclasses.replace(encoded, changed=changed_tokens(encoded, *fence))
        encoded = choose_labels(encoded, config.loss.labels)
        samples.append(last_round(encoded) if config.objective == "instruction" else encoded)
    fits = [len(sample) <= config.max_length for sample in samples]
    kept = [sample for sample, fit in zip(samples, fits, strict=True) if fit]
    if not kept:
        shortest = min(len(sample) for sample in samples)
        raise UserError(
            f"data {', '.join(config.data)}: all {len(samples)} samples are longer than max_length = "
            f"{config.max_length} tokens (the shortest has {shortest}); raise max_length"
        )
    if to_train_on:
        lengths = [len(sample) for sample in samples if sample.is_reflection]
        check_reflections(config, lengths, [length for length in lengths if length <= config.max_length])
    reflections = [dialogue.is_reflection for dialogue, fit in zip(dialogues, fits, strict=True) if fit]
    repeats = repeats_of(kept, reflections, config, partial(mean_cost, config=config)) if to_train_on else []
    return kept, repeats, len(samples) - len(kept)


def mean_cost(sample: Encoded, config: TrainConfig) -> float:
    """Mean number of tokens in a sample's rows over the mask rates of a run."""
    if config.loss.teacher_only or not sample.is_reflection:
        return len(sample)
    again = len(sample) if config.loss.teacher == "average" else 0
    costs = [cost(sample, config.masking, step, SAMPLED_RATES, config.seed) for step in range(SAMPLED_RATES)]
    return again + sum(costs) / SAMPLED_RATES


def data_digest(samples: Sequence[Encoded], repeats: Sequence[Repeats], held_out: Sequence[Encoded]) -> str:
    """Hash of a run's samples (tokens, labels and order); a run is resumed only with the same samples."""
    found = hashlib.sha256(array("Q", [len(samples), len(held_out), *numbers(repeats)]).tobytes())
    for sample in (*samples, *held_out):
        found.update(array("Q", [len(sample)]).tobytes())
        found.update(array("I", sample.ids).tobytes() + bytes(sample.is_label))
    return found.hexdigest()


def count_instructions(samples: Sequence[Encoded]) -> int:
    """Number of different last instructions; a sequence and a plain sample of one problem have the same."""
    return len({sample.ids[start:end] for sample in samples for start, end in [sample.message_bounds[-2]]})


def summary(samples: Sequence[Encoded], dropped: int, config: TrainConfig) -> str:
    """One-line summary of what `prepare` returned."""
    reflections = sum(sample.is_reflection for sample in samples)
    text = f"{len(samples)} samples ({reflections} reflection, {len(samples) - reflections} plain)"
    return text + (f"; dropped {dropped} longer than {config.max_length} tokens" if dropped else "")
