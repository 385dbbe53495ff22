"""Merges LoRA adapters into their base models."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from reflectioncoder.errors import UserError, first_line


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge an adapter into a model.

    Args:
        model: the base model with the special tokens added.
        folder: output directory of a run with `lora.output = "adapter"`.

    Returns:
        the merged model.

    Raises:
        UserError: the adapter cannot be read, or belongs to another model.
    """
    from peft import PeftModel

    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise UserError(f"model {folder}: its adapter does not fit its base model ({first_line(error)})") from None
    return merged.requires_grad_(True)  # PEFT has frozen the base model
