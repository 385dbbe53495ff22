"""Held-out samples during training: their selection, and their loss under the conditions of inference.

They are scored at mask rate 1, where the whole first round is hidden from the student. So the scores of different steps
are comparable, and the student reads the same input as at inference.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.mixing import Repeats, instruction_of
from reflectioncoder.train.batch.packing import MicroBatch, pack
from reflectioncoder.train.batch.rows import build_rows, deal, loss_weights, split_by_cost
from reflectioncoder.train.batch.steps import prepare
from reflectioncoder.train.data import check_reflections
from reflectioncoder.train.ranks.world import World


def check_held_out(config: TrainConfig) -> None:
    """Check the settings of held-out evaluation. Raises UserError if they contradict each other."""
    if not 0 <= config.eval_share < 1:
        raise UserError(f"eval_share = {config.eval_share}: must be at least 0 and below 1")
    has_data = bool(config.eval_data) or config.eval_share > 0
    if config.eval_steps < 0 or config.patience < 0:
        raise UserError("eval_steps and patience: must not be negative")
    if config.eval_steps and not has_data:
        raise UserError("eval_steps: there is nothing to evaluate on; set eval_data or eval_share")
    if has_data and not config.eval_steps:
        raise UserError("eval_data, eval_share: say how often to evaluate with eval_steps")
    if (config.patience or config.keep_best) and not config.eval_steps:
        raise UserError("patience, keep_best: need an evaluation; set eval_steps with eval_data or eval_share")
    if config.keep_best and (config.save_steps <= 0 or config.save_steps % config.eval_steps):
        raise UserError(
            f"keep_best: save_steps = {config.save_steps} must be a multiple of eval_steps = {config.eval_steps}"
        )


def split(samples: Sequence[Encoded], config: TrainConfig) -> tuple[list[int], list[int]]:
    """Return the indices of the training samples, and those of the samples held out by `eval_share`.

    Whether a sample is held out depends only on the seed and its last question. So a reflection sequence, a plain
    sample of the same problem and duplicates stay together, and no held-out answer is learnt from another sample.

    Raises:
        UserError: the share leaves one of the two sets empty.
    """
    held = [place for place, sample in enumerate(samples) if _draw(sample, config.seed) < config.eval_share]
    if config.eval_share > 0 and not 0 < len(held) < len(samples):
        raise UserError(f"eval_share = {config.eval_share}: holds out {len(held)} of {len(samples)} samples")
    taken = set(held)
    return [place for place in range(len(samples)) if place not in taken], held


def hold_out(
    samples: list[Encoded],
    repeats: list[Repeats],
    others: Sequence[Dialogue],
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
) -> tuple[list[Encoded], list[Repeats], list[Encoded]]:
    """Return the training samples, how often each occurs in an epoch, and the held-out samples with `others`."""
    kept, held = split(samples, config)
    sequences = [len(sample) for sample in samples if sample.is_reflection]
    check_reflections(config, sequences, [len(samples[place]) for place in kept if samples[place].is_reflection])
    found = [samples[place] for place in held]
    if config.eval_data:
        found += prepare(others, tokenizer, dataclasses.replace(config, data=config.eval_data), False)[0]
    return [samples[place] for place in kept], [repeats[place] for place in kept], found


def _draw(sample: Encoded, seed: int) -> float:
    return random.Random(f"{seed}:held out:{instruction_of(sample)}").random()


def micro_batches(samples: Sequence[Encoded], config: TrainConfig, world: World) -> list[MicroBatch]:
    """Pack this rank's share of the held-out samples; the losses of all ranks sum to the held-out loss."""
    masking = dataclasses.replace(config.masking, strategy="all")
    changed = config.loss.changed_weight
    rows = [build_rows(sample, masking, config.positions, 1, 1, config.seed, changed) for sample in samples]
    weights = loss_weights(rows, config.loss)
    costs = [sample.tokens for sample in rows]
    own = deal(split_by_cost(costs, config.micro_tokens, world.size), costs, world.size, world.rank)
    return [pack([(rows[i], weights[i]) for i in group], config.loss.teacher == "average") for group in own]


def metrics(loss: float, teacher_ce: float, student_ce: float, kl: float) -> dict[str, float]:
    """Return the logged metrics. Perplexity is the student's, or the teacher's if all samples are plain."""
    perplexity = math.exp(min(student_ce or teacher_ce, 700.0))
    return {
        "eval_loss": loss,
        "eval_teacher_ce": teacher_ce,
        "eval_student_ce": student_ce,
        "eval_kl": kl,
        "eval_perplexity": perplexity,
    }
