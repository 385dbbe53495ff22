"""What of a forward pass is kept until the backward one, and what is computed again there.

Everything is quickest. Keeping only the results of matrix products and attention (selective checkpointing) gives up a
few per cent of the time: norms, rotations and activations are cheap, but they hold more than half of the memory.
Keeping only what goes into each layer (gradient checkpointing) costs a whole forward pass. Neither changes the result.
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

    Nobody needs the result of that one on the way back, because the layer ends with it, so it is not made again either.

    Args:
        inner: how wide the feed-forward network is inside; None keeps all products.
        op: what is done with `args`.
    """
    if op in PRODUCTS:
        last = args[-2].shape[1] == inner
        return CheckpointPolicy.PREFER_RECOMPUTE if last else CheckpointPolicy.MUST_SAVE
    if "attention" in op.name() or "attn" in op.name():
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_layers(model: PreTrainedModel, selective: bool) -> None:
    """Compute again, layer by layer, what the backward pass needs.

    Args:
        model: any of transformers'.
        selective: keep the dear results.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        inner = getattr(model.config.get_text_config(), "intermediate_size", None)
        options["context_fn"] = partial(create_selective_checkpoint_contexts, partial(policy, inner))
    # Newer releases of transformers gave it another name.
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)
