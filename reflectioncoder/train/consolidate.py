"""Convert a training checkpoint, sharded or not, to a plain `from_pretrained` directory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from reflectioncoder.config import toml as settings
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.owned import held
from reflectioncoder.models.load import LOADING_ERRORS, Precision, load_model_and_tokenizer, load_tokenizer
from reflectioncoder.models.model_files import ADAPTER
from reflectioncoder.train.checkpoints import PROGRESS, newest_checkpoint, what_is_wrong
from reflectioncoder.train.output import INDEX, LOADED, MODEL, save_model
from reflectioncoder.train.ranks.sharding import assemble_shards

FSDP_SHARDS = "pytorch_model_fsdp_0"
DEEPSPEED_SHARDS = "latest"  # file with the name of DeepSpeed's newest folder


def consolidate(checkpoint: Path, output: Path) -> None:
    """Write the model of a checkpoint in the format of a finished `reflectioncoder train` run.

    The adapter of a LoRA run is merged, regardless of `lora.output`.

    Args:
        checkpoint: `checkpoint-N` of a run, or the run's directory, whose newest checkpoint is used.
        output: directory to create; must not contain a model yet.

    Raises:
        UserError: no complete checkpoint found, the output already holds a model, or DeepSpeed is needed and missing.
    """
    folder = checkpoint if (checkpoint / PROGRESS).is_file() else newest_checkpoint(checkpoint)
    if folder is None:
        raise UserError(f"{checkpoint}: holds no complete checkpoint of reflectioncoder train")
    if wrong := what_is_wrong(folder):
        raise UserError(f"{folder}: {wrong}; take another checkpoint")
    if (output / MODEL).exists() or (output / INDEX).exists():
        raise UserError(f"{output}: already holds a model; choose another directory")
    if foreign := next((name for name in LOADED if (output / name).exists()), ""):
        raise UserError(f"{output}: already holds {foreign}; choose another directory")
    run = folder.parent / "config.toml"
    precision: Precision = settings.load(TrainConfig, run).precision if run.is_file() else "float32"
    tokenizer = load_tokenizer(str(folder))
    with held(output):
        save_model(_model(folder, precision), tokenizer, output, "consolidate")


def _model(folder: Path, precision: Precision) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    if any((folder / name).is_file() for name in (MODEL, INDEX, ADAPTER)):
        # an adapter is merged into the model that it was trained on
        return load_model_and_tokenizer(str(folder), precision, "cpu")[0]
    try:
        return _assembled(folder, precision)
    except UserError:
        raise
    except LOADING_ERRORS as error:
        raise UserError(f"{folder}: its shards cannot be loaded ({first_line(error)}); take another one") from None


def _assembled(folder: Path, precision: Precision) -> PreTrainedModel:
    """The model whose shards FSDP2 or DeepSpeed wrote."""
    if (folder / FSDP_SHARDS).is_dir():
        from accelerate.utils import merge_fsdp_weights

        with tempfile.TemporaryDirectory(dir=folder, prefix=".merging-") as staging:
            merge_fsdp_weights(str(folder / FSDP_SHARDS), staging)
            weights = load_file(Path(staging) / MODEL)
    elif (folder / DEEPSPEED_SHARDS).is_file():
        try:
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
        except ImportError:
            raise UserError(f"{folder}: was written by DeepSpeed, which is not installed here") from None
        weights = get_fp32_state_dict_from_zero_checkpoint(str(folder))
    else:
        raise UserError(f"{folder}: holds no weights")
    generation = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
    return assemble_shards(weights, AutoConfig.from_pretrained(folder), generation, precision)
