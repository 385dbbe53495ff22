"""Checks of a model's files before torch is loaded, so that a directory that cannot work gives one line in a second."""

from __future__ import annotations

import importlib.util
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.config.pretrain import MICRO_MODEL, PretrainConfig
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.owned import READY, read_marker
from reflectioncoder.models.micro import micro_folder

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
LFS = b"version https://git-lfs.github.com/spec"
MODEL_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
# Packages that load weights of a quantisation, by its name in config.json.
QUANTISERS = {
    "aqlm": "aqlm", "auto-round": "auto_round", "awq": "gptqmodel", "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors", "eetq": "eetq", "fbgemm_fp8": "fbgemm_gpu", "gptq": "gptqmodel",
    "higgs": "flute", "hqq": "hqq", "mxfp4": "kernels", "quanto": "optimum", "quark": "quark", "spqr": "spqr_quant",
    "torchao": "torchao", "vptq": "vptq",
}  # fmt: skip
WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
TEXTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def check_model_files(name: str, weights: bool = True) -> None:
    """Make sure, as far as the file system can tell, that a model can be loaded. Hub names are not looked up.

    Args:
        name: a directory, a hub name, or the name of the embedded or of the micro model.
        weights: whether the weights are needed, and not the tokenizer alone.

    Raises:
        UserError: a path without a directory, files that are missing, incomplete or placeholders, an adapter whose base
            model is missing, or a quantised model without the package that it needs.
    """
    folder = Path(name)
    if name == EMBEDDED_MODEL:
        return
    if name == MICRO_MODEL:
        if not (micro_folder(PretrainConfig()) / "config.json").is_file():
            raise UserError(f"model {name}: is not made yet; run: reflectioncoder pretrain")
        return
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"model {name}: is a file; name the directory of a model (with config.json and weights)")
        if looks_local(name):
            raise UserError(f"model {name}: no such directory; give the path of a model, or its name on the hub")
        return
    new = read_marker(folder / READY)
    if new is not None:
        raise UserError(
            f"model {name}: its files were being replaced when the run was killed; run `reflectioncoder {new.command}` "
            "again to complete that"
        )
    _check_contents(name, folder)
    base = base_of(folder) if weights else None
    if base is not None:
        try:
            check_model_files(base)
        except UserError as error:
            raise UserError(f"model {name}: is a LoRA adapter; its base {error}") from None
        return
    if weights:
        _check_configuration(name, folder)


def looks_local(name: str) -> bool:
    """Whether a name that does not exist here is a path rather than a name on the hub."""
    parent = Path(name).parent
    return not MODEL_NAME.fullmatch(name) or ("/" in name and (parent.is_dir() or parent.name == "runs"))


def _check_contents(name: str, folder: Path) -> None:
    """Raise UserError for placeholders of Git LFS and for files that were not downloaded completely."""
    for path in (path for pattern in (*WEIGHT_PATTERNS, *TEXTS) for path in sorted(folder.glob(pattern))):
        try:
            with path.open("rb") as data:
                start = data.read(len(LFS))
        except OSError as error:
            raise UserError(f"file {path}: {error.strerror or error}") from None
        if start == LFS:
            raise UserError(f"file {path}: is a pointer of Git LFS, not the file itself; run: git -C {folder} lfs pull")
    for index in sorted(folder.glob("*.index.json")):
        shards = sorted(set(_object(index).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise UserError(
                f"model {name}: {len(missing)} of {len(shards)} files of weights are missing, the first is "
                f"{missing[0]}; complete the download"
            )
    for path in sorted(folder.glob("*.safetensors")):
        size, expected = path.stat().st_size, _safetensors_size(path)
        if size != expected or not expected:
            of = f" of {expected}" if expected else ""
            raise UserError(f"file {path}: has {size}{of} bytes, so it is incomplete or damaged; download it again")
    for path in sorted(folder.glob("pytorch_model*.bin")):
        with path.open("rb") as data:
            zipped = data.read(2) == b"PK"
        if path.stat().st_size == 0 or (zipped and not zipfile.is_zipfile(path)):
            raise UserError(f"file {path}: is incomplete or damaged; download it again")


def _safetensors_size(path: Path) -> int:
    """The size that a file of safetensors must have by its header; 0 if it has none."""
    try:
        with path.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            if length > path.stat().st_size:
                return 8 + length
            header = parse_json(data.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            return int(8 + length + max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return 0


def _check_configuration(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        inside = next(_checkpoints(folder), None)
        if inside is not None:
            raise UserError(
                f"model {name}: is a run whose model is not finished; continue the run, or write the model of "
                f"{inside.name} with: reflectioncoder consolidate {inside} DIRECTORY"
            )
        raise UserError(f"model {name}: has no config.json, so it is not the directory of a model")
    settings = _object(folder / "config.json")
    if not isinstance(settings.get("model_type"), str):
        raise UserError(f"file {folder / 'config.json'}: has no model_type, so it is not the configuration of a model")
    unfinished = sorted(folder.glob("**/*.incomplete"))
    if not any(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)):
        what = f"; its download was not completed ({unfinished[0].name})" if unfinished else ""
        raise UserError(f"model {name}: has no weights (model.safetensors or its parts){what}")
    method = quantisation_method(settings)
    package = QUANTISERS.get(method, "")
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"model {name}: its weights are quantised with {method}, which needs the package "
            f"{package.replace('_', '-')}; install it, or take the unquantised model"
        )


def _checkpoints(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("checkpoint-*"), reverse=True) if (path / "config.json").is_file())


def quantisation_method(settings: Any) -> str:
    """The name of the quantisation in a model's config.json; empty if its weights are not quantised."""
    found = settings.get("quantization_config")
    return str(found.get("quant_method", "bitsandbytes")).lower() if isinstance(found, dict) else ""


def trained_as_it_is(name: str) -> str:
    """The name of the quantisation of a local model, whose weights cannot be trained; empty if they can be."""
    path = Path(name) / "config.json"
    return quantisation_method(_object(path)) if path.is_file() else ""


def _object(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"file {path}: cannot be read as JSON ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise UserError(f"file {path}: expected a JSON object, found {type(found).__name__}")
    return found


def base_of(folder: Path) -> str | None:
    """Return the name of the base model of the adapter in a directory, or None if there is no adapter.

    Raises:
        UserError: there is an adapter, but PEFT is not installed, or its configuration names no base model.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    need("peft", f"model {folder} is a LoRA adapter", "peft")
    base = _object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"file {folder / ADAPTER_CONFIG}: names no base model (base_model_name_or_path)")
    if not any((folder / name).is_file() for name in (ADAPTER, "adapter_model.bin")):
        raise UserError(f"model {folder}: is a LoRA adapter without weights ({ADAPTER}); complete the download")
    return base


def need(module: str, what: str, extra: str) -> None:
    """Raise UserError if a module of an extra is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{what}: {module} is not installed; run: pip install 'reflectioncoder[{extra}]'")
