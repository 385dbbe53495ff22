"""How much of a GPU's arithmetic training uses: the operations that a step needs against what the device can do.

Needed is one forward pass, the gradients of what every layer reads, and the gradients of what is trained; whatever is
computed beyond that (recomputed activations, four bits turned into sixteen) counts as loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# Dense bfloat16 operations a second, without sparsity, from the makers' data sheets, by a part of the device's name, of
# which the first that fits counts.
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
    """Operations a second that a device can do at most; None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for part, value in PEAK_FLOPS.items() if part in name), None)


class Needed:
    """Floating-point operations that steps of a model need.

    Three times the forward pass where weights are trained, twice where they are frozen, as they need no gradients:
    matrices for every token, the output head for scored places, causal attention for half the square of a row. Norms
    and other elementwise work, rotations, windows of attention and the rows of the special tokens are left out.

    Args:
        model: with LoRA's adapters in it, if there are any, and with its weights not sharded yet.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        head: Any = model.get_output_embeddings()
        heads = set() if head is None else {id(module) for module in head.modules()}
        self.token = self.place = 0
        for module in model.modules():
            if isinstance(module, nn.Linear):
                size = module.in_features * module.out_features  # weights of four bits lie packed
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
        # Scores and mixing take 2 n^2 d each over both triangles, and half of that under the causal mask.
        self.square = 3 * 2 * shape.num_hidden_layers * shape.num_attention_heads * heads_wide

    def __call__(self, tokens: int, scored: int, squares: int) -> int:
        """Of rows with so many tokens in all, so many places that need logits, and lengths with so large squares."""
        return self.token * tokens + self.place * scored + self.square * squares
