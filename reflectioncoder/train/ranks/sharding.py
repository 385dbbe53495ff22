"""FSDP2 and DeepSpeed ZeRO through accelerate, chosen by an accelerate configuration file.

The file is one that `accelerate launch` accepts (configs/accelerate/). `accelerate launch --config_file FILE` puts its
settings into the environment; with `torchrun`, the setting `sharding = FILE` has the same effect.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.train.ranks.world import World

Engine = Literal["none", "fsdp2", "deepspeed"]
# Keys of an accelerate file whose environment variable has a different name.
FSDP_VARIABLES = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
DEEPSPEED_VARIABLES = {
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
    "zero3_init_flag": "ACCELERATE_DEEPSPEED_ZERO3_INIT",
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
}


def variables(path: str) -> dict[str, str]:
    """Return the environment variables that `accelerate launch` would set for a configuration file.

    Raises:
        UserError: the file cannot be read, or its distributed_type is not supported.
    """
    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"sharding {path}: {error.strerror}; see configs/accelerate") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"sharding {path}: {first_line(error)}") from None
    if not isinstance(table, Mapping):
        raise UserError(f"sharding {path}: not an accelerate configuration")
    kind = str(table.get("distributed_type", "NO"))
    if kind == "FSDP":
        given = table.get("fsdp_config") or {}
        if int(given.get("fsdp_version", 1)) != 2:
            raise UserError(f"sharding {path}: set fsdp_version: 2, the first version is not supported")
        found = {FSDP_VARIABLES.get(key, key.upper()): _text(value) for key, value in given.items()}
        return {"ACCELERATE_USE_FSDP": "true", **found}
    if kind == "DEEPSPEED":
        given = table.get("deepspeed_config") or {}
        found = {
            DEEPSPEED_VARIABLES.get(key, f"ACCELERATE_DEEPSPEED_{key.upper()}"): _text(value)
            for key, value in given.items()
        }
        return {"ACCELERATE_USE_DEEPSPEED": "true", **found}
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return {}
    raise UserError(f"sharding {path}: distributed_type {kind} is not one of FSDP, DEEPSPEED, MULTI_GPU, MULTI_CPU, NO")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def choose_engine(path: str) -> Engine:
    """Load a configuration file into the environment, and return the sharding engine that the environment selects.

    Args:
        path: an accelerate configuration file; empty leaves the environment unchanged.

    Raises:
        UserError: as `variables`; DeepSpeed is not installed; there are no ranks to shard over.
    """
    if path:
        for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
            os.environ.pop(name, None)
        os.environ.update(variables(path))
    engine: Engine = "none"
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        engine = "fsdp2"
    elif os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        engine = "deepspeed"
    if engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError("sharding with DeepSpeed: it is not installed; run: pip install 'reflectioncoder[deepspeed]'")
    if engine != "none" and "RANK" not in os.environ:
        raise UserError(
            f"sharding with {engine}: no ranks were started; launch with torchrun --nproc_per_node GPUS "
            "-m reflectioncoder train ..."
        )
    return engine


def attach(trainer: Trainer, engine: Engine, precision: str) -> None:
    """Complete accelerate's setup after the Trainer has created its accelerator.

    With FSDP2 the shards and the gradient sums are float32, and with precision `bfloat16` the forward and backward
    passes compute in it. This replaces the optimizer's float32 copies of an unsharded model. DeepSpeed keeps such
    copies itself.
    """
    if engine == "deepspeed" and precision == "bfloat16":
        # DeepSpeed would accumulate gradients in bfloat16 by default, which loses small contributions.
        types = trainer.accelerator.state.deepspeed_plugin.deepspeed_config.setdefault("data_types", {})
        types.setdefault("grad_accum_dtype", "fp32")
    if engine != "fsdp2":
        return
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # accelerate enables FSDP on accelerators only, although it also works on CPU. Its global state outlives a Trainer,
    # so each Trainer gets its own plugin.
    for shared in (AcceleratorState._shared_state, PartialState._shared_state):
        shared["distributed_type"] = DistributedType.FSDP
    plugin = FullyShardedDataParallelPlugin()
    if precision == "bfloat16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    trainer.accelerator.state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True


def loads_once(engine: Engine) -> bool:
    """Whether only rank 0 reads the weights, which FSDP2 then distributes shard by shard."""
    return engine == "fsdp2" and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true"


def like_the_first(
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]], world: World
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model on rank 0; create a model of the same shape with uninitialised weights on other ranks.

    Storage that is never written takes no memory, so a machine holds at most one copy of the weights.

    Args:
        load: function that loads the model; called on rank 0 only.
        world: ranks of the run.

    Raises:
        UserError: as `load`; or the model has persistent buffers, which accelerate cannot distribute.
    """
    box: list[Any] = [None]
    model: PreTrainedModel
    if world.first:
        model, tokenizer = load()
        saved = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
        if saved:
            raise UserError(
                f"{type(model).__name__}: has buffers ({min(saved)}) that rank 0 cannot distribute; set "
                "fsdp_cpu_ram_efficient_loading: false in the file of sharding"
            )
        box = [(model.config, dict(model.named_buffers()), tokenizer)]
    torch.distributed.broadcast_object_list(box, src=0, group=world.room)
    if world.first:
        return model, tokenizer
    config, buffers, tokenizer = box[0]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    model.to_empty(device="cpu")
    for name, value in buffers.items():
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._buffers[own] = value
    model.tie_weights()
    return model.eval(), tokenizer


def whole_model(
    network: PreTrainedModel, trainer: Trainer, engine: Engine, precision: str, first: bool
) -> PreTrainedModel | None:
    """Return the unsharded model on rank 0, and None on other ranks. All ranks must call this."""
    if engine == "none":
        return network if first else None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if engine == "deepspeed":
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # otherwise ZeRO-3 would also shard the new model and wait for the other ranks
    return assemble_shards(weights, network.config, network.generation_config, precision) if first else None


def assemble_shards(
    weights: Mapping[str, torch.Tensor], config: PreTrainedConfig, generation: GenerationConfig | None, precision: str
) -> PreTrainedModel:
    """Build a model on CPU from its configuration and all its weights.

    Raises:
        UserError: some of the weights are missing.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision))
    found = {name: value.to("cpu", getattr(torch, precision)) for name, value in weights.items()}
    model.load_state_dict(found, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise UserError(
            f"the weights of the model are incomplete: {missing[0]} and {len(missing) - 1} others are missing"
        )
    if generation is not None:
        model.generation_config = generation
    return model
