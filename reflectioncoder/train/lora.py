"""LoRA and QLoRA through PEFT: low-rank adapters beside frozen weights, and the rows of the special tokens.

The special tokens are new, so their rows in the embedding and in an untied output head have to be learnt too. They are
kept apart from the frozen tables (PEFT's trainable tokens) and saved with the adapter.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.models.adapters import _need
from reflectioncoder.train.compute.loss import on_device
from reflectioncoder.train.ranks.sharding import Engine


def check(config: TrainConfig, device: torch.device, engine: Engine) -> None:
    """Whether the settings of LoRA can be followed here, with the engine that shards. Raises UserError."""
    lora = config.lora
    if lora.r == 0:
        if lora.quantize != "none":
            raise UserError(f"lora.quantize = '{lora.quantize}': quantised weights cannot be trained; set lora.r")
        return
    _need("peft", "LoRA", "peft")
    if engine != "none":
        raise UserError(
            f"lora.r with sharding by {engine}: not supported together; without sharding every rank holds the whole "
            "model (launch with torchrun, or with configs/accelerate/ddp.yaml)"
        )
    if lora.quantize == "4bit":
        _need("bitsandbytes", "QLoRA", "peft,qlora")
        if device.type != "cuda":
            raise UserError("lora.quantize = '4bit': needs a CUDA GPU; set lora.quantize to none")


def quantisation(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load frozen weights in four bits, where asked for."""
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


def add(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> Any:
    """A PEFT model around `model`, which gets the adapters in place.

    What is trained has the precision that the model computes in, or PEFT would cast what every layer reads to float32;
    the optimizer keeps float32 copies (`optimizer.Masters`).

    Args:
        model: with its special tokens added.
        tokenizer: which knows their ids.
        config: of the run.

    Raises:
        UserError: `lora.targets` names no layer of the model.
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
    settings.base_model_name_or_path = config.model
    torch.manual_seed(config.seed)  # ranks and resumed runs begin with the same adapters
    try:
        found: Any = get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UserError(f"lora.targets = {', '.join(targets)}: {first_line(error)}") from None
    set_precision(found, config)
    # Checkpoints too: the trained rows are in the adapter, and the rest of the tables is made again as it was.
    found.save_pretrained = partial(found.save_pretrained, save_embedding_layers=False)
    table: Any = model.get_input_embeddings()
    layer = table.token_adapter
    if type(layer.base_layer) is nn.Embedding:  # others may do more than look up
        layer.forward = partial(embed, layer)
    return found


def embed(layer: Any, ids: torch.Tensor) -> torch.Tensor:
    """Rows of a frozen embedding, and of the trained ones beside it.

    PEFT's own forward copies the whole table and makes gradients for all of it.

    Args:
        layer: PEFT's trainable tokens around an embedding.
        ids: of tokens, of any shape.
    """
    (adapter,) = layer.active_adapters
    hits = ids[..., None] == on_device(tuple(layer.token_indices[adapter]), ids.device)
    own = F.embedding(hits.int().argmax(-1), layer.trainable_tokens_delta[adapter])
    found: torch.Tensor = torch.where(hits.any(-1, keepdim=True), own, layer.base_layer(ids))
    return found


def set_precision(model: nn.Module, config: TrainConfig) -> None:
    """Give what is trained the precision of the run: beside weights of four bits, and once loaded, it is float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, config.precision))
