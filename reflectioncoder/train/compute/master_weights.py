"""AdamW with float32 master weights for models that compute in bfloat16.

bfloat16 has 8 bits of precision, so small updates are mostly lost to rounding. Here the optimizer keeps float32 copies
of the weights. Gradients are accumulated into them in float32 after every backward pass, and the model gets the rounded
result of each update.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Masters(torch.optim.Optimizer):
    """Mixin for optimizers: updates float32 copies of parameters that have a lower precision.

    `backward` on the model adds every gradient to that of its copy immediately. Parameters of float32 or more are
    updated in place as usual. The optimizer state includes the copies, so resuming is exact.

    Args:
        groups: parameter groups with the model's parameters, as for any optimizer.
        **options: options of the optimizer that this is mixed into (`with_masters`).
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
        """Return the parameters that are updated, for gradient clipping: the float32 copies if they exist."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the copies, write the rounded values into the model, and clear the copies' gradients."""
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
        """Return the optimizer's state, including the float32 copies."""
        return {**super().state_dict(), "masters": [master.detach() for _, master in self._pairs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `state_dict`, and the model's parameters from the float32 copies in it."""
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
    """Return a subclass of an optimizer class that keeps float32 copies."""
    return type(f"Master{kind.__name__}", (Masters, kind), {})
