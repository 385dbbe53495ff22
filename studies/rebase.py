"""Compares the positions `keep` and `rebase` for models with absolute positions, a limitation named in the paper.

    .venv/bin/python studies/rebase.py [--steps 600] [--seeds 3] [--plain 0,3]

The task is procedural and can be learnt in a minute. The question is an operation and some digits; the answer is these
digits, each replaced by a fixed table, in the same or in reverse order. A reflection sample has a wrong answer, the
failure, an analysis and the correct answer, and then the same question and answer again. `--plain` adds this number of
samples without a first round for each reflection sample. Both kinds of positions are tried with a small, randomly
initialised GPT-2, which has absolute positions, and with a Llama of the same size, which has rotary positions. The
report has, over the seeds, the share of correct answer digits in the form of inference (the question alone, from
position 0), and their cross-entropy. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded, Span
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, last_round, loss_weights
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention

BOS, EOS, USER, ASSISTANT, TEXT, CODE, EXECUTION, END_BLOCK, END_MESSAGE = range(9)
WORDS = {"text": TEXT, "code": CODE, "execution": EXECUTION}
TESTS, FAILED, PASSED, BECAUSE = range(9, 13)
DIGIT, OPERATION, VOCABULARY = 13, 23, 25
TABLE = (3, 8, 0, 6, 9, 1, 4, 2, 7, 5)
DIGITS = 4
POSITIONS = 128


def encoded(messages: list[list[tuple[str, list[int]]]], name: str) -> Encoded:
    """Encode messages, each a list of (block type, content), in the layout of appendix C."""
    ids, labels = [BOS], [False]
    spans: list[Span] = []
    bounds: list[tuple[int, int]] = []
    for m, blocks in enumerate(messages):
        start, speaks = len(ids), m % 2 == 1
        ids.append(ASSISTANT if speaks else USER)
        labels.append(False)
        for b, (kind, content) in enumerate(blocks):
            begin = len(ids)
            ids += [WORDS[kind], *content, END_BLOCK]
            labels += [speaks and kind != "execution"] * (len(content) + 2)
            spans.append(Span(m, b, kind, begin, len(ids)))  # type: ignore[arg-type]
        ids.append(END_MESSAGE)
        labels.append(speaks)
        bounds.append((start, len(ids)))
    return Encoded((*ids, EOS), (*labels, False), tuple(spans), tuple(bounds), len(messages) == 4, name)


def sample(number: int, seed: int) -> Encoded:
    """Make a reflection sample. It has one to three wrong answers before the correct one, each with one wrong digit."""
    rng = random.Random(f"{seed}:{number}")
    digits, operation = [rng.randrange(10) for _ in range(DIGITS)], rng.randrange(2)
    question = [OPERATION + operation, *(DIGIT + digit for digit in digits)]
    if operation == 1:
        digits.reverse()
    right = [DIGIT + TABLE[digit] for digit in digits]
    first: list[tuple[str, list[int]]] = []
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(DIGITS)
        wrong = [*right]
        wrong[at] = DIGIT + (right[at] - DIGIT + rng.randint(1, 9)) % 10
        first += [
            ("code", wrong),
            ("execution", [FAILED, wrong[at], right[at]]),
            ("text", [BECAUSE, DIGIT + digits[at], right[at]]),
        ]
    first += [("code", right), ("execution", [PASSED])]
    user = [("text", [TESTS, *question])]
    return encoded([user, first, [("text", question)], [("code", right)]], str(number))


def model_of(kind: str, width: int, seed: int) -> PreTrainedModel:
    """Create a random GPT-2 or Llama with two layers."""
    torch.manual_seed(seed)
    ends = {"bos_token_id": BOS, "eos_token_id": EOS}
    if kind == "gpt2":
        size = {"n_positions": POSITIONS, "n_embd": width, "n_layer": 2, "n_head": 4}
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **size, **none, **ends))
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, **sizes, **ends))


def train(kind: str, positions: str, plain: int, seed: int, options: argparse.Namespace) -> PreTrainedModel:
    """Train a model with the block strategy.

    Args:
        kind: `gpt2` or `llama`.
        positions: `keep` or `rebase`.
        plain: number of plain samples per reflection sample.
        seed: random seed.
        options: command-line options.
    """
    model = model_of(kind, options.width, seed)
    use_varlen_attention(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, options.steps)
    for step in range(options.steps):
        batch = []
        for i in range(options.batch):
            one = sample(step * options.batch + i, seed)
            batch.append(one if i % (plain + 1) == 0 else last_round(one))
        rows = [build_rows(one, MaskingConfig(), positions, step, options.steps, seed) for one in batch]
        micro_batch_loss(model, pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def score(model: PreTrainedModel, count: int) -> tuple[float, float]:
    """Score a model on `count` samples of another seed, in the form of inference.

    Returns:
        the share of correct digits, and their mean cross-entropy in nats.
    """
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([last_round(sample(i, -1)).ids for i in range(count)])
    start = ids[0].tolist().index(CODE) + 1
    logits = model(input_ids=ids).logits[:, start - 1 : start + DIGITS - 1]
    answer = ids[:, start : start + DIGITS]
    entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten())
    return (logits.argmax(-1) == answer).float().mean().item(), entropy.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plain", default="0,3", help="plain samples for each reflection sample")
    parser.add_argument("--models", default="gpt2,llama")
    parser.add_argument("--held-out", type=int, default=500)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'model':>6} {'plain':>6} {'positions':>10} {'digits right':>13} {'cross-entropy':>14}")
    for kind in options.models.split(","):
        for plain in map(int, options.plain.split(",")):
            for positions in ("keep", "rebase"):
                scores = [
                    score(train(kind, positions, plain, seed, options), options.held_out)
                    for seed in range(options.seeds)
                ]
                right, entropy = zip(*scores, strict=True)
                row = {"model": kind, "plain": plain, "positions": positions}
                row |= {"right": [round(value, 3) for value in right], "cross_entropy": statistics.mean(entropy)}
                rows.append(row)
                span = f"{min(right):.2f}..{max(right):.2f}"
                print(f"{kind:>6} {plain:6d} {positions:>10} {span:>13} {row['cross_entropy']:14.3f}", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
