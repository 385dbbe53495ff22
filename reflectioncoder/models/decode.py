"""Continuous batched decoding, greedy or sampled, for any causal language model of transformers.

The loop runs at most `batch_size` rows. Finished rows leave the batch and waiting prompts join it, so little time is
spent on finished rows. Keys and values are stored right-aligned; the mask hides unused columns on the left. A row's
sampling depends only on (seed, task id, sample). The last bits of its logits can still depend on the other rows,
because matrix kernels differ by shape. In float32 this practically never changes a token; in bfloat16 it can decide a
near-tie.

Models that keep more state than keys and values between steps (state-space layers) are rejected.

In the shapes below, B is the number of rows in the batch and W the width of the key-value cache in columns.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicLayer

from reflectioncoder.dialogues.tokens import END_OF_BLOCK, END_OF_MESSAGE
from reflectioncoder.errors import UserError

GROWTH = 64  # columns added when keys and values are full
NUCLEUS = 512  # likeliest tokens considered first in sampling; all are considered if their mass is below top_p


@dataclass(frozen=True)
class Request:
    """A request for one completion.

    Args:
        task_id: id of the problem.
        sample: index of the completion among those of the problem.
        ids: token ids of the prompt, without padding.
        max_new_tokens: limit on the tokens of the completion.
        stops: texts that end the completion when its text contains one of them.
        opens_line: whether the prompt ends with a newline, so that the completion may begin with the rest of a stop
            that begins with a newline.
        ended: called with the completion's ids after each token; returns why the completion ends, or "" to continue. It
            replaces end tokens and stops, and the completion's ids then include the last token.
    """

    task_id: str
    sample: int
    ids: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    opens_line: bool = False
    ended: Callable[[Sequence[int]], str] | None = None


@dataclass(frozen=True)
class Decoded:
    """A completion.

    Args:
        request: the request that it answers.
        ids: token ids, without an end token.
        text: their text, without special tokens.
        reason: why it ended: "end" (end token), "stop", "length", or the reason that `Request.ended` returned.
    """

    request: Request
    ids: tuple[int, ...]
    text: str
    reason: str


# Called with True if the loop is idle, so that it may block; returns None if no more requests will come.
More = Callable[[bool], Sequence[Request] | None]


@dataclass
class _Row:
    request: Request
    draw: random.Random
    before: list[int]
    ids: list[int] = field(default_factory=list)
    reason: str = ""


class _GrowingLayer(DynamicLayer):
    """Keys and values of one layer, `[B, K, W, E]` each, in buffers with spare columns.

    A step writes one column and does not copy the others.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new columns `[B, K, new, E]`, and return all keys and values `[B, K, W, E]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        width = used + key_states.shape[2]
        if self.buffers is None or width > self.buffers[0].shape[2]:
            self.buffers = (self._larger(self.keys, key_states, width), self._larger(self.values, value_states, width))
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:width] = new
        self.keys, self.values = (buffer[:, :, :width] for buffer in self.buffers)
        return self.keys, self.values

    @staticmethod
    def _larger(old: torch.Tensor | None, like: torch.Tensor, width: int) -> torch.Tensor:
        buffer = like.new_empty(*like.shape[:2], width + GROWTH, like.shape[3])
        if old is not None and old.numel():
            buffer[:, :, : old.shape[2]] = old
        return buffer

    def place(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace all keys and values `[B, K, W, E]`."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys, self.values, self.buffers = keys, values, None


def new_cache() -> Cache:
    """Create an empty key-value cache for `decode_batched`."""
    return Cache(layer_class_to_replicate=_GrowingLayer)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the tokens that end a completion.

    These are the end tokens of the generation config, the tokenizer's end-of-sequence token, and the format's ends of
    block and message if the tokenizer has them.
    """
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    found = set(configured if isinstance(configured, list) else [configured])
    found.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary.get(token) for token in (END_OF_BLOCK, END_OF_MESSAGE))
    return {token for token in found if token is not None}


@torch.inference_mode()
def decode_batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    more: More | None = None,
) -> Iterator[Decoded]:
    """Complete all requests, longest prompts first, and yield each completion as soon as it ends.

    Args:
        model: the model in evaluation mode, on its device.
        tokenizer: the model's tokenizer.
        requests: the requests, in any order.
        batch_size: maximal number of rows in the batch.
        temperature: sampling temperature; 0 is greedy.
        top_p: probability mass of nucleus sampling, in (0, 1].
        seed: random seed of the run; a row's draws depend on it and on the request's task id and sample.
        more: called before every step for new requests, which join the running batch.

    Raises:
        UserError: a prompt is too long for the model's positions, or the model cannot be decoded here.
    """
    _check(model, requests)
    ends = stop_ids(model, tokenizer)
    waiting = sorted(requests, key=_urgency, reverse=True)  # taken from the end
    rows: list[_Row] = []
    mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)
    cache, logits = new_cache(), torch.zeros(0)
    # Rows leave and join in groups, because each change copies the whole cache.
    group = max(1, batch_size // 8)
    while True:
        if more is not None:
            arrived = more(not rows and not waiting)
            if arrived is None:
                more = None
            elif arrived:
                _check(model, arrived)
                waiting = sorted([*waiting, *arrived], key=_urgency, reverse=True)
        if not rows and not waiting:
            if more is None:
                return
            continue
        free = batch_size - len(rows)
        if waiting and (free >= group or not rows):
            joining = [waiting.pop() for _ in range(min(free, len(waiting)))]
            new_mask, new, new_logits = _prefill(model, joining)
            if rows:
                mask, logits = _join(cache, mask, new, new_mask), torch.cat([logits, new_logits])
            else:
                mask, cache, logits = new_mask, new, new_logits
            for request in joining:
                draw = random.Random(f"{seed}:{request.task_id}:{request.sample}")
                rows.append(_Row(request, draw, anchor(tokenizer, request.ids)))
        tokens = _choose(logits, rows, temperature, top_p)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not row.reason:
                _accept(row, token, ends, tokenizer)
                if row.reason:
                    text = text_behind(tokenizer, row.before, row.ids, skip_special_tokens=True)
                    yield Decoded(row.request, tuple(row.ids), text, row.reason)
        done = sum(bool(row.reason) for row in rows)
        if done == len(rows):
            rows = []
            continue
        if done >= (group if waiting else max(1, len(rows) // 8)):
            keep = torch.tensor([i for i, row in enumerate(rows) if not row.reason], device=mask.device)
            rows = [row for row in rows if not row.reason]
            mask, tokens = _compact(cache, mask, keep), tokens[keep]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        output = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]


def anchor(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> list[int]:
    """Return a visible token to put before a completion when it is decoded; empty if there is none.

    Tokenizers made from SentencePiece drop a blank at the beginning of the text they decode, so the continuation of a
    prompt must be decoded together with a token before it. This is the last token of the prompt that decodes to whole,
    visible characters, or else a token of the letter "a". Blanks and parts of a multi-byte character do not work.
    """
    special = set(tokenizer.all_special_ids)
    for token in [*tokenizer.encode("a", add_special_tokens=False), *prompt][::-1]:
        if token not in special:
            shown = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
            if shown.strip() and "\ufffd" not in shown:
                return [token]
    return []


def text_behind(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int], skip_special_tokens: bool = False
) -> str:
    """Decode `ids` as the continuation of other tokens.

    Args:
        tokenizer: the model's tokenizer.
        before: tokens from `anchor`.
        ids: tokens to decode.
        skip_special_tokens: whether to leave special tokens out.
    """

    def text(tokens: Sequence[int]) -> str:
        return str(
            tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        )

    front, both = text(before), text([*before, *ids])
    return both[len(front) :] if both.startswith(front) else text(ids)


def _urgency(request: Request) -> tuple[int, str, int]:
    return -len(request.ids), request.task_id, request.sample


def _check(model: PreTrainedModel, requests: Sequence[Request]) -> None:
    kinds = set(getattr(model.config, "layer_types", None) or [])
    if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False) or "linear_attention" in kinds:
        raise UserError(f"model {model.config.model_type}: not a decoder that keeps only keys and values")
    check_lengths(requests, getattr(model.config, "max_position_embeddings", None))


def check_lengths(requests: Sequence[Request], limit: int | None) -> None:
    """Raise UserError if a prompt is empty, or prompt and completion together exceed `limit` positions."""
    for request in requests:
        if not request.ids:
            raise UserError(f"problem '{request.task_id}': its prompt is empty")
        if limit is not None and len(request.ids) + request.max_new_tokens > limit:
            raise UserError(
                f"problem '{request.task_id}': prompt of {len(request.ids)} and answer of {request.max_new_tokens} "
                f"tokens, but the model has {limit} positions; lower max_new_tokens"
            )


def _prefill(model: PreTrainedModel, requests: Sequence[Request]) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Run the prompts of new rows through the model; equal prompts are computed once.

    Args:
        model: the model.
        requests: the B new rows.

    Returns:
        the mask `[B, W]`, the keys and values, and the next-token logits `[B, V]`; W is the longest prompt's length.
    """
    unique = list(dict.fromkeys(request.ids for request in requests))
    width = max(map(len, unique))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in unique], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in unique], device=model.device)
    cache = new_cache()
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = output.logits[:, -1]
    if len(unique) < len(requests):
        where = {prompt: i for i, prompt in enumerate(unique)}
        rows = torch.tensor([where[request.ids] for request in requests], device=model.device)
        for layer in _layers(cache):
            layer.place(layer.keys[rows], layer.values[rows])
        mask, logits = mask[rows], logits[rows]
    return mask, cache, logits


def _layers(cache: Cache) -> list[Any]:
    return list(cache.layers)


def _widen(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Add zero columns on the left, `[B, K, W, E]` -> `[B, K, width, E]`. The mask hides them, but only if finite."""
    missing = width - tensor.shape[2]
    return torch.nn.functional.pad(tensor, (0, 0, missing, 0)) if missing else tensor


def _join(cache: Cache, mask: torch.Tensor, new: Cache, new_mask: torch.Tensor) -> torch.Tensor:
    """Append new rows to the batch, right-aligned.

    Args:
        cache: keys and values of the B old rows; changed in place.
        mask: `[B, W]` mask of the old rows.
        new: keys and values of the new rows.
        new_mask: `[added, new W]` mask of the new rows.

    Returns:
        the mask of all rows, `[B + added, wider W]`.
    """
    width = max(mask.shape[1], new_mask.shape[1])
    for layer, other in zip(_layers(cache), _layers(new), strict=True):
        layer.place(
            torch.cat([_widen(layer.keys, width), _widen(other.keys, width)]),
            torch.cat([_widen(layer.values, width), _widen(other.values, width)]),
        )
    return torch.cat([torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in (mask, new_mask)])


def _compact(cache: Cache, mask: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Remove finished rows, and the columns on the left that no remaining row uses.

    Args:
        cache: keys and values of all B rows; changed in place.
        mask: `[B, W]` mask of all rows.
        keep: `[kept]`, int64 indices of the remaining rows.

    Returns:
        the mask of the remaining rows, `[kept, used]`.
    """
    mask = mask[keep]
    used = int(mask.sum(1).max())
    for layer in _layers(cache):
        layer.place(layer.keys[keep, :, -used:], layer.values[keep, :, -used:])
    return mask[:, -used:]


def _choose(logits: torch.Tensor, rows: Sequence[_Row], temperature: float, top_p: float) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    draws = torch.tensor([row.draw.random() for row in rows], device=logits.device, dtype=torch.float64)
    return nucleus(logits.float() / temperature, top_p, draws)


def nucleus(logits: torch.Tensor, top_p: float, draws: torch.Tensor) -> torch.Tensor:
    """Choose one token per row by nucleus sampling: from the smallest set of likeliest tokens with mass `top_p`.

    Args:
        logits: `[B, V]`, already divided by the temperature.
        top_p: probability mass of the set, in (0, 1].
        draws: `[B]`, float64 numbers in [0, 1). They select a token by the cumulative probability within the set,
            likeliest tokens first.

    Returns:
        `[B]`, int64 token ids.
    """
    total = logits.double().logsumexp(-1, keepdim=True)
    for size in (min(NUCLEUS, logits.shape[1]), logits.shape[1]):
        top, order = logits.topk(size)  # sorting the whole vocabulary at every step would take longer than the model
        cumulative = (top.double() - total).exp().cumsum(-1)
        if bool((cumulative[:, -1] >= top_p).all()):
            break
    before = torch.nn.functional.pad(cumulative[:, :-1], (1, 0))
    inside = (before < top_p) | (torch.arange(size, device=logits.device) == 0)
    mass = cumulative.masked_fill(~inside, 0).amax(-1, keepdim=True)
    index = (cumulative <= draws[:, None] * mass).sum(-1)
    index = index.minimum(inside.sum(-1) - 1)
    return order.gather(1, index[:, None])[:, 0]


def _accept(row: _Row, token: int, ends: set[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Add a token to a row, and set the row's reason if the row ends."""
    if row.request.ended is not None:
        row.ids.append(token)
        row.reason = row.request.ended(row.ids)
        if not row.reason and len(row.ids) >= row.request.max_new_tokens:
            row.reason = "length"
        return
    if token in ends:
        row.reason = "end"
        return
    row.ids.append(token)
    request = row.request
    # The longest stop has at most one token per character, and the text of its first token may begin before it.
    reach = max(map(len, request.stops), default=0) + 1
    tail = text_behind(tokenizer, row.before, row.ids[-reach:])
    if request.opens_line and len(row.ids) <= reach:
        tail = "\n" + tail
    if any(stop in tail for stop in request.stops):
        row.reason = "stop"
    elif len(row.ids) >= request.max_new_tokens:
        row.reason = "length"


def prompt_hash(request: Request) -> str:
    """Hash the parts of a request that determine its completion, apart from the model and the sampling settings."""
    parts = (request.ids, request.max_new_tokens, request.stops)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


Report = Callable[[int, int, float], None]  # called with completions finished, their total, and tokens per second
