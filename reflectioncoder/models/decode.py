"""Continuous batched decoding, greedy or sampled, for any causal language model of transformers.

The loop runs at most `batch_size` rows. Finished rows leave the batch and waiting prompts join it, so no time is spent
on finished rows. Keys and values are stored right-aligned; the mask hides unused columns on the left. A row's sampling
depends only on (seed, task id, sample). The last bits of its logits can still depend on the other rows, as matrix
kernels differ by shape: in float32 this practically never changes a token, in bfloat16 it can decide a near-tie.

Models that keep more state than keys and values between steps (state-space layers) are rejected.
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
NUCLEUS = 512  # tokens looked at first when sampling; more only where their mass is below top_p


@dataclass(frozen=True)
class Request:
    """One completion to make.

    Args:
        task_id: of the problem.
        sample: index of the completion among the problem's.
        ids: prompt, without padding.
        max_new_tokens: the completion ends there at the latest.
        stops: the completion ends once its text contains one of these.
        opens_line: the prompt ends with a newline, so that a stop that begins with one may come first.
        ended: called after each token; returns why the completion ends there, or empty text to continue. It replaces
            end tokens and stops, and the completion's ids then include the last token.
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
    """A completion: its tokens without an end token, their text, and why it ended ("end", "stop", "length", or what
    `Request.ended` said)."""

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
    """Keys and values in buffers with room to grow: a step writes one column instead of copying all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new columns and return everything so far."""
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
        """Replace everything."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys, self.values, self.buffers = keys, values, None


def new_cache() -> Cache:
    """An empty store of keys and values for the loop below."""
    return Cache(layer_class_to_replicate=_GrowingLayer)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a completion: those of the generation config and the tokenizer's end of sequence."""
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
        model: in evaluation mode, on its device.
        tokenizer: the model's.
        requests: what to complete, in any order.
        batch_size: most rows at a time.
        temperature: 0 takes the likeliest token.
        top_p: share of probability that sampling draws from.
        seed: of the draws, together with each request's task id and sample.
        more: asked before every step for requests that have come in the meantime. They join the running batch.

    Raises:
        UserError: a prompt longer than the model's positions, or a model that cannot be decoded here.
    """
    _check(model, requests)
    ends = stop_ids(model, tokenizer)
    waiting = sorted(requests, key=_urgency, reverse=True)  # taken from the end
    rows: list[_Row] = []
    mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)
    cache, logits = new_cache(), torch.zeros(0)
    # Rows leave and join in groups: each change copies the store once.
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
    """The last token of a prompt that shows something, or another such token; none where none does.

    Tokenizers made from SentencePiece drop a blank at the beginning of whatever they decode, so a text that goes on
    behind a prompt has to be decoded with something in front. A token that is part of a letter would not do, nor one
    that is a blank itself.
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
    """The text that `ids` are where they stand behind other tokens; `before` is what `anchor` found there."""

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
    """Raise UserError for an empty prompt, or one that leaves no room for its answer in `limit` positions."""
    for request in requests:
        if not request.ids:
            raise UserError(f"problem '{request.task_id}': its prompt is empty")
        if limit is not None and len(request.ids) + request.max_new_tokens > limit:
            raise UserError(
                f"problem '{request.task_id}': prompt of {len(request.ids)} and answer of {request.max_new_tokens} "
                f"tokens, but the model has {limit} positions; lower max_new_tokens"
            )


def _prefill(model: PreTrainedModel, requests: Sequence[Request]) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Mask, keys and values, and next-token logits of new rows; a prompt that occurs twice is computed once."""
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
    """Columns on the left up to `width`; what is in them is hidden by the mask, but must be finite."""
    missing = width - tensor.shape[2]
    return torch.nn.functional.pad(tensor, (0, 0, missing, 0)) if missing else tensor


def _join(cache: Cache, mask: torch.Tensor, new: Cache, new_mask: torch.Tensor) -> torch.Tensor:
    """Add the new rows below the old ones, right-aligned; returns the mask of all."""
    width = max(mask.shape[1], new_mask.shape[1])
    for layer, other in zip(_layers(cache), _layers(new), strict=True):
        layer.place(
            torch.cat([_widen(layer.keys, width), _widen(other.keys, width)]),
            torch.cat([_widen(layer.values, width), _widen(other.values, width)]),
        )
    return torch.cat([torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in (mask, new_mask)])


def _compact(cache: Cache, mask: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Leave only the rows `keep`, and drop the columns on the left that none of them uses; returns their mask."""
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
    """One token a row from the smallest set of likeliest tokens whose probability reaches `top_p`.

    Args:
        logits: (rows, vocabulary).
        top_p: in (0, 1].
        draws: (rows,) numbers in [0, 1), float64: where in the set's probability the token lies, likeliest first.
    """
    total = logits.double().logsumexp(-1, keepdim=True)
    for size in (min(NUCLEUS, logits.shape[1]), logits.shape[1]):
        top, order = logits.topk(size)  # sorting the whole vocabulary every step would cost more than the model
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
    """Add a token to a row and see whether the row ends."""
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
    # The longest stop has at most as many tokens as letters; the first token's text may begin before it.
    reach = max(map(len, request.stops), default=0) + 1
    tail = text_behind(tokenizer, row.before, row.ids[-reach:])
    if request.opens_line and len(row.ids) <= reach:
        tail = "\n" + tail
    if any(stop in tail for stop in request.stops):
        row.reason = "stop"
    elif len(row.ids) >= request.max_new_tokens:
        row.reason = "length"


def prompt_hash(request: Request) -> str:
    """Hash of everything in a request that determines its completion, besides model and sampling settings."""
    parts = (request.ids, request.max_new_tokens, request.stops)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


Report = Callable[[int, int, float], None]  # finished, of how many, tokens a second
