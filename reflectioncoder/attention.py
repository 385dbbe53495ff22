"""Causal attention over packed rows, on CPU and CUDA, registered with transformers as `reflectioncoder_varlen`.

Rows stand one after another in a batch of one, and cumulative lengths say where each begins. A causal call per row
needs no mask, so its cost is that of the rows and not of their square. On CUDA one variable-length kernel takes all
rows where the number type allows; otherwise the rows go one by one.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, PreTrainedModel

from reflectioncoder.errors import UserError

NAME = "reflectioncoder_varlen"
# Arguments of attention layers that would change the result in ways the calls below do not follow.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


def repeat_heads(states: torch.Tensor, times: int) -> torch.Tensor:
    """[batch, heads, T, D] with each key or value head repeated for the query heads that share it."""
    return states if times == 1 else states.repeat_interleave(times, dim=1)


@cache
def _torch_varlen() -> Any:
    """PyTorch's variable-length attention, None where this build has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@cache
def _flash_varlen() -> Any:
    """flash-attn's variable-length attention, None where it is not installed."""
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return flash_attn_varlen_func


def _kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor | None:
    """All rows in one CUDA kernel: [1, heads, T, D] -> [1, T, heads, D]; None where no kernel fits."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or query.shape[-1] > 256:
        return None
    q, k, v = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    flash, varlen = _flash_varlen(), _torch_varlen()
    if flash is not None:
        return flash(q, k, v, bounds, bounds, longest, longest, softmax_scale=scale, causal=True)[None]
    if varlen is None or torch.cuda.get_device_capability(query.device) < (8, 0):
        return None
    times = q.shape[1] // k.shape[1]
    if times > 1:
        k, v = (states.repeat_interleave(times, dim=1) for states in (k, v))
    # Releases before 2.11 say is_causal, later ones give the window.
    known = inspect.signature(varlen).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return varlen(q, k, v, bounds, bounds, longest, longest, scale=scale, **causal)[None]


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each packed row; the signature is that of transformers' attention functions.

    Args:
        module: the attention layer.
        query: [1, heads, T, D].
        key: [1, key heads, T, D].
        value: [1, key heads, T, D].
        attention_mask: None; boundaries come as `cu_seq_lens_q` and `max_length_q` among the keyword arguments.
        dropout: of attention weights.
        scaling: of the scores; None is D ** -0.5.

    Returns:
        [1, T, heads, D], and None in place of the weights.

    Raises:
        UserError: the layer asks for something that is not supported here, such as a sliding window.
        ValueError: boundaries are missing.
    """
    bounds: torch.Tensor | None = kwargs.get("cu_seq_lens_q")
    if bounds is None or attention_mask is not None:
        raise ValueError(f"{NAME} takes packed rows: pass cu_seq_lens_q and no attention mask")
    longest = int(kwargs["max_length_q"])
    window = kwargs.get("sliding_window")
    if window is not None and window < longest:
        raise UserError(
            f"this model attends within a window of {window} tokens and a row has {longest}; "
            f"set max_length to {window} or take a model with full attention"
        )
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise UserError(f"this model's attention uses '{name}', which training does not support")
    if dropout == 0.0:
        together = _kernel(query, key, value, bounds, longest, scaling)
        if together is not None:
            return together, None
    times = query.shape[1] // key.shape[1]
    key, value = repeat_heads(key, times), repeat_heads(value, times)
    lengths = bounds.diff().tolist()
    rows = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        for q, k, v in zip(
            query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True
        )
    ]
    return torch.cat([row.transpose(1, 2) for row in rows], dim=1), None


def use_varlen_attention(model: PreTrainedModel) -> None:
    """Make a model attend within packed rows.

    Raises:
        UserError: the architecture does not take attention functions from outside.
    """
    AttentionInterface.register(NAME, varlen_attention)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{type(model).__name__} cannot use packed rows: {str(error).splitlines()[0]}") from None
    if model.config._attn_implementation != NAME:
        raise UserError(f"{type(model).__name__} has its own attention and cannot use packed rows")


def boundaries(cu_seqlens: torch.Tensor, max_length: int) -> dict[str, Any]:
    """Keyword arguments that tell a model's forward where packed rows begin.

    All four are needed: with one missing, boundaries are guessed from gaps in the position ids.
    """
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_length,
        "max_length_k": max_length,
    }


def has_rotary_positions(model: PreTrainedModel) -> bool:
    """Whether positions enter as rotations, so that only their differences matter."""
    names = (name.rsplit(".", 1)[-1] for name, _ in model.named_modules())
    return any("rotary" in name or "rope" in name for name in names)
