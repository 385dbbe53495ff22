"""The shipped recipes load and have the paper's settings; the dry run predicts the numbers of the real run."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
from places import ROOT
from training import config, log, quiet
from transformers import Qwen2Config

from reflectioncoder.config.toml import load
from reflectioncoder.config.train import LoraConfig, TrainConfig
from reflectioncoder.train.dry_run import Memory, host_memory, memory, shape_of
from reflectioncoder.train.train import describe_plan, train

RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.toml"))
PAPER = {"codellama-7b": 5e-5, "codellama-34b": 2e-5, "deepseek-coder-6.7b": 5e-5, "deepseek-coder-33b": 2e-5}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_with_the_papers_settings(path: Path) -> None:
    recipe = load(TrainConfig, path)
    assert (recipe.batch_size, recipe.max_length, recipe.epochs, recipe.upsample) == (512, 4096, 2.0, 2)
    assert (recipe.scheduler, recipe.warmup_ratio, recipe.optimizer) == ("cosine", 0.05, "adamw")
    assert recipe.masking.strategy == "block" and recipe.masking.order == ("execution", "text", "code")
    assert recipe.learning_rate == PAPER.get(path.stem, recipe.learning_rate)
    assert (recipe.bos == "none") == ("qwen" in path.stem)


def test_the_paper_and_todays_models_have_recipes() -> None:
    names = {path.stem for path in RECIPES}
    assert set(PAPER) < names
    assert {f"qwen2.5-coder-{size}b" for size in ("0.5", "1.5", "3", "7", "14", "32")} < names
    assert {"qwen3-8b", "smollm2-135m", "smollm2-1.7b"} < names


def test_the_dry_run_counts_what_the_run_does(base: Path, tmp_path: Path) -> None:
    told = describe_plan(config(base, tmp_path / "other", tokens_per_second=100.0)).splitlines()
    result = train(config(base, tmp_path / "out"), quiet)
    assert f"6 steps, {result.tokens:,} tokens" in told[0]
    assert told[1] == "samples a step: 4, spread over 1 rank"
    counts = [line.split(": ")[1].split() for line in told[2:5]]  # "N teacher tokens, M student tokens"
    thirds = [[int(words[place].replace(",", "")) for place in (0, 3)] for words in counts]
    assert [line.split(":")[0] for line in told[2:5]] == ["steps 1 to 2", "steps 3 to 4", "steps 5 to 6"]
    each = [sum(numbers) for numbers in thirds]
    logged = [0, *(log(tmp_path / "out")[step]["tokens"] for step in (1, 3, 5))]
    assert each == [b - a for a, b in pairwise(logged)]
    assert told[-1].startswith(f"expected time: {result.tokens / 100:.0f} seconds at 100 tokens per second")
    guessed = describe_plan(config(base, tmp_path / "other")).splitlines()[-1]
    assert "TFLOP/s of a matrix product on this cpu" in guessed


def test_memory_is_what_the_bytes_of_each_part_add_up_to() -> None:
    shape = Qwen2Config(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )
    run = TrainConfig(precision="bfloat16", micro_tokens=10)
    whole = memory(run, 1000, shape, "none", 4)
    # Per parameter: 2 bytes of weights, 4 of gradients, 4 of the float32 copy and 8 of moments.
    assert (whole.weights, whole.gradients, whole.optimizer) == (2000, 4000, 12000)
    assert whole.activations == 10 * 2 * (2 * (6 * 8 + 2 * 4 + 4 * 16) + 4 * 2 * 8)
    stage1, stage2 = (memory(run, 1000, shape, engine, 4) for engine in ("zero1", "zero2"))
    assert (stage1.gradients, stage1.optimizer) == (4000, 3000) and (stage2.gradients, stage2.optimizer) == (1000, 3000)
    sharded = memory(run, 1000, shape, "fsdp2", 4)
    assert (sharded.gradients, sharded.optimizer) == (1000, 2000) and sharded.weights > 1000
    checkpointed = memory(TrainConfig(gradient_checkpointing=True, micro_tokens=10), 1000, shape, "none", 1)
    assert checkpointed.activations < whole.activations
    adapters = memory(TrainConfig(lora=LoraConfig(r=1)), 10**6, shape, "none", 1)
    assert adapters.weights == 2 * 10**6 and adapters.optimizer < 10**5
    assert Memory(1, 2, 3, 4, 5).total == 15
    # The two rows of a sample larger than the budget form a micro-batch of their own; the head's gradient is float32.
    assert memory(run, 1000, shape, "none", 4, largest=15).activations == 1.5 * whole.activations
    assert memory(run, 1000, shape, "none", 4, largest=5) == whole
    larger = Qwen2Config(**{**shape.to_dict(), "vocab_size": shape.vocab_size + 10})
    assert memory(run, 1000, larger, "none", 4).logits == whole.logits + 4 * 10 * 8


def test_host_memory_is_a_copy_for_every_rank_that_reads_the_weights(tmp_path: Path) -> None:
    given = ROOT / "configs" / "accelerate" / "fsdp2.yaml"
    run = TrainConfig(precision="bfloat16", sharding=str(given))
    assert host_memory(run, 1000, "fsdp2", 8) == 4000
    assert host_memory(run, 1000, "zero3", 8) == 2 * 8000
    (tmp_path / "own.yaml").write_text(given.read_text().replace("loading: true", "loading: false"))
    assert host_memory(TrainConfig(sharding=str(tmp_path / "own.yaml")), 1000, "fsdp2", 8) == 4 * 8000


def test_the_dry_run_tells_of_samples_over_the_budget(base: Path, tmp_path: Path) -> None:
    run = config(base, tmp_path / "out", tokens_per_second=100.0, micro_tokens=50, batch_size=1)
    told = describe_plan(run)
    train(run, quiet)
    tokens = [0, *(int(line["tokens"]) for line in log(tmp_path / "out"))]
    largest = max(b - a for a, b in pairwise(tokens))  # a step has one sample
    assert f"the largest sample has {largest} tokens in its two rows, more than micro_tokens = 50" in told
    assert "the largest sample" not in describe_plan(dataclasses.replace(run, micro_tokens=5000, output="elsewhere"))


def test_the_number_of_parameters_comes_from_the_configuration(base: Path, tmp_path: Path) -> None:
    model = tiny.llama(258, dtype=torch.float32)
    assert shape_of(config(base, tmp_path))[0] == sum(parameter.numel() for parameter in model.parameters())
