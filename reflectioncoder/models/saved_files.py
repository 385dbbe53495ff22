"""What is saved beside the weights: in a form that transformers 4.57 and 5 read alike, and tried before training."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.models.tokenizer import write_tokenizer

# Settings of a generation config that mean something only if answers are sampled, and their neutral values.
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def complete_configuration(folder: Path) -> None:
    """Write the rotary settings of config.json under their earlier names too.

    transformers 5 writes `rope_parameters` only, and 4.57 then takes its default base of 10,000 without a word. Models
    with settings per kind of layer are left as they are, because 4.57 has other names for them in each architecture.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    settings = parse_json(path.read_text(encoding="utf-8"))
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        rope = part.get("rope_parameters")
        if isinstance(rope, dict) and "rope_theta" in rope:
            own = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
            scaling = {name: value for name, value in rope.items() if name not in own}
            for name, value in own.items():
                part.setdefault(name, value)
            if scaling.get("rope_type", "default") != "default":
                part.setdefault("rope_scaling", scaling)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def repair_generation_config(model: Any) -> str:
    """Make the generation config of a model one that can be saved.

    transformers refuses to save sampling settings without `do_sample`, which many older models have (Llama 2, Vicuna).
    Whoever wrote them meant answers to be sampled, so `do_sample` is set. Anything else that cannot be saved is dropped
    but for the ids of special tokens.

    Returns:
        what was changed; empty if nothing was.
    """
    settings = model.generation_config
    if settings is None or _can_be_saved(settings):
        return ""
    given = [name for name, neutral in SAMPLING.items() if getattr(settings, name, None) not in (None, neutral)]
    if given and not settings.do_sample:
        settings.do_sample = True
        if _can_be_saved(settings):
            return f"generation config: has {', '.join(given)} without do_sample, which is now set to true"
    why = _why_not(settings)
    model.generation_config = GenerationConfig(**{name: getattr(settings, name) for name in TOKENS})
    return f"generation config: cannot be saved ({why}); only its special tokens are kept"


def _can_be_saved(settings: GenerationConfig) -> bool:
    return not _why_not(settings)


def _why_not(settings: GenerationConfig) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            settings.save_pretrained(folder)
        except (ValueError, TypeError, OSError) as error:
            return first_line(error)
    return ""


def try_to_save(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save everything but the weights to a temporary folder, so that a model that cannot be saved is not trained.

    Raises:
        UserError: something cannot be saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder, state_dict={})
            write_tokenizer(tokenizer, Path(folder))
            complete_configuration(Path(folder))
        except Exception as error:  # configurations raise errors of many kinds
            raise UserError(
                f"model {model.name_or_path}: could not be saved after training ({first_line(error)}); correct its "
                "config.json or generation_config.json"
            ) from None
