"""`reflectioncoder train --dry-run`: steps, tokens, memory and time of a run, without loading any weights.

Memory and time are estimated from the model's configuration. `Memory` lists what is counted; allocator overhead is not
included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.tokenization_utils_base import AddedToken

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.models.load import choose_device, load_tokenizer, resolve
from reflectioncoder.models.model_files import base_of
from reflectioncoder.models.special_tokens import check_end_token
from reflectioncoder.train.arguments import check_optimizer, training_device
from reflectioncoder.train.batch.steps import TrainSteps, data_digest, prepare, summary
from reflectioncoder.train.checkpoints import TrainProgress, check_same_data
from reflectioncoder.train.compute.loss import chunk_bytes
from reflectioncoder.train.data import read_dialogues
from reflectioncoder.train.held_out import hold_out
from reflectioncoder.train.lora import check_lora
from reflectioncoder.train.output import check_places
from reflectioncoder.train.ranks.sharding import variables
from reflectioncoder.train.ranks.world import World

GIB = 2**30
THIRDS = 3
# Fraction of the speed of a plain matrix product that training reaches, for the time estimate.
SHARE_OF_PRODUCT = 0.5
WIDTHS = (10, 11, 11, 13, 8, 8, 9)
LEAST_PRODUCTS = 8
DEFAULT_RANKS = 8  # for the sharded columns, if the run itself has a single rank


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Args:
        weights: weights, and the layers that a sharding engine gathers for computation.
        gradients: gradients, accumulated in float32.
        optimizer: float32 copies of the weights and the two moments of AdamW.
        activations: activations of the largest pass, kept for the backward pass.
        logits: logits of one chunk of scored tokens, and the float32 gradient of the output head.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def shape_of(config: TrainConfig) -> tuple[int, PreTrainedConfig]:
    """Return the number of parameters of a model and its configuration, without loading weights."""
    source = resolve(config.model)
    while (base := base_of(Path(source))) is not None:
        source = resolve(base)
    try:
        found = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"model {config.model}: cannot be loaded ({first_line(error)})") from None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found, trust_remote_code=config.trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters()), found


def memory(config: TrainConfig, parameters: int, shape: Any, engine: str, ranks: int, largest: int = 0) -> Memory:
    """Estimate the memory of one device.

    Args:
        config: configuration of the run.
        parameters: number of parameters of the model.
        shape: the model's configuration.
        engine: `none`, `zero1`, `zero2`, `zero3` or `fsdp2`.
        ranks: number of ranks that the engine shards over.
        largest: tokens of the largest sample's rows, which are not split over several passes even above `micro_tokens`.
    """
    tokens = max(config.micro_tokens, largest)
    low = 2 if config.precision == "bfloat16" else 4
    shape = shape.get_text_config()
    hidden, layers = shape.hidden_size, shape.num_hidden_layers
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    key_heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    keys = key_heads * (getattr(shape, "head_dim", None) or hidden // shape.num_attention_heads)
    # Per layer and token: inputs and results of two norms, queries, attention output, its projection, keys and values,
    # and four tensors of the gated feed-forward network. Norms keep their tensors in float32.
    of_layer = low * (6 * hidden + 2 * keys + 4 * inner) + 4 * 2 * hidden
    kept = layers * of_layer
    if config.gradient_checkpointing:
        kept = layers * low * hidden + of_layer
    elif config.selective_checkpointing:  # layer input, queries, two attention tensors, keys and values, gate and up
        kept = layers * low * (4 * hidden + 2 * keys + 2 * inner) + of_layer
    logits = 3.0 * chunk_bytes(choose_device(config.device)) + 4 * shape.vocab_size * hidden
    trained = parameters
    if config.lora.r:
        trained = layers * config.lora.r * (7 * hidden + 3 * inner + 2 * keys) + len(SPECIAL_TOKENS) * hidden
        weights = parameters * (0.55 if config.lora.quantize == "4bit" else low)
        return Memory(weights, 4 * trained, 8 * trained, kept * tokens, logits)
    layer = parameters / (layers + 1) * low  # gathered one layer at a time
    masters = 4 if low == 2 else 0
    weights = trained * low
    gradients, optimizer = 4.0 * trained, float((masters + 8) * trained)
    if config.loss.teacher == "average":  # in float32, and once more as it is used
        weights += (4 + low) * trained
    if engine in ("zero1", "zero2", "zero3", "fsdp2"):
        optimizer /= ranks
    if engine in ("zero2", "zero3", "fsdp2"):
        gradients /= ranks
    if engine == "zero3":
        weights = weights / ranks + 2 * layer
    if engine == "fsdp2":  # its shards are the float32 weights themselves
        weights, optimizer = 4.0 * trained / ranks + 2 * layer, 8.0 * trained / ranks
    return Memory(weights, gradients, optimizer, kept * tokens, logits)


def host_memory(config: TrainConfig, parameters: int, engine: str, ranks: int) -> float:
    """Bytes of host memory that the ranks of one machine use while they load the model.

    Args:
        config: configuration of the run.
        parameters: number of parameters of the model.
        engine: as in `memory`. With `fsdp2` the weights are float32, and only rank 0 reads them if the `sharding` file
            sets `fsdp_cpu_ram_efficient_loading: true`, as configs/accelerate/fsdp2.yaml does.
        ranks: number of ranks on the machine.
    """
    if engine == "fsdp2":
        return 4.0 * parameters * (1 if _hands_out(config.sharding) else ranks)
    # Newer releases of transformers need only one copy with ZeRO-3 as well.
    return float((2 if config.precision == "bfloat16" else 4) * parameters * ranks)


def _hands_out(path: str) -> bool:
    return not path or variables(path).get("FSDP_CPU_RAM_EFFICIENT_LOADING") == "true"


def product_speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Measure the floating-point operations per second of a plain matrix product.

    The fastest of many products counts: on a busy machine most of them wait for others.

    Args:
        device: device to measure.
        dtype: number type of the matrices.
        seconds: duration of the measurement.
    """
    size = 4096 if device.type == "cuda" else 512
    left = torch.ones(size, size, dtype=dtype, device=device)
    times: list[float] = []
    until = time.monotonic() + seconds
    while len(times) < LEAST_PRODUCTS or time.monotonic() < until:
        start = time.perf_counter()
        right = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    del right
    return 2 * size**3 / max(min(times), 1e-9)


def plan_text(config: TrainConfig, begun: TrainProgress) -> str:
    """Describe what a run would do, without loading the weights.

    Args:
        config: configuration of the run.
        begun: progress of the checkpoint that the run would continue from.

    Raises:
        UserError: a setting, the data or the tokenizer is invalid, as in `train`.
    """
    notes: list[str] = []
    device = training_device(config)
    check_lora(config, device, "none")
    check_optimizer(config, device)
    dialogues, _ = read_dialogues(config, config.data, notes.append)
    others, _ = read_dialogues(config, config.eval_data, notes.append)
    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
    check_end_token(tokenizer)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    samples, repeats, dropped = prepare(dialogues, tokenizer, config)
    counted = summary(samples, dropped, config)
    samples, repeats, held = hold_out(samples, repeats, others, tokenizer, config)
    check_same_data(config, begun, data_digest(samples, repeats, held))
    world = World.from_environment()
    steps = TrainSteps(samples, repeats, config, world)
    check_places(config, len(steps))
    tokens, largest, lines = _tokens(steps)
    parameters, shape = shape_of(config)
    many = f"{len(steps)} steps, {tokens:,}"
    if steps.by_tokens:
        many = f"at most {len(steps)} steps, {config.max_tokens:,}"
        tokens = config.max_tokens
    first = (
        f"would train {config.model} ({config.objective}) on {counted}: "
        f"{many} tokens through the model, into {config.output}"
    )
    return "\n".join(
        [
            *notes,
            first,
            f"samples a step: {config.batch_size}, spread over {world.size} rank{'s' if world.size > 1 else ''}",
            *lines,
            *_memory_lines(config, parameters, shape, world, largest),
            _time_line(config, parameters, tokens, world),
        ]
    )


def _tokens(steps: TrainSteps) -> tuple[int, int, list[str]]:
    """Return the tokens of the whole run, the tokens of its largest sample, and a line per third of the schedule."""
    total, largest, lines = 0, 0, []
    bounds = [round(k * len(steps) / THIRDS) for k in range(THIRDS + 1)]
    for start, end in pairwise(bounds):
        meetings = [(step, i) for step in range(start, end) for i in steps.plan[step]]
        teacher = sum(len(steps.samples[i]) for _, i in meetings)
        costs = [steps.cost(i, step, len(steps)) for step, i in meetings]
        both = sum(costs)
        total, largest = total + both, max([largest, *costs])
        if meetings:
            which = f"steps {start + 1} to {end}" if end > start + 1 else f"step {end}"
            lines.append(f"{which}: {teacher:,} teacher tokens, {both - teacher:,} student tokens")
    return total, largest, lines


def _memory_lines(
    config: TrainConfig, parameters: int, shape: PreTrainedConfig, world: World, largest: int
) -> list[str]:
    ranks = world.size if world.size > 1 else DEFAULT_RANKS
    engines: Sequence[str] = ("none",) if config.lora.r else ("none", "zero1", "zero2", "zero3", "fsdp2")
    on_machine = min(ranks, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
    lines = [
        f"memory per device, estimated in GiB for {parameters:,} parameters: unsharded (none), and as it would be if "
        f"sharded over {ranks} ranks (host: memory of the machine while its ranks load the model):"
    ]
    if largest > config.micro_tokens:
        lines.append(
            f"the largest sample has {largest:,} tokens in its two rows, more than micro_tokens = "
            f"{config.micro_tokens:,}, and goes alone: activations are counted for it"
        )
    heads = ("weights", "gradients", "optimizer", "activations", "logits", "total", "host")
    lines.append(f"{'':8}" + "".join(f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)))
    for engine in engines:
        need = memory(config, parameters, shape, engine, ranks, largest)
        host = host_memory(config, parameters, engine, on_machine if engine != "none" else min(world.size, on_machine))
        values = (need.weights, need.gradients, need.optimizer, need.activations, need.logits, need.total, host)
        cells = (f"{value / GIB:>{width}.2f}" for value, width in zip(values, WIDTHS, strict=True))
        lines.append(f"{engine:8}" + "".join(cells))
    return lines


def run_size(config: TrainConfig) -> tuple[int, float]:
    """Return the tokens of a run, and its speed in tokens per second, given or guessed, without loading the weights.

    Raises:
        UserError: a setting, the data or the tokenizer is invalid, as in `train`.
    """
    dialogues, _ = read_dialogues(config, config.data, lambda _: None)
    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    samples, repeats, _ = prepare(dialogues, tokenizer, config)
    samples, repeats, _ = hold_out(samples, repeats, (), tokenizer, replace(config, eval_data=()))
    world = World.from_environment()
    steps = TrainSteps(samples, repeats, config, world)
    return _tokens(steps)[0], _speed(config, shape_of(config)[0], world)[0]


def _speed(config: TrainConfig, parameters: int, world: World) -> tuple[float, str]:
    """Tokens per second, and where the number comes from."""
    if config.tokens_per_second > 0:
        return config.tokens_per_second, "as given"
    device = choose_device(config.device)
    flops = product_speed(device, getattr(torch, config.precision))
    passes = 8 if config.gradient_checkpointing else 6
    speed = SHARE_OF_PRODUCT * flops * world.size / (passes * parameters)
    return speed, f"guessed from {flops / 1e12:.2f} TFLOP/s of a matrix product on this {device.type}"


def _time_line(config: TrainConfig, parameters: int, tokens: int, world: World) -> str:
    speed, how = _speed(config, parameters, world)
    seconds = tokens / speed
    length = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds:.0f} seconds"
    return f"expected time: {length} at {speed:,.0f} tokens per second ({how}; give tokens_per_second to set it)"
