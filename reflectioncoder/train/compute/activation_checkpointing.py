"""Activation checkpointing: which activations are kept for the backward pass, and which are recomputed.

Keeping all of them is fastest. Keeping only the results of matrix products and attention (selective checkpointing)
costs a few per cent of the time: norms, rotations and activation functions are cheap to recompute, but their results
take more than half of the memory. Keeping only the layer inputs (gradient checkpointing) costs a whole forward pass.
Neither changes the result.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


def policy(inner: int | None, _: Any, op: Any, *args: Any, **__: Any) -> CheckpointPolicy:
    """Keep attention and matrix products, except the feed-forward network's last.

    The layer ends with that product, so the backward pass does not need its result and it is not recomputed either.

    Args:
        inner: intermediate size of the feed-forward network; None keeps all products.
        op: the operation applied to `args`.
    """
    if op in PRODUCTS:
        last = args[-2].shape[1] == inner
        return CheckpointPolicy.PREFER_RECOMPUTE if last else CheckpointPolicy.MUST_SAVE
    if "attention" in op.name() or "attn" in op.name():
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_layers(model: PreTrainedModel, selective: bool) -> None:
    """Turn on activation checkpointing for every layer of a model.

    Args:
        model: any transformers model.
        selective: keep the expensive results (matrix products and attention); otherwise only layer inputs are kept.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        inner = getattr(model.config.get_text_config(), "intermediate_size", None)
        options["context_fn"] = partial(create_selective_checkpoint_contexts, partial(policy, inner))
    # Newer releases of transformers renamed it.
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)
