"""The optimizer steps of a run: which samples there are, and what each step trains on.

A step is a function of samples, configuration and its number alone, so ranks, resumed runs and dry runs agree.
"""

from __future__ import annotations

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
from reflectioncoder.dialogues.tokens import Encoded, encode
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.masking import Range, mask_rate, visible_ranges, visible_shares
from reflectioncoder.train.batch.packing import MicroBatch, pack
from reflectioncoder.train.batch.rows import (
    cost,
    count_targets,
    deal,
    last_round,
    plan_steps,
    rows_of,
    split_by_cost,
    weights_of,
)
from reflectioncoder.train.ranks.world import World

SAMPLES_BETWEEN_PAUSES = 16
PAUSE = 0.01  # seconds


@dataclass(frozen=True)
class Step:
    """What one rank does of a global batch.

    Args:
        micro_batches: of this rank; their losses, summed over all ranks, are the loss of the batch.
        mask_rate: it was made with.
        tokens: through the model, on all ranks.
        scored: places that have a target, on all ranks.
        squares: of the rows' lengths, added up on all ranks.
        visible: shares of the blocks that students see, of `trackers.visible_shares`.
    """

    micro_batches: list[MicroBatch]
    mask_rate: float
    tokens: int
    scored: int
    squares: int
    visible: dict[str, float]


class Steps(Dataset[Step]):
    """The optimizer steps of a run: item s is this rank's share of step s.

    Args:
        samples: encoded samples.
        repeats: how often an epoch has each.
        config: of the run.
        world: the ranks a global batch is spread over; each gets the same number of micro-batches.
    """

    def __init__(
        self, samples: Sequence[Encoded], repeats: Sequence[int], config: TrainConfig, world: World | None = None
    ) -> None:
        self.samples = samples
        self.config = config
        self.world = world or World()
        self.plan = plan_steps(
            repeats,
            self.cost,
            batch_size=config.batch_size,
            epochs=config.epochs,
            max_steps=config.max_steps,
            max_tokens=config.max_tokens,
            seed=config.seed,
        )

    def cost(self, sample: int, step: int, max_steps: int) -> int:
        """Tokens that a sample brings through the model at a step."""
        return cost(self.samples[sample], self.config.masking, step, max_steps, self.config.seed)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> Step:
        return self.make(step, lambda: None)

    def make(self, step: int, pause: Callable[[], object]) -> Step:
        """A step; `pause` is called after every few milliseconds of work."""
        config, max_steps, semantics = self.config, len(self.plan), self.config.masking.semantics
        samples = [self.samples[i] for i in self.plan[step]]
        # Weights and costs depend on all samples, and come of their counts; rows are built of those of this rank only.
        ranges: list[list[Range]] = []
        counts: list[tuple[int, int, int]] = []
        for number, sample in enumerate(samples):
            seen = sample.is_reflection and visible_ranges(sample, config.masking, step, max_steps, config.seed)
            ranges.append(seen or [])
            counts.append(count_targets(sample, semantics))
            if number % SAMPLES_BETWEEN_PAUSES == 0:
                pause()
        weights = weights_of(counts, config.loss)
        lengths = [(len(sample), sum(b - a for a, b in seen)) for sample, seen in zip(samples, ranges, strict=True)]
        costs = [sum(pair) for pair in lengths]
        groups = split_by_cost(costs, config.micro_tokens, self.world.size)
        batches: list[MicroBatch] = []
        for group in deal(groups, costs, self.world.size, self.world.rank):
            rows = [rows_of(samples[i], ranges[i], semantics, config.positions) for i in group]
            batches.append(pack([(one, weights[i]) for one, i in zip(rows, group, strict=True)]))
            pause()
        return Step(
            micro_batches=batches,
            mask_rate=mask_rate(step, max_steps, semantics),
            tokens=sum(costs),
            scored=sum(teacher + student for teacher, student, _ in counts),
            squares=sum(teacher**2 + student**2 for teacher, student in lengths),
            visible=visible_shares(samples, ranges),
        )


class Ahead(Dataset[Step]):
    """Steps, the next of which is made in a thread while the present one runs.

    A thread and no process: nothing has to be sent, and nothing forked beside a GPU. Threads share one interpreter, and
    one that works without a break would hold up the other, which gives work to the GPU, at each of its operations; so
    this one pauses as long as nobody waits for it.

    Args:
        steps: of the run.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.pool = ThreadPoolExecutor(1, "next step")
        self.pending: dict[int, Future[Step]] = {}
        self.wanted = Event()

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> Step:
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
) -> tuple[list[Encoded], list[int], int]:
    """Encode the samples of a run; those longer than `max_length` are left out.

    Args:
        dialogues: of the files that `config.data` names.
        tokenizer: with the special tokens.
        config: of the run.
        to_train_on: whether there have to be reflection sequences, where those are the objective.

    Returns:
        The samples, named by their place in the data; how often an epoch has each (reflection data is up-sampled,
        whatever the objective, so that objectives see the same samples); and how many were left out.

    Raises:
        UserError: nothing is left; no reflection sequence among them; a tokenizer that cannot begin a sample.
    """
    if not dialogues:
        raise UserError(f"data {', '.join(config.data)}: there are no samples")
    if to_train_on and config.objective == "reflection" and not any(dialogue.is_reflection for dialogue in dialogues):
        raise UserError(
            f"data {', '.join(config.data)}: none of the {len(dialogues)} samples is a reflection sequence; add some "
            '(reflectioncoder build), or set objective = "instruction"'
        )
    if tokenizer.bos_token_id is None and config.bos == "required":
        raise UserError(
            f"model {config.model}: its tokenizer has no BOS token, with which a sample begins; name one in "
            'tokenizer_config.json, or set bos = "none", as the recipes for Qwen do'
        )
    samples = []
    for number, dialogue in enumerate(dialogues):
        encoded = encode(dialogue, tokenizer, sample_id=str(number))
        samples.append(last_round(encoded) if config.objective == "instruction" else encoded)
    fits = [len(sample) <= config.max_length for sample in samples]
    kept = [sample for sample, fit in zip(samples, fits, strict=True) if fit]
    repeats = [
        config.upsample if dialogue.is_reflection else 1 for dialogue, fit in zip(dialogues, fits, strict=True) if fit
    ]
    if not kept:
        shortest = min(len(sample) for sample in samples)
        raise UserError(
            f"data {', '.join(config.data)}: all {len(samples)} samples are longer than max_length = "
            f"{config.max_length} tokens (the shortest has {shortest}); raise max_length"
        )
    return kept, repeats, len(samples) - len(kept)


def digest(samples: Sequence[Encoded], repeats: Sequence[int], held_out: Sequence[Encoded]) -> str:
    """A name for the samples of a run, their tokens, labels and order, so that it is not resumed with others."""
    found = hashlib.sha256(array("Q", [len(samples), len(held_out), *repeats]).tobytes())
    for sample in (*samples, *held_out):
        found.update(array("Q", [len(sample)]).tobytes())
        found.update(array("I", sample.ids).tobytes() + bytes(sample.is_label))
    return found.hexdigest()


def summary(samples: Sequence[Encoded], dropped: int, config: TrainConfig) -> str:
    """What `prepare` found, in one line."""
    reflections = sum(sample.is_reflection for sample in samples)
    text = f"{len(samples)} samples ({reflections} reflection, {len(samples) - reflections} plain)"
    return text + (f"; dropped {dropped} longer than {config.max_length} tokens" if dropped else "")
