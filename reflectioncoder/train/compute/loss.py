"""The loss of section 3.2 on packed rows: weighted cross-entropy and KL(teacher || student), in chunks.

Only scored tokens go through the output head, a few hundred at a time. Their gradients are computed in the forward
pass, so full-vocabulary logits never outlive a chunk and are never computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.packing import MicroBatch, TeacherRows
from reflectioncoder.train.compute.average import MovingAverage
from reflectioncoder.train.compute.divergence import KL, Distance, divergence
from reflectioncoder.train.compute.packed_attention import boundaries

T = TypeVar("T")
CHUNK_BYTES = 96 * 2**20  # of float32 logits; peak memory is about three times as much
# Each chunk also reads and writes the gradient of the whole output head, so larger chunks are faster on a GPU.
CUDA_CHUNK_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Head:
    """The output head: maps hidden states `[n, D]` to logits `[n, V]`.

    Args:
        weight: `[V, D]`.
        bias: `[V]`, or None.
        scale: factor on the logits.
        softcap: logits become softcap * tanh(logits / softcap); 0 for no capping.
        own: `[k, D]`, k trained rows that replace rows `places` of a frozen `weight`; or None.
        places: `[k]`, int64 row indices in [0, V); or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    own: torch.Tensor | None = None
    places: torch.Tensor | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the logits `[n, V]` of hidden states `[n, D]`."""
        found = hidden @ self.weight.T.to(hidden.dtype)
        if self.own is not None and self.places is not None:
            found = found.index_copy(1, self.places, hidden @ self.own.T.to(hidden.dtype))
        if self.bias is not None:
            found = found + self.bias
        found = found * self.scale
        return self.softcap * torch.tanh(found / self.softcap) if self.softcap else found


def head_of(model: PreTrainedModel) -> Head:
    """Return the output head of a model.

    Raises:
        UserError: the output head is not a linear layer.
    """
    layer: Any = model.get_output_embeddings()
    rows = getattr(layer, "token_adapter", None)  # PEFT's trainable tokens: some rows of a frozen head
    linear = layer if rows is None else rows.base_layer
    # Sharding engines subclass nn.Linear; heads with other arithmetic override forward.
    if getattr(type(linear), "forward", None) is not nn.Linear.forward:
        raise UserError(f"{type(model).__name__}: its output head is not a linear layer, which training needs")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
    own = places = None
    if rows is not None:
        (adapter,) = rows.active_adapters
        own = rows.trainable_tokens_delta[adapter]
        places = on_device(tuple(rows.token_indices[adapter]), own.device)
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return Head(linear.weight, linear.bias, scale, softcap, own, places)


@cache
def on_device(places: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return k row indices as an int64 tensor `[k]`; cached, because each copy to a GPU would block the CPU."""
    return torch.tensor(places, device=device)


def _pieces(n: int, pairs: int, chunk: int) -> Iterator[tuple[slice, ...]]:
    """Yield the slices of [0, n) that are scored together.

    The first pieces pair a slice of teacher entries with the slice of their student entries; the rest are single.

    Args:
        n: number of scored positions.
        pairs: number P of teacher-student pairs.
        chunk: entries per piece.
    """
    half = max(1, chunk // 2)
    for a in range(0, pairs, half):
        b = min(a + half, pairs)
        yield slice(a, b), slice(pairs + a, pairs + b)
    for a in range(2 * pairs, n, chunk):
        yield (slice(a, min(a + chunk, n)),)


def _take(values: torch.Tensor, piece: tuple[slice, ...]) -> torch.Tensor:
    """Select the m entries of a piece: `[n, ...]` -> `[m, ...]`."""
    return values[piece[0]] if len(piece) == 1 else torch.cat([values[part] for part in piece])


def _put(values: torch.Tensor, piece: tuple[slice, ...], found: torch.Tensor) -> None:
    """Write `found` `[m, ...]` to the m entries of a piece in `values` `[n, ...]`."""
    for part in piece:
        size = part.stop - part.start
        values[part] = found[:size]
        found = found[size:]


def _add_product(total: torch.Tensor, grad: torch.Tensor, states: torch.Tensor) -> None:
    """Add grad^T states to `total`, summed in float32 or float64.

    Args:
        total: `[V, D]` sum to add to; `[k, D]` for the k trained rows of a frozen head.
        grad: `[m, V]` gradients of the logits of m entries, or `[m, k]`.
        states: `[m, D]` their hidden states.
    """
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, states)
    else:
        total += grad.T @ states


class ChunkedLoss(torch.autograd.Function):
    """Sums the weighted cross-entropies and KL terms of the scored tokens, chunk by chunk.

    The inputs are those of `scored_loss`, with the fields of its head, and `wanted`: whether gradients are needed. The
    outputs are the loss `[]`, the n cross-entropies `[n]` and the P divergences `[P]`. Only the loss has a gradient.
    The paper's divergence has a path of its own, which makes no further copies of the logits.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        own: torch.Tensor | None,
        places: torch.Tensor | None,
        target: torch.Tensor,
        ce_weight: torch.Tensor,
        kl_weight: torch.Tensor,
        scale: float,
        softcap: float,
        chunk: int,
        wanted: bool,
        distance: Distance,
        teacher: tuple[torch.Tensor, Head] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        table = weight.to(hidden.dtype)
        own_table = None if own is None else own.to(hidden.dtype)
        n, pairs = len(target), len(kl_weight)
        ce, kl = hidden.new_zeros(n, dtype=exact), hidden.new_zeros(pairs, dtype=exact)
        ce_weight, kl_weight = ce_weight.to(exact), kl_weight.to(exact)

        def sums(of: torch.Tensor | None, at: int) -> torch.Tensor | None:
            asked = wanted and of is not None and ctx.needs_input_grad[at]
            return torch.zeros_like(of, dtype=exact) if asked and of is not None else None

        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight, grad_bias, grad_own = sums(weight, 1), sums(bias, 2), sums(own, 3)
        for piece in _pieces(n, pairs, chunk):
            states = _take(hidden, piece)
            logits = (states @ table.T).to(exact)
            if own_table is not None:
                logits[:, places] = (states @ own_table.T).to(exact)
            if bias is not None:
                logits += bias
            if scale != 1.0:
                logits *= scale
            slope = None
            if softcap:
                logits = logits.div_(softcap).tanh_()
                slope = 1 - logits.square() if wanted else None
                logits *= softcap
            log_p = logits.sub_(logits.logsumexp(-1, keepdim=True))
            asked = _take(target, piece)[:, None]
            _put(ce, piece, -log_p.gather(1, asked)[:, 0])
            paired = len(piece) == 2
            m = len(log_p) // 2
            of_divergence = None
            if paired and (teacher is not None or not distance.plain):
                log_teacher = log_p[:m]
                if teacher is not None:
                    log_teacher = teacher[1].logits(teacher[0][piece[0]]).to(exact).log_softmax(-1)
                kl[piece[0]], of_divergence = divergence(log_teacher, log_p[m:], distance)
            if grad_hidden is None:
                if paired and of_divergence is None:
                    kl[piece[0]] = (log_p[:m].exp() * (log_p[:m] - log_p[m:])).sum(-1)
                continue
            grad = log_p.exp()
            factor = _take(ce_weight, piece)[:, None]
            if of_divergence is not None:
                grad *= factor
                grad[m:].addcmul_(of_divergence, kl_weight[piece[0], None])
            elif paired:
                p, q = grad[:m], grad[m:]
                kl[piece[0]] = (p * (log_p[:m] - log_p[m:])).sum(-1)
                # d(ce + kl)/d(student logits) = (w + v) q - w onehot - v p, with the teacher's p a constant.
                pull = kl_weight[piece[0], None]
                q *= factor[m:] + pull
                q.addcmul_(p, pull, value=-1)
                p *= factor[:m]
            else:
                grad *= factor
            grad.scatter_add_(1, asked, -factor)
            if slope is not None:
                grad *= slope
            if scale != 1.0:
                grad *= scale
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            low = grad.to(hidden.dtype)
            found = None
            if own_table is not None:
                own_low = low[:, places]
                low[:, places] = 0  # the frozen rows that `own` replaces were not used
                found = own_low @ own_table
                if grad_own is not None:
                    _add_product(grad_own, own_low, states)
            _put(grad_hidden, piece, low @ table if found is None else found.addmm_(low, table))
            if grad_weight is not None:
                _add_product(grad_weight, low, states)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_own)
        ctx.dtypes = [None if of is None else of.dtype for of in (weight, bias, own)]
        ctx.mark_non_differentiable(ce, kl)
        return ce @ ce_weight + kl @ kl_weight, ce, kl

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, *_: Any) -> tuple[Any, ...]:  # type: ignore[override]
        of_hidden, *rest = ctx.saved_tensors
        # Accumulated gradients are scaled before they are rounded to the lower precision.
        sums = zip(rest, ctx.dtypes, strict=True)
        scaled = [None if of is None else of.mul_(grad_loss).to(dtype) for of, dtype in sums]
        return of_hidden * grad_loss.to(of_hidden.dtype), *scaled, *[None] * 10


def scored_loss(
    hidden: torch.Tensor,
    head: Head,
    target: torch.Tensor,
    ce_weight: torch.Tensor,
    kl_weight: torch.Tensor,
    chunk: int = 0,
    distance: Distance = KL,
    teacher: tuple[torch.Tensor, Head] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy of n tokens plus weighted divergence of P teacher-student pairs.

    Args:
        hidden: `[n, D]` last hidden states; entries p and P + p, for p < P, are a teacher-student pair.
        head: the output head.
        target: `[n]`, int64 token ids to predict.
        ce_weight: `[n]` weights of the cross-entropies.
        kl_weight: `[P]` weights of the divergences, which send no gradient into the teacher.
        chunk: tokens scored at a time; 0 chooses by memory.
        distance: the divergence; by default KL(teacher || student) at temperature 1.
        teacher: `[P, D]` hidden states of a teacher with weights of its own, and its head; None for entries 0 to P - 1.

    Returns:
        the loss `[]`; the cross-entropies `[n]` and the divergences `[P]` in nats, without gradient. All are float32,
        or float64 if `hidden` is.
    """
    chunk = chunk or max(2, chunk_bytes(hidden.device) // (4 * head.weight.shape[0]))
    of_head = head.weight, head.bias, head.own, head.places
    # Autograd is always off inside the function, so whether gradients are needed is passed in.
    wanted = torch.is_grad_enabled()
    return ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden, *of_head, target, ce_weight, kl_weight, head.scale, head.softcap, chunk, wanted, distance, teacher
    )


def chunk_bytes(device: torch.device) -> int:
    """Bytes of float32 logits per chunk on a device."""
    if device.type != "cuda":
        return CHUNK_BYTES
    return max(CHUNK_BYTES, min(CUDA_CHUNK_BYTES, torch.cuda.get_device_properties(device).total_memory // 64))


class LossTerms(NamedTuple):
    """A micro-batch's contribution to its global batch. All are scalars `[]`, and only `loss` has a gradient.

    It is a tuple because sharding engines look for tensors in the return value of a forward pass.

    Args:
        loss: share of the global batch's loss.
        teacher_ce, student_ce: shares of the logged mean cross-entropies, in nats.
        kl: share of the logged mean KL(teacher || student), in nats.
    """

    loss: torch.Tensor
    teacher_ce: torch.Tensor
    student_ce: torch.Tensor
    kl: torch.Tensor


def through(module: nn.Module, function: Callable[..., T], *args: Any, caller: nn.Module | None = None) -> T:
    """Call a function as if it were a module's forward pass.

    Sharding engines gather a module's parameters in hooks around its call, so code that uses them must run inside such
    a call.

    Args:
        module: module whose forward is replaced by the function for this call.
        function: called with `args`.
        caller: the engine's wrapper, called instead of the module if there is one.
    """
    own = module.__dict__.get("forward")
    module.forward = function
    try:
        found: T = (caller or module)(*args)
    finally:
        del module.forward
        if own is not None:
            module.forward = own
    return found


def _last_states(model: Any, rows: MicroBatch | TeacherRows) -> torch.Tensor:
    """Run the forward pass of packed rows, and return the hidden states `[n, D]` at their index."""
    outputs = model.base_model(
        input_ids=rows.input_ids,
        position_ids=rows.position_ids,
        use_cache=False,
        **boundaries(rows.cu_seqlens, rows.max_length, rows.position_ids[0]),
    )
    states: torch.Tensor = outputs.last_hidden_state[0].index_select(0, rows.index)
    return states


def token_losses(model: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
    """Cross-entropies `[n]`, in nats, of the scored tokens of packed rows, without gradient."""
    found = scored_loss(_last_states(model, batch), head_of(model), batch.target, batch.ce_weight, batch.kl_weight)
    return found[1]


def micro_batch_loss(
    model: PreTrainedModel,
    batch: MicroBatch,
    chunk: int = 0,
    distance: Distance = KL,
    average: MovingAverage | None = None,
) -> LossTerms:
    """Run the forward pass of packed rows, and compute their share of the global batch's loss.

    The model maps `[1, T]` token ids to `[1, T, D]` hidden states, of which the n scored ones go through the head.

    Args:
        model: a causal language model with `packed_attention.use_varlen_attention` applied.
        batch: B packed rows of T tokens in all with n scored positions, on the model's device.
        chunk: positions scored at a time; 0 chooses by memory.
        distance: the divergence of teacher and student.
        average: the teacher's weights, for the rows in `batch.apart`; None if they are the student's.
    """
    teacher: tuple[torch.Tensor, Head] | None = None
    if average is not None and batch.apart is not None:
        apart = batch.apart
        teacher = average.run(lambda network: (_last_states(network, apart), head_of(network)))
    hidden = _last_states(model, batch)

    def score(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return scored_loss(
            states, head_of(model), batch.target, batch.ce_weight, batch.kl_weight, chunk, distance, teacher
        )

    loss, ce, kl = through(model.get_output_embeddings(), score, hidden)
    return LossTerms(
        loss,
        ce @ batch.teacher_mean.to(ce.dtype),
        ce @ batch.student_mean.to(ce.dtype),
        kl @ batch.kl_mean.to(kl.dtype),
    )
