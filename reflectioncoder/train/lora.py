"""LoRA and QLoRA through PEFT: low-rank adapters beside frozen weights, and trainable rows for the special tokens.

The special tokens are new, so their rows in the embedding and in an untied output head must also be trained. They are
stored apart from the frozen tables (PEFT's trainable tokens) and saved with the adapter.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.models.model_files import need, trained_as_it_is
from reflectioncoder.train.compute.loss import on_device
from reflectioncoder.train.ranks.sharding import Engine


def check_lora(config: TrainConfig, device: torch.device, engine: Engine) -> None:
    """Check the LoRA settings against the device and the sharding engine. Raises UserError if they do not fit."""
    lora = config.lora
    method = trained_as_it_is(config.model)
    if method and (lora.r == 0 or lora.quantize != "none"):
        raise UserError(
            f"model {config.model}: its weights are quantised with {method} and cannot be trained; take the "
            "unquantised model, or train adapters (lora.r, without lora.quantize)"
        )
    if lora.r == 0:
        if lora.quantize != "none":
            raise UserError(f"lora.quantize = '{lora.quantize}': quantised weights cannot be trained; set lora.r")
        return
    need("peft", "LoRA", "peft")
    if engine != "none":
        raise UserError(
            f"lora.r with sharding by {engine}: not supported together; without sharding every rank holds the whole "
            "model (launch with torchrun, or with configs/accelerate/ddp.yaml)"
        )
    if lora.quantize == "4bit":
        need("bitsandbytes", "QLoRA", "peft,qlora")
        if device.type != "cuda":
            raise UserError("lora.quantize = '4bit': needs a CUDA GPU; set lora.quantize to none")


def quantisation(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that load frozen weights in 4 bits; empty without `lora.quantize`."""
    if config.lora.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.precision),
    )
    return {"quantization_config": settings}


def add_adapters(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> Any:
    """Wrap `model` in a PEFT model; the adapters are added in place.

    Trained parameters have the precision that the model computes in; otherwise PEFT would cast the input of every layer
    to float32. The optimizer keeps float32 copies (`master_weights.Masters`).

    Args:
        model: model with the special tokens added.
        tokenizer: tokenizer with the special tokens added.
        config: configuration of the run.

    Raises:
        UserError: `lora.targets` matches no layer of the model.
    """
    from peft import LoraConfig, get_peft_model

    rows: Any = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    tables = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0].weight:
        tables.append(head)
    names = [name for table in tables for name, module in model.named_modules() if module is table]
    targets = config.lora.targets
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        trainable_token_indices=dict.fromkeys(names, rows),
    )
    torch.manual_seed(config.seed)  # ranks and resumed runs start from the same adapters
    try:
        with warnings.catch_warnings():  # PEFT names the folder of the loaded model instead, and warns of that
            warnings.simplefilter("ignore", UserWarning)
            found: Any = get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UserError(f"lora.targets = {', '.join(targets)}: {first_line(error)}") from None
    settings.base_model_name_or_path = config.model
    set_precision(found, config)
    # Checkpoints use this too: the adapter holds the trained rows, and the rest of the tables can be rebuilt.
    found.save_pretrained = partial(found.save_pretrained, save_embedding_layers=False)
    table: Any = model.get_input_embeddings()
    layer = table.token_adapter
    if type(layer.base_layer) is nn.Embedding:  # subclasses may do more than a lookup
        layer.forward = partial(embed, layer)
    return found


def embed(layer: Any, ids: torch.Tensor) -> torch.Tensor:
    """Look up tokens in a frozen embedding with some trained rows.

    PEFT's own forward copies the whole table and computes gradients for all of it.

    Args:
        layer: PEFT's trainable-tokens wrapper of an embedding `[V, D]`.
        ids: `[...]`, token ids of any shape.

    Returns:
        `[..., D]` embeddings.
    """
    (adapter,) = layer.active_adapters
    hits = ids[..., None] == on_device(tuple(layer.token_indices[adapter]), ids.device)
    own = F.embedding(hits.int().argmax(-1), layer.trainable_tokens_delta[adapter])
    found: torch.Tensor = torch.where(hits.any(-1, keepdim=True), own, layer.base_layer(ids))
    return found


def set_precision(model: nn.Module, config: TrainConfig) -> None:
    """Cast the trained parameters to the run's precision. PEFT makes them float32 for 4-bit weights and on loading."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, config.precision))
