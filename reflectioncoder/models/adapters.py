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
    """A model with the adapter of a directory merged into its weights.

    Args:
        model: the base model with its special tokens added.
        folder: what a run with `lora.output = "adapter"` left.
    """
    from peft import PeftModel

    merged: PreTrainedModel = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return merged


def base_of(folder: Path) -> str | None:
    """The base model of the adapter in a directory; None if there is no adapter."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    _need("peft", f"model {folder} is a LoRA adapter", "peft")
    return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
