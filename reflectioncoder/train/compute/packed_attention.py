"""Causal attention over packed rows, on CPU and CUDA, registered with transformers as `reflectioncoder_varlen`.

Rows are concatenated in a batch of one; cumulative lengths mark their boundaries. Rows attended separately need no
mask, so the cost is the sum over the rows instead of the square of the total length. On CUDA one variable-length kernel
processes all rows if the dtype allows it; otherwise rows are processed one by one. Sliding windows are counted in
position ids, so that a student row without its hidden tokens sees the same tokens as with them masked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from reflectioncoder.errors import UserError, first_line

ATTENTION_NAME = "reflectioncoder_varlen"
# Arguments of attention layers that change the result in ways not implemented here.
UNSUPPORTED = ("s_aux", "position_bias")
# Rotations that depend on the longest position in the batch, hence on which rows happen to be packed together.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
BLOCK = 512  # queries per block if a mask is needed
MATMUL_MARGIN = 64  # a smaller window is not worth smaller blocks


@dataclass(frozen=True)
class PackedRows:
    """Layout of B packed rows; built once per forward pass and read by every layer.

    Args:
        bounds: `[B + 1]`, int32 cumulative lengths: row i has tokens bounds[i] to bounds[i + 1].
        longest: tokens of the longest row.
        positions: `[T]` position ids, increasing within a row; None numbers each row from zero.
    """

    bounds: torch.Tensor
    longest: int
    positions: torch.Tensor | None = None

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each of the B rows."""
        return [int(length) for length in self.bounds.diff().tolist()]

    @cached_property
    def spans(self) -> list[int]:
        """Last minus first position id plus one, for each of the B rows; more than the row's length if it has gaps."""
        if self.positions is None:
            return self.lengths
        ends = self.bounds.long()
        return [int(span) for span in (self.positions[ends[1:] - 1] - self.positions[ends[:-1]] + 1).tolist()]

    @cached_property
    def places(self) -> list[torch.Tensor]:
        """Position ids of each of the B rows; one tensor `[length]` per row."""
        if self.positions is None:
            return [torch.arange(length, device=self.bounds.device) for length in self.lengths]
        return list(self.positions.split(self.lengths))


def repeat_heads(states: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat each key or value head for the query heads that share it: `[1, K, T, E]` -> `[1, K * times, T, E]`."""
    return states if times == 1 else states.repeat_interleave(times, dim=1)


@cache
def _torch_varlen() -> Any:
    """Return PyTorch's variable-length attention, or None if this build has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@cache
def _varlen_options() -> frozenset[str]:
    """Return the argument names of PyTorch's variable-length attention, which differ between releases."""
    return frozenset(inspect.signature(_torch_varlen()).parameters)


@cache
def _flash_varlen() -> Any:
    """Return flash-attn's variable-length attention, or None if it is not installed."""
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return flash_attn_varlen_func


def _kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scale: float | None, window: int
) -> torch.Tensor | None:
    """Compute the attention of all rows in one CUDA kernel.

    Args:
        query: `[1, H, T, E]`.
        key: `[1, K, T, E]`.
        value: `[1, K, T, E]`; with another head size than the keys no kernel applies.
        rows: layout of the rows.
        scale: factor on the scores; None is D ** -0.5.
        window: size of the sliding window, here in tokens; 0 means no window.

    Returns:
        `[1, T, H, E]`, or None if no kernel supports these arguments.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or query.shape[-1] > 256:
        return None
    if value.shape[-1] != query.shape[-1]:
        return None
    q, k, v = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    where = (rows.bounds, rows.bounds, rows.longest, rows.longest)
    sides = (window - 1 if window else -1, 0)
    flash, varlen = _flash_varlen(), _torch_varlen()
    if flash is not None:
        return flash(q, k, v, *where, softmax_scale=scale, causal=True, window_size=sides)[None]
    if varlen is None or torch.cuda.get_device_capability(query.device) < (8, 0):
        return None
    known = _varlen_options()
    options: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}
    if "scale" in known:
        options["scale"] = scale
    elif scale is not None and not math.isclose(scale, query.shape[-1] ** -0.5):
        return None
    times = q.shape[1] // k.shape[1]
    if times > 1 and "enable_gqa" not in known:
        k, v = (states.repeat_interleave(times, dim=1) for states in (k, v))
    # Releases before 2.11 take is_causal and have no window; later ones take the window.
    if "window_size" in known:
        options["window_size"] = sides
    elif window:
        return None
    else:
        options["is_causal"] = True
    return varlen(q, k, v, *where, **options)[None]


def _blocks(places: torch.Tensor, window: int) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """Split a row into blocks of queries, with the keys that each query sees.

    The keys of a block are its own tokens and at most one window before them, so with a window a row's cost is linear
    in its length.

    Args:
        places: `[length]` position ids of the row.
        window: size of the sliding window in positions; 0 means no window.

    Yields:
        a, b: the block has queries [a, b) of the row.
        begin: its keys are [begin, b).
        seen: `[b - a, b - begin]`, bool, which keys each query sees.
    """
    length = len(places)
    size = max(MATMUL_MARGIN, min(BLOCK, window)) if window else BLOCK
    first = torch.searchsorted(places, places - window, right=True).tolist() if window else [0] * length
    order = torch.arange(length, device=places.device)
    for a in range(0, length, size):
        b, begin = min(a + size, length), int(first[a])
        seen = order[a:b, None] >= order[None, begin:b]
        if window:
            seen &= places[a:b, None] - places[None, begin:b] < window
        yield a, b, begin, seen


def _row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    places: torch.Tensor,
    window: int,
    softcap: float,
    dropout: float,
    scale: float | None,
) -> torch.Tensor:
    """Compute the attention of one row.

    Args:
        query: `[1, H, length, E]`.
        key: `[1, K, length, E]`.
        value: `[1, K, length, E]`; its head size may differ from that of the keys.
        places: `[length]` position ids of the row.
        window: size of the sliding window in positions; 0 means no window.
        softcap: scores become softcap * tanh(scores / softcap); 0 for no capping.
        dropout: dropout rate of the attention weights.
        scale: factor on the scores; None is D ** -0.5.

    Returns:
        `[1, H, length, E]`, where E is the head size of `value`.
    """
    # On CPU the kernel handles shared key heads; on a GPU, enable_gqa may select a kernel with quadratic memory.
    times = query.shape[1] // key.shape[1]
    shared = times > 1 and not softcap and not query.is_cuda
    if not shared:
        key, value = repeat_heads(key, times), repeat_heads(value, times)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scale, "enable_gqa": shared}
    if not window and not softcap:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    found = []
    for a, b, begin, seen in _blocks(places, window):
        q, k, v = query[:, :, a:b], key[:, :, begin:b], value[:, :, begin:b]
        if softcap:  # PyTorch has no fused kernel that caps scores
            scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
            scores = softcap * torch.tanh(scores / softcap)
            exact = torch.promote_types(q.dtype, torch.float32)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=exact).to(q.dtype)
            found.append(F.dropout(weights, dropout) @ v)
        else:
            found.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, **options))
    return torch.cat(found, dim=2)


def varlen_attention(
    module: nn.Module,
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
        query: `[1, H, T, E]`.
        key: `[1, K, T, E]`.
        value: `[1, K, T, E]`.
        attention_mask: must be None.
        dropout: dropout rate of the attention weights.
        scaling: factor on the scores; None is D ** -0.5.
        **kwargs: the arguments from `boundaries`, and the layer's own: `softcap`, and `sliding_window` (a token sees
            tokens less than this many positions before it).

    Returns:
        `[1, T, H, E]`, and None in place of the attention weights.

    Raises:
        UserError: the layer uses a feature that is not supported here, or does not pass the boundaries on.
    """
    bounds: torch.Tensor | None = kwargs.get("cu_seq_lens_q")
    if bounds is None or attention_mask is not None:
        raise UserError(
            f"{type(module).__name__} does not pass the boundaries of packed rows on (cu_seq_lens_q), "
            "so this model cannot be trained here"
        )
    refuse_layer(module, kwargs)
    rows: PackedRows = kwargs.get("packed_rows") or PackedRows(bounds, int(kwargs["max_length_q"]))
    softcap = float(kwargs.get("softcap") or 0.0)
    window = int(kwargs.get("sliding_window") or 0)
    if window and max(rows.spans) <= window:
        window = 0
    if dropout == 0.0 and not softcap:
        # Kernels count the window in tokens, which is equivalent if a row has no gaps or fits into the window.
        alike = not window or all(
            span in (length, min(span, window)) for length, span in zip(rows.lengths, rows.spans, strict=True)
        )
        together = _kernel(query, key, value, rows, scaling, window) if alike else None
        if together is not None:
            return together, None
    parts = (states.split(rows.lengths, dim=2) for states in (query, key, value))
    found = [
        _row(q, k, v, places, window if span > window else 0, softcap, dropout, scaling)
        for q, k, v, places, span in zip(*parts, rows.places, rows.spans, strict=True)
    ]
    return torch.cat([row.transpose(1, 2) for row in found], dim=1), None


def refuse_layer(module: nn.Module, asked: dict[str, Any]) -> None:
    """Raise UserError if a layer's attention differs from `varlen_attention`.

    Args:
        module: the attention layer.
        asked: the keyword arguments that it passes to the attention function.
    """
    for name in UNSUPPORTED:
        if asked.get(name) is not None:
            raise UserError(f"this model's attention uses '{name}', which training does not support")
    if not getattr(module, "is_causal", True):
        raise UserError(f"{type(module).__name__} attends to later tokens too, which training does not support")
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    number = getattr(module, "layer_idx", None)
    if kinds and number is not None and kinds[number] == "sliding_attention" and not asked.get("sliding_window"):
        raise UserError(f"{type(module).__name__} has a sliding window that it does not pass on to its attention")


def refuse_model(model: PreTrainedModel, longest: int = 0) -> None:
    """Raise UserError if a model would compute packed rows differently from separate rows, or has too few positions.

    Args:
        model: any causal language model.
        longest: tokens of the longest row of the run; 0 if unknown.
    """
    name = type(model).__name__
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    # State-space, recurrent and convolution layers carry state from one packed row into the next.
    carries = next((type(module).__name__ for module in model.modules() if isinstance(module, nn.Conv1d)), None)
    if kinds or carries:
        found = ", ".join(sorted(kinds)) or carries
        raise UserError(f"{name} has layers other than causal attention ({found}); they cannot keep packed rows apart")
    known = getattr(config, "max_position_embeddings", None)
    if known and longest > known and not has_rotary_positions(model):
        raise UserError(f"{name} has embeddings for {known} positions only; set max_length to at most {known}")
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if parameters.get("rope_type") not in LENGTH_DEPENDENT_ROPE:
            continue
        unchanged = parameters.get("original_max_position_embeddings") or known or 0
        if longest > unchanged:
            raise UserError(
                f"{name}: its positions ({parameters['rope_type']}) depend on the longest row of a batch beyond "
                f"{unchanged} tokens; set max_length to at most {unchanged}"
            )


def use_varlen_attention(model: PreTrainedModel, longest: int = 0) -> None:
    """Make a model use `varlen_attention`, so that tokens attend only within their packed row.

    Args:
        model: any causal language model.
        longest: tokens of the longest row of the run; 0 if unknown.

    Raises:
        UserError: the architecture does not support custom attention functions, or would mix packed rows.
    """
    refuse_model(model, longest)
    AttentionInterface.register(ATTENTION_NAME, varlen_attention)
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{type(model).__name__} cannot use packed rows: {first_line(error)}") from None
    if model.config._attn_implementation != ATTENTION_NAME:
        raise UserError(f"{type(model).__name__} has its own attention and cannot use packed rows")


def boundaries(cu_seqlens: torch.Tensor, max_length: int, positions: torch.Tensor | None = None) -> dict[str, Any]:
    """Return the keyword arguments that tell a model's forward pass where packed rows begin.

    The first four are needed together. If one is missing, transformers guesses boundaries from gaps in the position
    ids.

    Args:
        cu_seqlens: `[B + 1]`, int32 cumulative lengths of the B rows.
        max_length: tokens of the longest row.
        positions: `[T]` position ids, in which sliding windows are counted; None numbers each row from zero.
    """
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_length,
        "max_length_k": max_length,
        "packed_rows": PackedRows(cu_seqlens, max_length, positions),
    }


def has_rotary_positions(model: PreTrainedModel) -> bool:
    """Whether a model has rotary position embeddings, for which only differences of positions matter."""
    names = (name.rsplit(".", 1)[-1] for name, _ in model.named_modules())
    return any("rotary" in name or "rope" in name for name in names)
