"""Model FLOP utilisation (MFU): the operations that a step needs, relative to the peak of the device.

The count includes one forward pass, the gradients of all layer inputs, and the gradients of the trained weights. It
leaves out additional work (recomputed activations, dequantisation of 4-bit weights).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# Dense bfloat16 operations per second (without sparsity) from the vendors' data sheets, by a substring of the device
# name; the first match counts.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Peak bfloat16 operations per second of a device; None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for part, value in PEAK_FLOPS.items() if part in name), None)


class Needed:
    """Counts the floating-point operations that a training step of a model needs.

    Trained weights cost three times their forward pass. Frozen ones cost twice, because they need no weight gradients.
    The count includes matrix products for every token, the output head for scored tokens, and causal attention over
    half the square of each row. It ignores norms and other elementwise work, rotations, sliding windows and the rows of
    the special tokens.

    Args:
        model: the model with its LoRA adapters, if any, before its weights are sharded.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        head: Any = model.get_output_embeddings()
        heads = set() if head is None else {id(module) for module in head.modules()}
        self.token = self.place = 0
        for module in model.modules():
            if isinstance(module, nn.Linear):
                size = module.in_features * module.out_features  # 4-bit weights are stored packed
            elif isinstance(module, Conv1D):
                size = module.weight.numel()
            else:
                continue
            needed = 2 * size * (3 if module.weight.requires_grad else 2)
            if id(module) in heads:
                self.place += needed
            else:
                self.token += needed
        shape: Any = model.config.get_text_config()
        heads_wide = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        # Q K^T and the product with V take 2 n^2 d each without a mask, and half of that under the causal mask.
        self.square = 3 * 2 * shape.num_hidden_layers * shape.num_attention_heads * heads_wide

    def __call__(self, tokens: int, scored: int, squares: int) -> int:
        """Return the operations that some rows need.

        Args:
            tokens: tokens of all rows.
            scored: scored tokens of all rows.
            squares: sum of the squared row lengths.
        """
        return self.token * tokens + self.place * scored + self.square * squares
