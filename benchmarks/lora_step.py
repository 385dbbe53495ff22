"""Compares three implementations of a step with LoRA: ours, with merged tables, and with float32 adapters as well.

    .venv/bin/python benchmarks/lora_step.py [--repeats 5] [--precision bfloat16] [--device cpu]

It runs forward and backward passes of one micro-batch of reflection samples (first rounds of 300 to 900 tokens, second
ones of 80 to 250) at mask rate 0.5, through a random Llama with a vocabulary of 49,216 and LoRA of rank 16 on all
layers. `ours` is the implementation that training uses. `merged` uses PEFT's own embedding, and an output head that is
a copy of the whole table with the trained rows in it. `float32` does the same with adapters in float32. They run in
turns with the same weights. The report has medians of the seconds, and the peak memory above that of the model. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import random_samples
import torch
from measuring import peak_above, timed
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reflectioncoder.config.train import LoraConfig, TrainConfig
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS
from reflectioncoder.train import lora
from reflectioncoder.train.compute import loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention

WAYS = ("ours", "merged", "float32")


def model_of(options: argparse.Namespace) -> Any:
    """Create a random Llama with adapters, whose special tokens are the last of its vocabulary."""
    torch.manual_seed(0)
    vocabulary, width, layers = (512, 64, 2) if options.smoke else (49216, 576, 8)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(getattr(torch, options.precision)).train()
    use_varlen_attention(model)
    words = {f"w{i}": i for i in range(vocabulary - len(SPECIAL_TOKENS))}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words | {t: len(words) + i for i, t in enumerate(SPECIAL_TOKENS)}, "w0"))
    )
    lora.add_adapters(model, tokenizer, TrainConfig(model="random", precision=options.precision, lora=LoraConfig(r=16)))
    return model


@contextmanager
def done(way: str, model: Any) -> Iterator[None]:
    """Context in which the model uses one of the implementations in `WAYS`."""
    layer, ours = model.get_input_embeddings().token_adapter, loss.head_of
    if way != "ours":
        del layer.forward
        loss.head_of = lambda _: loss.Head(layer.get_merged_weights(layer.active_adapters))
    kinds = {parameter: parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    for parameter in kinds:
        parameter.grad = None
        parameter.data = parameter.data.float() if way == "float32" else parameter.data
    try:
        yield
    finally:
        loss.head_of, layer.forward = ours, partial(lora.embed, layer)
        for parameter, kind in kinds.items():
            parameter.grad, parameter.data = None, parameter.data.to(kind)


def main() -> None:
    """Print one line per implementation, and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and short samples")
    options = parser.parse_args()
    model = model_of(options)
    rounds = ((30, 60), (20, 30)) if options.smoke else ((300, 900), (80, 250))
    samples = [random_samples.sample(i, *rounds, model.config.vocab_size) for i in range(2)]
    batch = random_samples.packed(samples, 1, 2).to(options.device)
    values: dict[str, float] = {}

    def step(way: str) -> None:
        found = loss.micro_batch_loss(model, batch).loss
        found.backward()
        values[way] = found.item()

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, list[int]] = {way: [] for way in WAYS}
    for repeat in range(-1, options.repeats):
        for way in WAYS:
            with done(way, model):
                taken = timed(partial(step, way), options.device)[0]
                peak = peak_above(partial(step, way), options.device)
            if repeat >= 0:
                seconds[way].append(taken)
                memory[way].append(peak)
    middle = {way: (statistics.median(seconds[way]), statistics.median(memory[way])) for way in WAYS}
    found = {
        way: {
            "seconds": round(middle[way][0], 3),
            "mib": round(middle[way][1] / 2**20, 1),
            "time_to_ours": round(middle[way][0] / middle["ours"][0], 2),
            "memory_to_ours": round(middle[way][1] / max(middle["ours"][1], 1), 2),
            "loss": values[way],
        }
        for way in WAYS
    }
    for way, row in found.items():
        print(f"{way:8} {row}")
    print(json.dumps({"tokens": batch.tokens, "scored": len(batch.index), **found}))


if __name__ == "__main__":
    main()
