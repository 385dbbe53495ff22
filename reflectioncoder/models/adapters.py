"""LoRA adapters in a directory: finding their base model, and merging them into it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from transformers import PreTrainedModel

from reflectioncoder.errors import UserError

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def _need(module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{what}: {module} is not installed; run: pip install 'reflectioncoder[{extra}]'")


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge an adapter into a model.

    Args:
        model: the base model with the special tokens added.
        folder: output directory of a run with `lora.output = "adapter"`.

    Returns:
        the merged model.
    """
    from peft import PeftModel

    merged: PreTrainedModel = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return merged


def base_of(folder: Path) -> str | None:
    """Return the name of the base model of the adapter in a directory, or None if there is no adapter.

    Raises:
        UserError: there is an adapter, but PEFT is not installed.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    _need("peft", f"model {folder} is a LoRA adapter", "peft")
    return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
