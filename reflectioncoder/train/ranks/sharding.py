"""FSDP2 and DeepSpeed ZeRO through accelerate: chosen by its configuration file, and what training must know of them.

The file is one that `accelerate launch` takes (configs/accelerate/). Started by `accelerate launch --config_file FILE`
the environment already says what it says; started by `torchrun`, the setting `sharding = FILE` has the same effect.
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
# Keys of an accelerate file whose variable is not called as they are.
FSDP_VARIABLES = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
DEEPSPEED_VARIABLES = {
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
    "zero3_init_flag": "ACCELERATE_DEEPSPEED_ZERO3_INIT",
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
}


def variables(path: str) -> dict[str, str]:
    """The environment that `accelerate launch` would set for a configuration file.

    Raises:
        UserError: no such file, or a kind of training that is not known here.
    """
    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"sharding {path}: {error.strerror}; see configs/accelerate") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"sharding {path}: {first_line(error)}") from None
    if not isinstance(table, Mapping):
        raise UserError(f"sharding {path}: is no accelerate configuration")
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


def choose(path: str) -> Engine:
    """Put the settings of a file, if one is given, into the environment; the engine that the environment asks for.

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
    """Complete what accelerate has set up, once the Trainer has its accelerator.

    With FSDP2 the shards are float32 and so are the sums of gradients; `bfloat16` is what passes compute in. That is
    what the optimizer's float32 copies do for a model that is not sharded. DeepSpeed keeps such copies too.
    """
    if engine == "deepspeed" and precision == "bfloat16":
        # DeepSpeed would add up the micro-batches in bfloat16, which loses the small ones.
        types = trainer.accelerator.state.deepspeed_plugin.deepspeed_config.setdefault("data_types", {})
        types.setdefault("grad_accum_dtype", "fp32")
    if engine != "fsdp2":
        return
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # accelerate knows FSDP on accelerators only, while the engine runs on processors as well. Its state outlives a
    # Trainer, so each gets a plugin of its own.
    for shared in (AcceleratorState._shared_state, PartialState._shared_state):
        shared["distributed_type"] = DistributedType.FSDP
    plugin = FullyShardedDataParallelPlugin()
    if precision == "bfloat16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    trainer.accelerator.state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True


def loads_once(engine: Engine) -> bool:
    """Whether rank 0 alone reads the weights, which FSDP2 then hands out shard by shard."""
    return engine == "fsdp2" and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true"


def like_the_first(
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]], world: World
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that rank 0 loads, and on other ranks one of its shape, whose weights are no values yet.

    Storage that nobody writes to takes no memory, so a machine holds one copy of the weights at most.

    Args:
        load: what rank 0 calls.
        world: of the run.

    Raises:
        UserError: as `load`; a model with buffers that are saved with it, which accelerate cannot hand out.
    """
    box: list[Any] = [None]
    model: PreTrainedModel
    if world.first:
        model, tokenizer = load()
        saved = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
        if saved:
            raise UserError(
                f"{type(model).__name__}: has buffers ({min(saved)}) that rank 0 cannot hand out; set "
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
    """A model like `network` that is not sharded, on rank 0; all ranks must call it, the others get None."""
    if engine == "none":
        return network if first else None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if engine == "deepspeed":
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # else stage 3 would shard the new model too, and wait for the other ranks
    return assemble(weights, network.config, network.generation_config, precision) if first else None


def assemble(
    weights: Mapping[str, torch.Tensor], config: PreTrainedConfig, generation: GenerationConfig | None, precision: str
) -> PreTrainedModel:
    """A model from its configuration and all its weights, on the processor.

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
            f"the weights of the model are not whole: {missing[0]} and {len(missing) - 1} others are missing"
        )
    if generation is not None:
        model.generation_config = generation
    return model
