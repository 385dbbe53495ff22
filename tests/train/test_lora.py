"""LoRA trains and saves the adapter and the special tokens' rows, and merging does not change the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from ranks import config, same_losses
from safetensors.torch import load_file
from training import At, interrupt, log, quiet
from transformers import AutoModelForCausalLM, TrainerCallback

from reflectioncoder.config.train import LoraConfig, LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.dialogue import write_jsonl
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS, encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train import lora
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, loss_weights
from reflectioncoder.train.compute import loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention
from reflectioncoder.train.consolidate import consolidate
from reflectioncoder.train.train import train

pytest.importorskip("peft", reason="PEFT is not installed; run: make setup")
LORA = LoraConfig(r=4, alpha=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    for name, tied in (("model", True), ("untied", False)):
        tiny.save(folder / name, tiny.llama(258, tied=tied, dtype=torch.float32))
    write_jsonl(folder / "data.jsonl", tiny.dialogues(7))
    return folder


def lora_config(base: Path, output: Path, output_kind: str = "merged", **changes: Any) -> TrainConfig:
    kind: Any = output_kind
    return config(base, output, lora=dataclasses.replace(LORA, output=kind), **changes)


@pytest.mark.parametrize("name", ["model", "untied"])
def test_merged_and_adapter_are_the_same_model_with_new_special_rows(base: Path, tmp_path: Path, name: str) -> None:
    model = str(base / name)
    train(lora_config(base, tmp_path / "merged", model=model, learning_rate=1e-2), quiet)
    train(lora_config(base, tmp_path / "adapter", "adapter", model=model, learning_rate=1e-2), quiet)
    assert log(tmp_path / "merged")[-1]["teacher_ce"] < log(tmp_path / "merged")[0]["teacher_ce"]
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert not (tmp_path / "merged" / "adapter_model.safetensors").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    loaded, tokenizer = load_model_and_tokenizer(str(tmp_path / "adapter"), device="cpu")
    ids = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), 70, 80, 90]])
    assert torch.allclose(merged(ids).logits, loaded(ids).logits, atol=1e-5)
    untouched, words = load_model_and_tokenizer(model, device="cpu")
    add_special_tokens(untouched, words)
    rows = words.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    for table in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(untouched, table)().weight, getattr(merged, table)().weight
        assert ((before - after)[rows].abs().amax(1) > 0).all()
        others = [i for i in range(len(before)) if i not in rows]
        assert torch.equal(before[others], after[others])
    before, after = (m.model.layers[0].mlp.up_proj.weight for m in (untouched, merged))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("tied", [True, False])
def test_few_trained_rows_beside_frozen_tables_give_what_merged_tables_give(
    base: Path, tmp_path: Path, tied: bool
) -> None:
    words = tiny.tokenizer()
    network = tiny.llama(258, tied)
    add_special_tokens(network, words)
    use_varlen_attention(network)
    model = lora.add_adapters(
        network, words, dataclasses.replace(lora_config(base, tmp_path), precision="float32")
    ).double()
    samples = [encode_dialogue(dialogue, words, str(i)) for i, dialogue in enumerate(tiny.dialogues(4))]
    rows = [build_rows(sample, MaskingConfig(), "keep", 5, 10, 0) for sample in samples]
    batch = pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for merged_tables in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if merged_tables:
                patch.setattr(loss, "head_of", merged_head)
                del network.get_input_embeddings().token_adapter.forward  # restores PEFT's own forward
            terms = loss.micro_batch_loss(network, batch, chunk=50)
        found.append((terms, torch.autograd.grad(terms.loss, trained)))
    (few, left), (merged, right) = found
    assert torch.allclose(torch.stack(list(few)), torch.stack(list(merged)), rtol=1e-12)
    for one, other in zip(left, right, strict=True):
        assert (one - other).abs().max() < 1e-11 and other.abs().max() > 1e-6


def merged_head(model: Any) -> loss.Head:
    """Build the whole table with the trained rows merged in, as PEFT's own forward does."""
    rows = model.get_output_embeddings().token_adapter
    return loss.Head(rows.get_merged_weights(rows.active_adapters))


class Precisions(TrainerCallback):
    """Collects the dtypes of the trained parameters and of the adapters' inputs."""

    def __init__(self) -> None:
        self.trained: set[torch.dtype] = set()
        self.read: set[torch.dtype] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
        for name, module in model.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(lambda _, inputs: self.read.add(inputs[0].dtype))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_adapter_run_goes_on_exactly(base: Path, tmp_path: Path, precision: Any) -> None:
    seen = Precisions()
    train(lora_config(base, tmp_path / "whole", precision=precision), quiet, [seen])
    assert seen.trained == seen.read == {getattr(torch, precision)}
    with pytest.raises(UserError, match="continue from checkpoint-2"):
        train(lora_config(base, tmp_path / "cut", precision=precision), quiet, [At(3, interrupt)])
    kept = load_file(tmp_path / "cut" / "checkpoint-2" / "adapter_model.safetensors")
    assert kept and all(min(value.shape) <= 7 for value in kept.values())  # no whole tables
    train(lora_config(base, tmp_path / "cut", precision=precision, resume=True), quiet)
    same_losses(tmp_path / "whole", tmp_path / "cut", 0.0)


def test_a_checkpoint_of_an_adapter_becomes_a_plain_model(base: Path, tmp_path: Path) -> None:
    def run(name: str, steps: int) -> TrainConfig:
        # A step must not depend on the total number of steps.
        same: Any = {"masking": MaskingConfig("all"), "scheduler": "constant", "warmup_ratio": 0.0}
        return lora_config(base, tmp_path / name, "adapter", max_steps=steps, learning_rate=1e-2, **same)

    train(run("short", 2), quiet)
    with pytest.raises(UserError, match="continue from checkpoint-2"):
        train(run("long", 6), quiet, [At(3, interrupt)])
    consolidate(tmp_path / "long", tmp_path / "plain")
    assert not (tmp_path / "plain" / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    short, _ = load_model_and_tokenizer(str(tmp_path / "short"), device="cpu")
    for (name, left), right in zip(plain.named_parameters(), short.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6), name


def test_a_plain_model_in_an_adapters_place_is_loaded_as_such(base: Path, tmp_path: Path) -> None:
    train(lora_config(base, tmp_path, "adapter", max_steps=1), quiet)
    (tmp_path / "notes.txt").write_text("mine")
    train(config(base, tmp_path, max_steps=2, learning_rate=1e-2, overwrite=True), quiet)
    assert not list(tmp_path.glob("adapter_*")) and (tmp_path / "notes.txt").exists()
    loaded, _ = load_model_and_tokenizer(str(tmp_path), device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.layers[0].mlp.up_proj.weight, plain.model.layers[0].mlp.up_proj.weight)


def test_what_the_environment_says_of_sharding_counts(base: Path, tmp_path: Path) -> None:
    settings = lora_config(base, tmp_path, sharding="configs/accelerate/ddp.yaml")
    lora.check_lora(settings, torch.device("cpu"), "none")
    for engine in ("fsdp2", "deepspeed"):  # engines set by `accelerate launch`
        with pytest.raises(UserError, match=f"lora.r with sharding by {engine}"):
            lora.check_lora(lora_config(base, tmp_path), torch.device("cpu"), engine)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(r=4, targets=("no_such_layer",)), "lora.targets = no_such_layer"),
        (LoraConfig(r=-1), "lora.r = -1"),
        (LoraConfig(quantize="4bit"), "set lora.r"),
        (LoraConfig(r=4, quantize="4bit"), "bitsandbytes is not installed|needs a CUDA GPU"),
    ],
)
def test_bad_lora_settings_give_one_line(base: Path, tmp_path: Path, lora: LoraConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(config(base, tmp_path / "out", lora=lora), quiet)
    assert "\n" not in str(caught.value)
