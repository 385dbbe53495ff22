"""Compares our training step with the reference implementation on CPU: samples per second, memory, cost by length.

    .venv/bin/python benchmarks/trainer_cpu.py [--precisions float32,bfloat16] [--repeats 5] [--batch 2] [--threads 0]
    .venv/bin/python benchmarks/trainer_cpu.py --kept [--precisions bfloat16] [--compile]
    .venv/bin/python benchmarks/trainer_cpu.py --long 1024,2048,4096,8192
    .venv/bin/python benchmarks/trainer_cpu.py --profile [--precisions float32]

Both run the forward and backward passes of the same global batch of reflection samples (first rounds of 300 to 900
tokens, second ones of 80 to 250) in one process, interleaved: a repeat is one step of the reference (`plain`) and ours
at five mask rates, 0 to 1. The plain step costs the same at every rate, because it only masks; it uses the rates in
turn. The losses are also compared. The optimizer's update is timed separately, because it is the same for both. Times
are medians over the repeats, in wall-clock and in CPU time, which other work on the machine affects less. Memory is the
peak resident memory of one step above that of model, gradients and optimizer, at mask rate 0, our worst case, measured
in child processes.

`--kept` compares our step by which activations are kept for the backward pass: all, the expensive results (selective
checkpointing), or the layers' inputs (gradient checkpointing), at mask rate 0.5 and interleaved; `--compile` adds a
model with compiled feed-forward blocks. `--long` measures one row of each length, without and with gradient
checkpointing. `--profile` shows the operations that take most of our step at mask rate 0.5. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import random_samples
import reference_trainer
import torch
from measuring import KEPT, keep, peak_above, timed
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import Row, Rows, loss_weights
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.master_weights import MasterAdamW
from reflectioncoder.train.compute.packed_attention import use_varlen_attention
from reflectioncoder.train.train import compile_feed_forward

RATES = 5  # mask rates 0, 0.25, 0.5, 0.75, 1
FIRST, SECOND = (300, 900), (80, 250)


def load(options: argparse.Namespace, precision: str) -> PreTrainedModel:
    """Load the embedded model, or create a tiny random one for a smoke test."""
    if not options.smoke:
        return load_model_and_tokenizer(EMBEDDED_MODEL, precision, "cpu")[0].train()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).to(getattr(torch, precision)).train()


def batch_of(options: argparse.Namespace, model: PreTrainedModel, number: int) -> list[Encoded]:
    """Make the global batch of a repeat; each number gives another batch."""
    first, second = ((30, 60), (20, 30)) if options.smoke else (FIRST, SECOND)
    places = range(number * options.batch, (number + 1) * options.batch)
    return [random_samples.sample(i, first, second, model.config.vocab_size) for i in places]


def ours(model: PreTrainedModel, samples: list[Encoded], rate: int) -> float:
    """Run our forward and backward passes, and return the loss."""
    use_varlen_attention(model)
    loss = micro_batch_loss(model, random_samples.packed(samples, rate, RATES - 1)).loss
    loss.backward()
    return loss.item()


def plain(model: PreTrainedModel, samples: list[Encoded], rate: int) -> float:
    """Run the forward and backward passes of the reference implementation, and return the loss."""
    loss, _ = reference_trainer.loss(model, samples, MaskingConfig(), LossConfig(), rate, RATES - 1, 0)
    loss.backward()
    return loss.item()


PASSES = {"plain": plain, "ours": ours}


def compare(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Time both implementations in turns."""
    model = load(options, precision)
    optimizer = MasterAdamW([{"params": list(model.parameters())}], lr=0.0, fused=True)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("plain", "update", *map(str, range(RATES)))}
    gaps, tokens = [], [0] * RATES
    for repeat in range(-1, options.repeats):  # the first repeat is a warm-up
        samples = batch_of(options, model, repeat + 1)
        losses: dict[int, float] = {}
        at = repeat % RATES
        for rate in random.Random(repeat).sample(range(RATES), RATES):
            clock, processor, losses[rate] = timed(partial(ours, model, samples, rate))
            if repeat >= 0:
                found[str(rate)].append((clock, processor))
                tokens[rate] += sum(rows.tokens for rows in random_samples.rows_at(samples, rate, RATES - 1))
        clock, processor, expected = timed(partial(plain, model, samples, at))
        update = timed(optimizer.step)[:2]
        optimizer.zero_grad()
        if repeat >= 0:
            found["plain"].append((clock, processor))
            found["update"].append(update)
            gaps.append(abs(losses[at] / expected - 1))
    middle = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in found.items()}
    mean = [statistics.mean(middle[str(rate)][unit] for rate in range(RATES)) for unit in (0, 1)]
    return {
        "precision": precision,
        "samples_per_second": {
            "plain": round(options.batch / middle["plain"][0], 4),
            "ours": round(options.batch / mean[0], 4),
        },
        "ratio": round(middle["plain"][0] / mean[0], 2),
        "ratio_of_processor_time": round(middle["plain"][1] / mean[1], 2),
        "ratio_by_rate": [round(middle["plain"][1] / middle[str(rate)][1], 2) for rate in range(RATES)],
        "plain_s": round(middle["plain"][1], 2),
        "ours_s": [round(middle[str(rate)][1], 2) for rate in range(RATES)],
        "update_s": round(middle["update"][1], 2),
        "tokens": [count // options.repeats for count in tokens],
        "largest_gap_of_loss": max(gaps),
    }


def memory(options: argparse.Namespace, precision: str, name: str) -> dict[str, Any]:
    """Measure the peak of one step at mask rate 0 above model, gradients and optimizer; runs in a child process."""
    model = load(options, precision)
    optimizer = MasterAdamW([{"params": list(model.parameters())}], lr=0.0, fused=True)
    for last in (False, True):
        for parameter in optimizer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if not last:
            optimizer.step()  # creates the moments, and clears the gradients
    if name in KEPT:
        keep(model, name)
    samples = batch_of(options, model, 0)
    return {"bytes": peak_above(lambda: PASSES.get(name, ours)(model, samples, 0))}


def long_row(options: argparse.Namespace, length: int, checkpointing: bool) -> dict[str, Any]:
    """Measure one row of `length` tokens, a sixth of which are scored; runs in a child process."""
    model = load(options, options.precisions.split(",")[-1])
    use_varlen_attention(model)
    if checkpointing:
        keep(model, "inputs")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rng = random.Random(0)
    ids = tuple(rng.randrange(random_samples.SPECIAL, model.config.vocab_size) for _ in range(length))
    row = Row(ids, tuple(range(length)), tuple(range(1, length, 6)))
    batch = pack([(Rows(row), loss_weights([Rows(row)], LossConfig())[0])])
    times: list[tuple[float, float, Any]] = []
    peak = peak_above(lambda: times.append(timed(lambda: micro_batch_loss(model, batch).loss.backward())))
    return {"clock_s": times[0][0], "processor_s": times[0][1], "bytes": peak}


def compare_kept(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Measure time and memory of our step by which activations it keeps."""
    model = load(options, precision)
    ways = (*KEPT, "compiled") if options.compile else KEPT
    times: dict[str, list[float]] = {what: [] for what in ways}
    losses = set()
    other = copy.deepcopy(model) if options.compile else model
    if options.compile:
        compile_feed_forward(other)
    for repeat in range(-1, options.repeats):
        samples = batch_of(options, model, repeat + 1)
        for what in random.Random(repeat).sample(ways, len(ways)):
            used = other if what == "compiled" else model
            keep(used, "everything" if what == "compiled" else what)
            clock, _, loss = timed(partial(ours, used, samples, 2))
            used.zero_grad(set_to_none=True)
            if repeat >= 0:
                times[what].append(clock)
            if what != "compiled":
                losses.add((repeat, loss))
    found: dict[str, Any] = {"precision": precision, "same_losses": len(losses) == options.repeats + 1}
    for what in KEPT:
        share = statistics.median(t / e for t, e in zip(times[what], times["everything"], strict=True))
        peak = child(options, f"memory:{precision}:{what}")["bytes"]
        found[what] = {"time": round(share, 3), "seconds": statistics.median(times[what]), "mib": peak >> 20}
    if options.compile:
        share = statistics.median(t / e for t, e in zip(times["compiled"], times["everything"], strict=True))
        found["compiled"] = {"time": round(share, 3), "seconds": statistics.median(times["compiled"])}
    return found


def profile(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Profile our step at mask rate 0.5: the share of time of each operation."""
    model = load(options, options.precisions.split(",")[0])
    samples = batch_of(options, model, 0)
    ours(model, samples, 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as measured:
        ours(model, samples, 2)
    events = sorted(measured.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [{"operation": event.key, "share": round(event.self_cpu_time_total / total, 4)} for event in events[:15]]


def measured_alone(options: argparse.Namespace, what: str) -> dict[str, Any]:
    """The measurement of a child process, by its name."""
    kind, *rest = what.split(":")
    if kind == "memory":
        return memory(options, rest[0], rest[1])
    return long_row(options, int(rest[0]), rest[1] == "checkpointing")


def child(options: argparse.Namespace, what: str) -> dict[str, Any]:
    """Run one measurement in a child process; a smoke test starts only one, because each imports torch anew."""
    if options.smoke and options.children:
        return measured_alone(options, what)
    options.children += 1
    flags = [flag for name in ("precisions", "batch", "threads") for flag in (f"--{name}", str(getattr(options, name)))]
    command = [sys.executable, __file__, "--child", what, *flags, *(["--smoke"] if options.smoke else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2, help="samples of a global batch")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    parser.add_argument("--kept", action="store_true", help="by what is kept, instead of the comparison")
    parser.add_argument("--compile", action="store_true", help="with --kept, beside compiled feed-forward blocks")
    parser.add_argument("--long", default="", help="lengths of single rows, instead of the comparison")
    parser.add_argument("--profile", action="store_true", help="where our time goes, instead of the comparison")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and short samples")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.set_defaults(children=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(measured_alone(options, options.child)))
        return
    rows = []
    if options.profile:
        rows = profile(options)
        for row in rows:
            print("{share:7.2%} {operation}".format(**row))
        print(json.dumps(rows))
        return
    if options.long:
        print(f"{'tokens':>7} {'':>14} {'processor s':>12} {'ms/token':>9} {'MiB':>7} {'KiB/token':>10}")
        for length in map(int, options.long.split(",")):
            for mode in ("plain", "checkpointing"):
                found = {"tokens": length, "mode": mode, **child(options, f"long:{length}:{mode}")}
                rows.append(found)
                seconds, size = found["processor_s"], found["bytes"]
                print(
                    f"{length:7d} {mode:>14} {seconds:12.2f} {1000 * seconds / length:9.2f} {size >> 20:7d} "
                    f"{size / length / 1024:10.0f}",
                    flush=True,
                )
        print(json.dumps(rows))
        return
    if options.kept:
        for precision in options.precisions.split(","):
            rows.append(compare_kept(options, precision))
            print(json.dumps(rows[-1]), flush=True)
        print(json.dumps(rows))
        return
    for precision in options.precisions.split(","):
        found = compare(options, precision)
        names = (*PASSES, *KEPT[1:])
        peaks = {name: child(options, f"memory:{precision}:{name}")["bytes"] for name in names}
        found["peak_mib"] = {name: peak >> 20 for name, peak in peaks.items()}
        found["ratio_of_memory"] = round(peaks["ours"] / peaks["plain"], 3)
        rows.append(found)
        print(
            f"{precision}: {found['ratio']} times the samples a second ({found['ratio_of_processor_time']} by "
            f"processor time; by mask rate {found['ratio_by_rate']}), {found['ratio_of_memory']} of the memory "
            f"{found['peak_mib']}",
            flush=True,
        )
    if len(rows) == 2:
        print(f"ours in {rows[1]['precision']} beside plain in {rows[0]['precision']}: ", end="")
        print(f"{rows[1]['samples_per_second']['ours'] / rows[0]['samples_per_second']['plain']:.2f} times the samples")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
