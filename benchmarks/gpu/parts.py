"""The parts of `run.py`. Each takes the options and the time at which to stop, and returns its results."""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import random_samples
import reference_trainer
import torch
from measuring import KEPT, keep, peak_above, timed
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.train.batch.packing import MicroBatch, pack
from reflectioncoder.train.batch.rows import Row, Rows, loss_weights, split_by_cost
from reflectioncoder.train.compute import packed_attention as attention
from reflectioncoder.train.compute.flops import Needed, peak_flops
from reflectioncoder.train.compute.loss import Head, micro_batch_loss, scored_loss
from reflectioncoder.train.compute.master_weights import MasterAdamW

RATES = 5  # mask rates 0, 0.25, 0.5, 0.75, 1
Options = argparse.Namespace


def _shape(vocabulary: int, width: int, inner: int, layers: int, heads: tuple[int, int]) -> dict[str, int]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
    }


SHAPES = {
    "tiny": _shape(300, 32, 64, 2, (4, 2)),
    "small": _shape(8192, 256, 704, 4, (8, 2)),
    "135m": _shape(49216, 576, 1536, 30, (9, 3)),
    "1b": _shape(128320, 2048, 8192, 16, (32, 8)),
}


def model_of(shape: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Create a randomly initialised Llama with tied embedding and output head."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    config = LlamaConfig(max_position_embeddings=32768, tie_word_embeddings=True, **ends, **SHAPES[shape])
    with torch.device(device):
        return LlamaForCausalLM(config).to(dtype).train()


def peak_of(options: Options) -> float:
    """Return the peak operations per second of the device; 0 if unknown."""
    return options.peak_tflops * 1e12 or peak_flops(torch.device(options.device)) or 0.0


def samples_of(shape: str, options: Options, count: int, long: bool = False, first: int = 0) -> list[Encoded]:
    """Make reflection samples of realistic lengths, or with `long` of 2,000 to 4,096 tokens."""
    rounds = ((1700, 3500), (300, 590)) if long else ((300, 900), (80, 250))
    if options.smoke:
        rounds = ((30, 60), (20, 30))
    return [random_samples.sample(i, *rounds, SHAPES[shape]["vocab_size"]) for i in range(first, first + count)]


def micro_batches(samples: list[Encoded], rate: int, budget: int) -> list[MicroBatch]:
    """Split a global batch into micro-batches, as training does."""
    rows = random_samples.rows_at(samples, rate, RATES - 1)
    weights = loss_weights(rows, LossConfig())
    groups = split_by_cost([one.tokens for one in rows], budget)
    return [pack([(rows[i], weights[i]) for i in group]) for group in groups]


def ours(model: PreTrainedModel, batches: list[MicroBatch]) -> float:
    """Run our forward and backward passes of a global batch, and return its loss."""
    losses = []
    for batch in batches:
        loss = micro_batch_loss(model, batch.to(model.device)).loss
        loss.backward()
        losses.append(loss.detach())
    return sum(loss.item() for loss in losses)


def plain(model: PreTrainedModel, samples: list[Encoded], rate: int, at_once: int) -> float:
    """Run those of the reference implementation, with `at_once` samples per pass, and return the loss."""
    losses = []
    for start in range(0, len(samples), at_once):
        some = samples[start : start + at_once]
        loss, _ = reference_trainer.loss(model, some, MaskingConfig(), LossConfig(), rate, RATES - 1, 0)
        loss = loss * (len(some) / len(samples))
        loss.backward()
        losses.append(loss.detach())
    return sum(loss.item() for loss in losses)


def fits(run: Callable[[], Any]) -> bool:
    """Whether a call fits into the GPU's memory."""
    try:
        run()
        return True
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def exact(options: Options, end: float) -> list[dict[str, Any]]:
    """Errors of loss and gradients on the device, by precision and implementation, relative to float64 on the CPU."""
    shape = "tiny" if options.smoke else "small"
    samples = samples_of(shape, options, 4)
    torch.backends.cuda.matmul.allow_tf32 = False

    def measure(device: str, dtype: torch.dtype, by: str) -> tuple[float, dict[str, torch.Tensor]]:
        model = model_of(shape, "cpu", torch.float32).to(device, dtype)  # the same weights everywhere
        if by == "ours":
            attention.use_varlen_attention(model)
            loss = ours(model, micro_batches(samples, 2, 10**9))
        else:
            loss = plain(model, samples, 2, len(samples))
        return loss, {n: p.grad.double().cpu() for n, p in model.named_parameters() if p.grad is not None}

    truth = measure("cpu", torch.float64, "plain")
    rows = []
    for dtype, by in itertools.product((torch.float64, torch.float32, torch.bfloat16), ("ours", "plain")):
        loss, gradients = measure(options.device, dtype, by)
        worst = max(((gradients[name] - grad).norm() / grad.norm()).item() for name, grad in truth[1].items())
        row = {"precision": str(dtype)[6:], "by": by, "loss_error": abs(loss / truth[0] - 1), "gradient_error": worst}
        rows.append(row)
        print("{precision:>9} {by:>6} loss {loss_error:.1e} gradients {gradient_error:.1e}".format(**row), flush=True)
    return rows


def attend(states: list[torch.Tensor], arguments: dict[str, Any]) -> torch.Tensor:
    """Run the forward and backward passes of attention alone.

    Args:
        states: query `[1, H, T, D]`, key and value `[1, K, T, D]`.
        arguments: keyword arguments of `varlen_attention`.

    Returns:
        the output, `[1, T, H, D]`.
    """
    found = attention.varlen_attention(torch.nn.Identity(), *states, None, **arguments)[0]
    found.float().square().sum().backward()
    return found.detach()


def kernels(options: Options, end: float) -> list[dict[str, Any]]:
    """Attention alone: one kernel for all rows compared with one call per row, in milliseconds."""
    rows = []
    grid = [(32, 8, 64), (16, 4, 128)] if not options.smoke else [(4, 2, 8)]
    row_lengths = (16,) if options.smoke else (256, 1024, 4096)
    for (heads, key_heads, width), length, window in itertools.product(grid, row_lengths, (0, 512)):
        count = max(1, (16384 if not options.smoke else 64) // length)
        total = count * length
        dtype = torch.bfloat16
        shapes = [(1, heads, total, width), *[(1, key_heads, total, width)] * 2]
        states = [torch.randn(s, device=options.device, dtype=dtype, requires_grad=True) for s in shapes]
        bounds = torch.arange(0, total + 1, length, dtype=torch.int32, device=options.device)
        places = torch.arange(length, device=options.device).repeat(count)
        arguments = {**attention.boundaries(bounds, length, places), "sliding_window": window or None}
        known = {"kernel": attention._kernel, "loop": lambda *_: None}
        outputs, times = {}, {name: [] for name in known}
        for repeat in range(options.repeats + 2):
            for name, function in known.items():
                attention._kernel = function

                seconds, _, outputs[name] = timed(partial(attend, states, arguments), options.device)
                if repeat >= 2:
                    times[name].append(seconds)
        attention._kernel = known["kernel"]
        middle = {name: statistics.median(values) for name, values in times.items()}
        row = {
            "heads": [heads, key_heads, width],
            "rows": [count, length],
            "window": window,
            "kernel_ms": round(1000 * middle["kernel"], 3),
            "loop_ms": round(1000 * middle["loop"], 3),
            "ratio": round(middle["loop"] / middle["kernel"], 2),
            "largest_difference": (outputs["kernel"] - outputs["loop"]).abs().max().item(),
        }
        rows.append(row)
        print(row, flush=True)
        if time.monotonic() > end:
            break
    return rows


def speed(shape: str, long: bool, options: Options, end: float) -> dict[str, Any]:
    """Compare our step with the reference implementation, each with the largest budget that fits, in turns."""
    shape = "tiny" if options.smoke else shape
    device = options.device
    model = model_of(shape, device, torch.bfloat16)
    optimizer = MasterAdamW([{"params": list(model.parameters())}], lr=0.0, fused=True)
    for last in (False, True):
        for parameter in optimizer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if not last:
            optimizer.step()
    if long:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    most = samples_of(shape, options, 4 if options.smoke else 256, long)

    def ours_of(samples: list[Encoded], rate: int, budget: int) -> float:
        attention.use_varlen_attention(model)
        return ours(model, micro_batches(samples, rate, budget))

    # Find what fits: tokens of a micro-batch for us, samples per pass for the reference implementation.
    budgets, at_onces = ([200], [2]) if options.smoke else ([2**k for k in range(12, 19)], [2**k for k in range(8)])
    budget = at_once = 0
    for value in budgets:
        some = most[: max(1, 2 * value // most[0].ids.__len__())]
        group = max(micro_batches(some, 0, value), key=lambda batch: batch.tokens)
        attention.use_varlen_attention(model)
        if time.monotonic() > end or not fits(partial(ours, model, [group])):
            break
        budget = value
    for value in at_onces:
        if time.monotonic() > end or not fits(partial(plain, model, most[:value], 0, value)):
            break
        at_once = value
    if not budget or not at_once:
        return {"error": "not even the smallest batch fits", "budget": budget, "at_once": at_once}
    same = most[:at_once]  # memory is compared on the same samples in one pass each
    memory = {
        "ours": peak_above(partial(ours_of, same, 0, 10**9), device),
        "plain": peak_above(partial(plain, model, same, 0, at_once), device),
    }
    count = max(at_once, 4 if options.smoke else 32)
    times: dict[str, list[float]] = {name: [] for name in ("plain", "update", *map(str, range(RATES)))}
    tokens, needed = [0.0] * RATES, [0.0] * RATES
    for repeat in range(-1, options.repeats):
        if repeat > 0 and time.monotonic() > end:
            break
        samples = samples_of(shape, options, count, long, first=(repeat + 1) * count)
        for rate in random.Random(repeat).sample(range(RATES), RATES):
            seconds = timed(partial(ours_of, samples, rate, budget), device)[0]
            if repeat >= 0:
                times[str(rate)].append(seconds)
                batches = micro_batches(samples, rate, budget)
                tokens[rate] += sum(batch.tokens for batch in batches) / seconds
                squares = sum(int(n) ** 2 for batch in batches for n in batch.cu_seqlens.diff())
                work = sum(batch.tokens for batch in batches), sum(len(batch.index) for batch in batches), squares
                needed[rate] += Needed(model)(*work) / seconds
        seconds = timed(partial(plain, model, samples, repeat % RATES, at_once), device)[0]
        update = timed(optimizer.step, device)[0]
        optimizer.zero_grad()
        if repeat >= 0:
            times["plain"].append(seconds)
            times["update"].append(update)
    repeats = len(times["plain"])
    middle = {name: statistics.median(values) for name, values in times.items()}
    mean = statistics.mean(middle[str(rate)] for rate in range(RATES))
    limit = peak_of(options)
    achieved = statistics.mean(needed) / repeats
    found = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "repeats": repeats,
        "micro_tokens": budget,
        "plain_samples_at_once": at_once,
        "samples_per_second": {"ours": round(count / mean, 2), "plain": round(count / middle["plain"], 2)},
        "ratio": round(middle["plain"] / mean, 2),
        "ratio_by_rate": [round(middle["plain"] / middle[str(rate)], 2) for rate in range(RATES)],
        "tokens_per_second": round(statistics.mean(tokens) / repeats),
        "tflops": round(achieved / 1e12, 2),
        "utilisation": round(achieved / limit, 3) if limit else None,
        "update_s": round(middle["update"], 4),
        "peak_mib": {name: peak >> 20 for name, peak in memory.items()},
        "ratio_of_memory": round(memory["ours"] / max(1, memory["plain"]), 3),
    }
    print(found, flush=True)
    return found


def head(options: Options, end: float) -> list[dict[str, Any]]:
    """Loss and gradients from hidden states, by positions scored at a time; 0 is the size that training chooses."""
    shape = SHAPES["tiny" if options.smoke else "1b"]
    places = 64 if options.smoke else 8192
    weight = torch.randn(shape["vocab_size"], shape["hidden_size"], device=options.device, dtype=torch.bfloat16) / 32
    hidden = torch.randn(places, shape["hidden_size"], device=options.device, dtype=torch.bfloat16)
    weight.requires_grad_()
    hidden.requires_grad_()
    target = torch.randint(shape["vocab_size"], (places,), device=options.device)
    ce_weight = torch.full((places,), 1 / places, device=options.device)
    kl_weight = torch.full((places // 4,), 4 / places, device=options.device)

    def once(chunk: int) -> None:
        scored_loss(hidden, Head(weight), target, ce_weight, kl_weight, chunk)[0].backward()

    rows = []
    for chunk in (0, 16) if options.smoke else (0, 128, 256, 512, 1024, 2048, 4096):
        once(chunk)
        seconds = statistics.median(timed(partial(once, chunk), options.device)[0] for _ in range(options.repeats))
        peak = peak_above(partial(once, chunk), options.device) >> 20
        rows.append({"places": places, "at_once": chunk, "ms": round(1000 * seconds, 2), "peak_mib": peak})
        print(rows[-1], flush=True)
    return rows


def long_rows(options: Options, end: float) -> list[dict[str, Any]]:
    """A single row of each length, by which activations are kept for the backward pass."""
    shape = "tiny" if options.smoke else "1b"
    model = model_of(shape, options.device, torch.bfloat16)
    attention.use_varlen_attention(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rows = []
    for length in (64, 128) if options.smoke else (1024, 2048, 4096, 8192, 16384, 32768):
        rng = random.Random(length)
        ids = tuple(rng.randrange(10, model.config.vocab_size) for _ in range(length))
        one = Rows(Row(ids, tuple(range(length)), tuple(range(1, length, 6))))
        batch = pack([(one, loss_weights([one], LossConfig())[0])])
        for kept in KEPT:
            keep(model, kept)
            row: dict[str, Any] = {"tokens": length, "kept": kept}
            run = partial(ours, model, [batch])
            if fits(run):
                row["peak_mib"] = peak_above(run, options.device) >> 20
                seconds = statistics.median(timed(run, options.device)[0] for _ in range(options.repeats))
                row |= {"ms": round(1000 * seconds, 2), "us_per_token": round(1e6 * seconds / length, 2)}
            else:
                row["error"] = "out of memory"
            rows.append(row)
            print(row, flush=True)
        if time.monotonic() > end:
            break
    return rows


def profile(options: Options, end: float) -> list[dict[str, Any]]:
    """The kernels that take most of the time of a step at mask rate 0.5."""
    shape = "tiny" if options.smoke else "1b"
    model = model_of(shape, options.device, torch.bfloat16)
    attention.use_varlen_attention(model)
    batches = micro_batches(samples_of(shape, options, 16), 2, 16384)
    for _ in range(2):
        ours(model, batches)
    wanted = [torch.profiler.ProfilerActivity.CPU]
    if options.device == "cuda":
        wanted.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=wanted) as measured:
        timed(partial(ours, model, batches), options.device)
    name = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
    events = sorted(measured.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events) or 1
    rows = [
        {"kernel": event.key[:90], "share": round(getattr(event, name) / total, 4), "calls": event.count}
        for event in events[:20]
    ]
    for row in rows:
        print("{share:7.2%} {calls:6d} {kernel}".format(**row), flush=True)
    return rows


def all_of(decode: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Collect the results of a decoding iterator."""
    return list(decode(*arguments))


def generate(options: Options, end: float) -> list[dict[str, Any]]:
    """Tokens per second of greedy decoding by batch size; with random weights no completion ends early."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from reflectioncoder.models.decode import Request, decode_batched

    shape = "tiny" if options.smoke else "135m"
    model = model_of(shape, options.device, torch.bfloat16).eval()
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="w0", eos_token="w1")
    new = 8 if options.smoke else 256
    rows = []
    for batch in (1, 4) if options.smoke else (1, 16, 64, 256):
        rng = random.Random(batch)
        requests = [
            Request(str(i), 0, tuple(rng.randrange(10, len(words)) for _ in range(100)), new, ended=lambda _: "")
            for i in range(batch)
        ]
        seconds = []
        for _ in range(options.repeats + 1):
            seconds.append(timed(partial(all_of, decode_batched, model, tokenizer, requests, batch), options.device)[0])
            if time.monotonic() > end:
                break
        row = {"batch": batch, "tokens_per_second": round(batch * new / statistics.median(seconds[1:] or seconds), 1)}
        rows.append(row)
        print(row, flush=True)
    return rows


PARTS: dict[str, Callable[[Options, float], Any]] = {
    "exact": exact,
    "attention": kernels,
    "head": head,
    "speed-135m": partial(speed, "135m", False),
    "speed-1b": partial(speed, "1b", False),
    "long-1b": partial(speed, "1b", True),
    "rows": long_rows,
    "profile": profile,
    "generate": generate,
}
