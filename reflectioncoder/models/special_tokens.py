"""Adds the format's special tokens to a model, as new rows of the embedding and of the output head."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import AddedToken

from reflectioncoder.dialogues.chat_template import CHAT_TEMPLATE
from reflectioncoder.dialogues.tokens import END_OF_MESSAGE, SPECIAL_TOKENS, special_ids
from reflectioncoder.errors import UserError

ROW_MULTIPLE = 64  # grown tables have a multiple of 64 rows, so that GPUs run the bfloat16 output head at full speed


def _whole(tables: Sequence[torch.Tensor]) -> AbstractContextManager[Any]:
    """Context manager that gathers tables that DeepSpeed's ZeRO-3 has partitioned over the ranks."""
    if not any(hasattr(table, "ds_id") for table in tables):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(tables), modifier_rank=0)
    return gathered


def train_every_row(model: torch.nn.Module) -> None:
    """Let every row of the embeddings get gradients.

    If the pad token is also the end token, transformers gives the embedding a `padding_idx`, and PyTorch then computes
    no gradient for that row. Packed rows have no padding, so a token in them always means itself.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None


def _make_special(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the format's tokens special that a vocabulary holds as ordinary ones, which content could forge."""
    known = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    vocabulary = tokenizer.get_vocab()
    plain = [token for token in SPECIAL_TOKENS if token in vocabulary and not known.get(token, False)]
    if plain:
        added = [AddedToken(token, special=True, normalized=False) for token in plain]
        tokenizer.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)


def check_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if a tokenizer has no end-of-sequence token."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: has no eos_token; set one in tokenizer_config.json")


def add_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Add the missing special tokens; each new row is the mean of the rows of the tokens in the special token's name.

    The tables are the embedding `[V, D]` and, if it is not tied to the embedding, the output head `[V, D]` with its
    bias `[V]`. This also sets the chat template and the tokens that stop generation, so that the saved model works with
    `apply_chat_template` and servers.

    If a table must grow, its number of rows becomes a multiple of 64, with up to 63 rows more than the tokenizer has
    tokens. The spare rows are the mean of all old rows. So the logit of a spare row is the mean of all old logits: it
    is never more probable than the average token, and in practice far less. No text is encoded with the ids of spare
    rows, and decoding skips them.

    Returns:
        the number of tokens added.

    Raises:
        UserError: the tokenizer has no end-of-sequence token.
    """
    check_end_token(tokenizer)
    _make_special(tokenizer)
    vocabulary = tokenizer.get_vocab()
    new = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    pieces = {token: tokenizer.encode(token, add_special_tokens=False) for token in new}
    if new:
        added = [AddedToken(token, special=True, normalized=False) for token in new]
        tokenizer.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)
        embedding: Any = model.get_input_embeddings()
        # With ZeRO-3 the weight is partitioned, and ds_shape is the shape of the whole table.
        before = getattr(embedding.weight, "ds_shape", embedding.weight.shape)[0]
        if len(tokenizer) > before:  # many models have spare rows already
            model.resize_token_embeddings(-(-len(tokenizer) // ROW_MULTIPLE) * ROW_MULTIPLE, mean_resizing=False)
            embedding = model.get_input_embeddings()
        head: Any = model.get_output_embeddings()
        tables = [embedding.weight]
        if head is not None and head.weight is not embedding.weight:
            tables.append(head.weight)
            if getattr(head, "bias", None) is not None:
                tables.append(head.bias)
        with torch.no_grad(), _whole(tables):
            for table in tables:
                table[before:] = table[:before].mean(0, dtype=torch.float32).to(table.dtype)
            for token in new:
                row = tokenizer.convert_tokens_to_ids(token)
                for table in tables:
                    table[row] = table[pieces[token]].float().mean(0).to(table.dtype)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = CHAT_TEMPLATE
    stop = [special_ids(tokenizer)[END_OF_MESSAGE], tokenizer.eos_token_id]
    if model.generation_config is not None:
        model.generation_config.eos_token_id = stop
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return len(new)
