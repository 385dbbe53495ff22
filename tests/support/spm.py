"""A SentencePiece-style tokenizer like Llama's and Code Llama's, and a model with one fixed output; no downloads."""

from __future__ import annotations

from itertools import pairwise

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MERGES = [("▁", "▁"), ("▁▁", "▁▁"), ("r", "e"), ("re", "t"), ("ret", "u"), ("retu", "r"), ("retur", "n")]


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of ASCII characters, `return`, runs of two and four spaces, and bytes for all else.

    Its decoder drops the first space of a text.
    """
    letters = ["▁", *map(chr, range(33, 127))]
    entries = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    entries += ["".join(pair) for pair in MERGES]
    inner = Tokenizer(
        models.BPE({entry: i for i, entry in enumerate(entries)}, MERGES, unk_token="<unk>", byte_fallback=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return made


def saying(ids: list[int], size: int) -> LlamaForCausalLM:
    """A model whose next token depends on the last token only: each of `ids` (all different) predicts the next one."""
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        head_dim=8, max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in pairwise(ids):
            model.lm_head.weight[following, token] = 1.0
    return model
