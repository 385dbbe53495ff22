"""A model that cannot be used gives one line before torch is loaded, and what is trained can be saved."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.model_files import check_model_files

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 538090408\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny.save(folder, tiny.llama(258, dtype=torch.float32))
    return folder


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def half(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    table = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def only_pickled(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(data)


def an_adapter(folder: Path, base: str | None) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")


AT_ONCE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer": (lambda f: (f / "model.safetensors").write_text(LFS), r"is a pointer of Git LFS.* lfs pull"),
    "tokenizer pointer": (
        lambda f: (f / "tokenizer.json").write_text(LFS),
        r"tokenizer\.json: is a pointer",
    ),
    "half": (half, r"model\.safetensors: has \d+ of \d+ bytes, so it is incomplete"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "has 0 bytes, so it is incomplete"),
    "shard": (without_a_shard, r"1 of 2 files of weights are missing, the first is model-00002-of-00002\.safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "bad config": (lambda f: (f / "config.json").write_text("{"), r"config\.json: cannot be read as JSON"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 99999), r"config\.json: cannot be read as JSON"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object, found list"),
    "no type": (lambda f: (f / "config.json").write_text("{}"), "has no model_type"),
    "quantised": (
        lambda f: settings(f, quantization_config={"quant_method": "gptq"}),
        "quantised with gptq, which needs the package gptqmodel",
    ),
    "half pickle": (lambda f: only_pickled(f, b"PK\x03\x04half"), r"pytorch_model\.bin: is incomplete or damaged"),
    "adapter": (
        lambda f: an_adapter(f, "/nowhere/base"),
        "is a LoRA adapter; its base model /nowhere/base: no ",
    ),
    "no base": (lambda f: an_adapter(f, None), "names no base model"),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_files_that_cannot_be_a_model_give_one_line(model: Path, name: str) -> None:
    spoil, message = AT_ONCE[name]
    spoil(model)
    with pytest.raises(UserError, match=message) as caught:
        check_model_files(str(model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "runs/nowhere", "a/b/c", "..", "no where", "~/x"])
def test_a_missing_directory_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such directory|has no config"):
        check_model_files(name)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-Coder-0.5B", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_name_on_the_hub_is_left_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    check_model_files(name)


def test_a_local_folder_with_an_owners_name_means_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="model models/mine: no such directory"):
        check_model_files("models/mine")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--data", "data.jsonl", "--model"),
        ("generate", "--task", "handwritten", "--model"),
        ("evaluate", "--generate.task", "handwritten", "--generate.model"),
        ("build", "--sampler", "native", "--native.model"),
    ],
)
def test_every_command_says_so_without_loading_torch(tmp_path: Path, words: tuple[str, ...]) -> None:
    """An empty module in the place of torch would fail at its first use."""
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('loaded')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "reflectioncoder", *words, "runs/nowhere"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "model runs/nowhere: no such directory" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "loaded" not in done.stderr


class Hostile:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def too_wide(folder: Path) -> None:
    settings(folder, hidden_size=64)


def too_deep(folder: Path) -> None:
    settings(folder, num_hidden_layers=3)


def too_flat(folder: Path) -> None:
    settings(folder, num_hidden_layers=1)


def a_tensor_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def custom_code(folder: Path) -> None:
    settings(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    (folder / "mine.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")


LATER: dict[str, tuple[Callable[[Path], object], str]] = {
    "wide": (too_wide, r"cannot be loaded \(.+\)"),
    "deep": (too_deep, r"hold no weights for \d+ tensors of its config\.json, the first is model\.layers\.2\."),
    "flat": (too_flat, r"its config\.json has 1 layers and its files have more"),
    "tensor": (a_tensor_less, r"hold no weights for 1 tensors .*model\.layers\.0\.self_attn\.q_proj\.weight"),
    "unknown": (lambda f: settings(f, model_type="nothing"), "cannot be loaded|no tokenizer can be loaded"),
    "custom": (custom_code, "needs Python code that comes with the model; set trust_remote_code if you trust"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer can be loaded|not a tokenizer"),
}


@pytest.mark.parametrize("name", LATER)
def test_weights_and_configuration_that_do_not_fit_give_one_line(model: Path, name: str) -> None:
    spoil, message = LATER[name]
    spoil(model)
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        load_model_and_tokenizer(str(model), device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert time.monotonic() - started < 30 and not (model / "ran").exists()


def test_a_hostile_pickle_is_not_run(model: Path, tmp_path: Path) -> None:
    only_pickled(model, pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"cannot be loaded \("):
        load_model_and_tokenizer(str(model), device="cpu")
    assert not (tmp_path / "ran").exists()
