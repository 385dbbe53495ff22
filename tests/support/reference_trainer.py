"""A plain reference implementation of masked self-distillation (section 3.2), to compare results and cost with.

Teacher and student rows of a batch keep all their tokens and are padded to one length. An attention mask hides the
student's hidden tokens from every query, the model computes logits at all positions, and the losses are PyTorch's own
over the whole vocabulary. This module follows the paper and uses none of the package's code for masking, batching,
attention or loss. The package never imports it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded


def hidden_tokens(sample: Encoded, masking: MaskingConfig, step: int, max_steps: int, seed: int) -> set[int]:
    """Indices of the tokens that the student must not see."""
    release = masking.semantics == "release"
    if release and masking.strategy == "none":
        return set()
    rate = min(1.0, (step + 1) / max_steps) if release else step / max_steps
    user, assistant = sample.message_bounds[0], sample.message_bounds[1]
    hidden = set(range(*user)) | {assistant[0], assistant[1] - 1}
    if release:
        hidden |= set(range(user[0]))
    blocks = [span for span in sample.spans if span.message == 1]
    strategy = masking.strategy
    if strategy == "mix":
        key = f"{seed}:{step}:{sample.sample_id}:mix" if release else f"{seed}:{step}:mix"
        strategy = random.Random(key).choice(("block", "sequential", "random"))
    rng = random.Random(f"{seed}:{step}:{sample.sample_id}")
    tokens = list(range(assistant[0] + 1, assistant[1] - 1))
    if strategy == "all":
        chosen = blocks
    elif strategy == "none":
        chosen = []
    elif strategy == "sequential":
        chosen = blocks[: math.ceil(round(rate * len(blocks), 9))]
    elif strategy == "random":
        chosen = [blocks[i] for i in rng.sample(range(len(blocks)), math.ceil(round(rate * len(blocks), 9)))]
    elif strategy == "influence":
        influence = sample.influence or [0.0] * len(blocks)
        ranked = sorted(range(len(blocks)), key=lambda n: influence[n])  # stable: of equal ones the leftmost first
        chosen = [blocks[n] for n in ranked[: math.ceil(round(rate * len(blocks), 9))]]
    elif strategy == "block":
        first, second, third = masking.order
        if release:
            types = {first} | ({second} if rate >= 0.33 else set()) | ({third} if rate >= 0.67 else set())
        else:
            types = {kind for kind, above in ((first, 0), (second, 1 / 3), (third, 2 / 3)) if rate > above}
        chosen = [block for block in blocks if block.type in types]
    else:
        chosen = []
        count = math.ceil(round(rate * len(tokens), 9))
        hidden |= set(
            tokens[:count]
            if strategy == "sequential_token"
            else [tokens[i] for i in rng.sample(range(len(tokens)), count)]
        )
    for block in chosen:
        hidden |= set(range(block.start, block.end))
    return hidden


@dataclass(frozen=True)
class Padded:
    """Rows padded at the end to the length of the longest, T.

    Args:
        ids: token ids [rows, T].
        seen: [rows, T], True if queries may attend to the token: neither hidden nor padding.
        positions: position ids [rows, T].
    """

    ids: torch.Tensor
    seen: torch.Tensor
    positions: torch.Tensor


def pad(rows: Sequence[tuple[Sequence[int], set[int]]], rebase: bool = False) -> Padded:
    """Pad rows of (ids, hidden indices); `rebase` numbers the visible tokens from zero."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids, seen = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for r, (row, hidden) in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        seen[r, : len(row)] = torch.tensor([t not in hidden for t in range(len(row))])
    places = (seen.long().cumsum(1) - 1).clamp(min=0) if rebase else torch.arange(shape[1]).expand(shape)
    return Padded(ids, seen, places)


def written_out_masks(model: PreTrainedModel, seen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Additive masks [rows, 1, T, T] for transformers' eager attention, by type of layer.

    With the masks of transformers, a query that sees no token has an empty softmax; here it sees itself.
    """
    places = torch.arange(seen.shape[1])
    causal = (places[:, None] >= places) & seen[:, None, None]
    near = places[:, None] - places < (model.config.sliding_window or len(places))
    itself = torch.eye(len(places), dtype=torch.bool)
    visible = {"full_attention": causal | itself, "sliding_attention": (causal & near) | itself}
    low = torch.finfo(model.dtype).min / 2
    return {kind: torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~mask, low) for kind, mask in visible.items()}


def logits(model: PreTrainedModel, batch: Padded, attention: str = "sdpa") -> torch.Tensor:
    """Logits [rows, T, V] in float32 or better.

    With `sdpa`, transformers makes each layer's mask from `seen`: causal, or a sliding window over the positions of the
    padded row. `eager` is for models that `sdpa` does not support (capped scores), and uses `written_out_masks`.
    """
    model.set_attn_implementation(attention)
    mask = batch.seen if attention == "sdpa" else written_out_masks(model, batch.seen)
    found = model(
        input_ids=batch.ids.to(model.device),
        attention_mask=mask.to(model.device) if isinstance(mask, torch.Tensor) else mask,
        position_ids=batch.positions.to(model.device),
        use_cache=False,
    ).logits
    return found.to(torch.promote_types(found.dtype, torch.float32))


def loss(
    model: PreTrainedModel,
    samples: Sequence[Encoded],
    masking: MaskingConfig,
    config: LossConfig,
    step: int,
    max_steps: int,
    seed: int,
    rebase: bool = False,
    attention: str = "sdpa",
    teacher_model: PreTrainedModel | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of a global batch, and the three logged means under `sample` normalization.

    `teacher_model` gives the teacher's side of the divergence, if its weights are not those of `model`.
    """
    release = masking.semantics == "release"
    reflections = [sample for sample in samples if sample.is_reflection]
    rows: list[tuple[Sequence[int], set[int]]] = [(sample.ids, set()) for sample in samples]
    rows += [(sample.ids, hidden_tokens(sample, masking, step, max_steps, seed)) for sample in reflections]
    batch = pad(rows, rebase)
    everything = logits(model, batch, attention)
    teachers = everything if teacher_model is None else logits(teacher_model, batch, attention)
    # The logits at t - 1 predict the token at t.
    targets = torch.full_like(batch.ids, -100)
    for r, sample in enumerate(samples):
        labels = [t for t in range(len(sample)) if sample.is_label[t]]
        if release:
            labels += [start for start, _ in sample.message_bounds[1::2]] + [len(sample) - 1]
        targets[r, labels] = batch.ids[r, labels]
    answers = []
    for r, sample in enumerate(reflections, start=len(samples)):
        start, end = sample.message_bounds[3]
        answers.append(torch.arange(start if release else start + 1, end))
        targets[r, answers[-1]] = batch.ids[r, answers[-1]]
    targets = targets[:, 1:].to(everything.device)
    entropies = F.cross_entropy(everything[:, :-1].flatten(0, 1), targets.flatten(), reduction="none")
    entropies = entropies.view(targets.shape)
    collected, students = [], iter(range(len(samples), len(rows)))
    for r, sample in enumerate(samples):
        teacher_ce = entropies[r][targets[r] != -100]
        student_ce = kl = entropies.new_zeros(0)
        if sample.is_reflection:
            s = next(students)
            student_ce = entropies[s][targets[s] != -100]
            at = (answers[s - len(samples)] - (0 if release else 1)).to(everything.device)
            kl = divergence(teachers[r, at].detach(), everything[s, at], config)
            if sample.changed and config.changed_weight != 1:
                worth = torch.ones(len(sample))
                worth[list(sample.changed)] = config.changed_weight
                worth = worth.to(kl)[at + 1]
                kl = kl * worth / worth.sum() * len(kl)
        collected.append((teacher_ce, student_ce, kl))
    return combine(collected, config), means(collected)


def divergence(teacher: torch.Tensor, student: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """Divergences [m] of pairs of logits [m, V], written out in probabilities."""
    p, q = ((each / config.temperature).softmax(-1) for each in (teacher, student))

    def kl(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left * (left / right).log()).sum(-1)

    middle = (p + q) / 2
    found = {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "jensen_shannon": lambda: (kl(p, middle) + kl(q, middle)) / 2,
    }[config.divergence]()
    return found * config.temperature**2


Terms = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def combine(collected: Sequence[Terms], config: LossConfig) -> torch.Tensor:
    """Combine the samples' (teacher cross-entropies, student cross-entropies, divergences) into one loss."""
    n = len(collected)
    total = collected[0][0].new_zeros(())
    weight = config.student_weight

    def pooled(t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (t.sum() + weight * s.sum()) / (len(t) + weight * len(s))

    if config.normalization == "token":
        t, s, k = (torch.cat(column) for column in zip(*collected, strict=True))
        if config.cross_entropy == "pooled":
            total = total + pooled(t, s)
        else:
            total = total + t.mean() + (weight * s.mean() if len(s) else 0)
        return total + (config.distillation * k.mean() if len(k) else 0)
    for t, s, k in collected:
        if config.cross_entropy == "pooled":
            total = total + pooled(t, s) / n
        else:
            total = total + (t.mean() + (weight * s.mean() if len(s) else 0)) / n
        total = total + (config.distillation * k.mean() / n if len(k) else 0)
    return total


def means(collected: Sequence[Terms]) -> dict[str, float]:
    """The logged values: for each term, the mean over samples of its mean."""
    students = [(s, k) for _, s, k in collected if len(s)]
    return {
        "teacher_ce": sum(t.mean().item() for t, _, _ in collected) / len(collected),
        "student_ce": sum(s.mean().item() for s, _ in students) / max(1, len(students)),
        "kl": sum(k.mean().item() for _, k in students) / max(1, len(students)),
    }
