"""A teacher whose weights are a moving average of the trained ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call

T = TypeVar("T")
AVERAGE_FILE = "average.safetensors"  # in a checkpoint


class _Holder(nn.Module):
    """Calls a function of a network as a forward pass, so that `functional_call` can exchange the weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[Any], Any]) -> Any:
        return function(self.network)


class MovingAverage:
    """Keeps a moving average of a network's trained weights, and runs the network with it.

    The average is kept in float32 (float64 for such weights): in bfloat16 a step of 1 % of a difference would be lost
    to rounding.

    Args:
        network: the trained network; weights without gradient are shared with it.
        decay: share of the average that a step keeps, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.holder = _Holder(network)
        self.decay = decay
        self.values = {
            name: parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            for name, parameter in self.holder.named_parameters()
            if parameter.requires_grad
        }
        self._ready: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network's weights; called after every optimizer step."""
        self._ready = {}
        parameters = dict(self.holder.named_parameters())
        for name, value in self.values.items():
            value.lerp_(parameters[name].to(value.dtype), 1 - self.decay)

    @torch.no_grad()
    def run(self, function: Callable[[Any], T]) -> T:
        """Call `function(network)` with the averaged weights in place, without gradients."""
        if not self._ready:
            parameters = dict(self.holder.named_parameters())
            self._ready = {name: value.to(parameters[name].dtype) for name, value in self.values.items()}
        found: T = functional_call(self.holder, self._ready, (function,))
        return found

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        save_file({name: value.contiguous() for name, value in self.values.items()}, folder / AVERAGE_FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Read the average from a checkpoint."""
        self._ready = {}
        for name, value in load_file(folder / AVERAGE_FILE).items():
            self.values[name].copy_(value)
