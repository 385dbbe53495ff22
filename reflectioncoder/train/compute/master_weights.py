"""AdamW with float32 master weights for models that compute in bfloat16.

A bfloat16 number keeps eight bits, so a small update added to it is mostly lost. Here the optimizer owns float32
copies; gradients are added to them after every backward pass in float32, and the model gets the rounded result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Masters(torch.optim.Optimizer):
    """An optimizer whose parameters are float32 copies of the model's where the model's are of a lower precision.

    `backward` on the model moves every gradient into the copy's at once; parameters of float32 or more are updated
    in place as usual. The state holds the copies, so a resumed run goes on exactly.

    Args:
        groups: parameter groups as for any optimizer, with the model's parameters.
        **options: as for the optimizer that this is mixed into (`with_masters`).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        own = [{**group, "params": [self._master(parameter) for parameter in group["params"]]} for group in groups]
        super().__init__(own, **options)

    def _master(self, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.dtype in (torch.float32, torch.float64):
            return parameter
        master = nn.Parameter(parameter.detach().float())
        self._pairs.append((parameter, master))

        def move(low: torch.Tensor) -> None:
            if low.grad is None:
                return
            if master.grad is None:
                master.grad = low.grad.float()
            else:
                master.grad += low.grad
            low.grad = None

        parameter.register_post_accumulate_grad_hook(move)
        return master

    def parameters(self) -> list[torch.Tensor]:
        """The parameters that are updated: what gradient clipping has to look at."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update, rounded into the model; the copies' gradients are used up, as nobody else clears them."""
        result = super().step(closure)
        self._publish()
        for _, master in self._pairs:
            master.grad = None
        return result

    def _publish(self) -> None:
        with torch.no_grad():
            for parameter, master in self._pairs:
                parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state with the float32 copies."""
        return {**super().state_dict(), "masters": [master.detach() for _, master in self._pairs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, and the model's parameters from it."""
        state_dict = dict(state_dict)
        masters = state_dict.pop("masters")
        super().load_state_dict(state_dict)
        with torch.no_grad():
            for (_, master), saved in zip(self._pairs, masters, strict=True):
                master.copy_(saved)
        self._publish()


class MasterAdamW(Masters, torch.optim.AdamW):
    """AdamW with float32 copies."""


def with_masters(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Another optimizer with float32 copies."""
    return type(f"Master{kind.__name__}", (Masters, kind), {})
