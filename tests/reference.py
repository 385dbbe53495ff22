"""The method of section 3.2 written down plainly, to compare the real implementation with.

Nothing is dropped or packed: every row keeps all tokens, rows are padded to one length, a dense boolean mask hides
what the student may not see from every query, logits of the whole row are computed, and the losses are PyTorch's.
Written from the text, without the package's masking, batching or loss code.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from reflectioncoder.config import LossConfig, MaskingConfig
from reflectioncoder.template import Encoded


def hidden_tokens(sample: Encoded, masking: MaskingConfig, step: int, max_steps: int, seed: int) -> set[int]:
    """Indices the student must not see."""
    release = masking.semantics == "release"
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


def logits(model: PreTrainedModel, rows: list[tuple[tuple[int, ...], set[int], bool]]) -> torch.Tensor:
    """Full logits [rows, T, V] of padded rows under dense masks; a row is (ids, hidden indices, rebase)."""
    longest = max(len(ids) for ids, _, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    visible = torch.zeros(len(rows), 1, longest, longest, dtype=torch.bool)
    for r, (row, hidden, rebase) in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        seen = torch.tensor([t < len(row) and t not in hidden for t in range(longest)])
        positions[r] = (seen.long().cumsum(0) - 1).clamp(min=0) if rebase else torch.arange(longest)
        # A hidden or padding token may look at itself, or its own row of the softmax would be empty.
        visible[r, 0] = (torch.ones(longest, longest).tril().bool() & seen) | torch.eye(longest).bool()
    model.set_attn_implementation("sdpa")
    return model(input_ids=ids, attention_mask=visible, position_ids=positions, use_cache=False).logits


def loss(
    model: PreTrainedModel,
    samples: list[Encoded],
    masking: MaskingConfig,
    config: LossConfig,
    step: int,
    max_steps: int,
    seed: int,
    rebase: bool = False,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a global batch, and the three logged means under `sample` normalization."""
    release = masking.semantics == "release"
    rows: list[tuple[tuple[int, ...], set[int], bool]] = []
    for sample in samples:
        rows.append((sample.ids, set(), False))
        if sample.is_reflection:
            rows.append((sample.ids, hidden_tokens(sample, masking, step, max_steps, seed), rebase))
    everything = iter(logits(model, rows))
    collected = []
    for sample in samples:
        ids = torch.tensor(sample.ids)
        labels = [t for t in range(len(ids)) if sample.is_label[t]]
        if release:
            labels += [bounds[0] for bounds in sample.message_bounds[1::2]] + [len(ids) - 1]
        teacher = next(everything)
        teacher_ce = F.cross_entropy(teacher[[t - 1 for t in labels]], ids[labels], reduction="none")
        student_ce, kl = torch.zeros(0), torch.zeros(0)
        if sample.is_reflection:
            student = next(everything)
            start, end = sample.message_bounds[3]
            answer = list(range(start if release else start + 1, end))
            student_ce = F.cross_entropy(student[[t - 1 for t in answer]], ids[answer], reduction="none")
            at = answer if release else [t - 1 for t in answer]
            p, q = teacher[at].detach().log_softmax(-1), student[at].log_softmax(-1)
            kl = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
        collected.append((teacher_ce, student_ce, kl))
    n = len(samples)
    total = torch.zeros((), dtype=torch.float64)
    if config.normalization == "token":
        t, s, k = (torch.cat(column) for column in zip(*collected, strict=True))
        if config.cross_entropy == "pooled":
            total = total + torch.cat([t, s]).mean()
        else:
            total = total + t.mean() + (s.mean() if len(s) else 0)
        total = total + (config.distillation * k.mean() if len(k) else 0)
    else:
        for t, s, k in collected:
            if config.cross_entropy == "pooled":
                total = total + torch.cat([t, s]).mean() / n
            else:
                total = total + (t.mean() + (s.mean() if len(s) else 0)) / n
            total = total + (config.distillation * k.mean() / n if len(k) else 0)
    students = [(s, k) for _, s, k in collected if len(s)]
    means = {
        "teacher_ce": sum(t.mean().item() for t, _, _ in collected) / n,
        "student_ce": sum(s.mean().item() for s, _ in students) / max(1, len(students)),
        "kl": sum(k.mean().item() for _, k in students) / max(1, len(students)),
    }
    return total, means
