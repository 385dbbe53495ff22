"""Tiny models, tiny tokenizers and random samples for tests of training; no downloads."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from reflectioncoder.dialogues.dialogue import Block, Dialogue, instruction_dialogue, reflection_dialogue, write_jsonl
from reflectioncoder.dialogues.tokens import Encoded, Span, encode_dialogue
from reflectioncoder.models.special_tokens import add_special_tokens

VOCABULARY = 61


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte, BOS and EOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def llama(
    vocabulary: int = VOCABULARY, tied: bool = True, seed: int = 0, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """A random Llama with two layers, four query heads and two key heads.

    In float64 it uses PyTorch's RMSNorm, because Llama's own norm always computes in float32.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).to(dtype)
    if dtype == torch.float64:
        for name, module in list(model.named_modules()):
            if type(module).__name__ == "LlamaRMSNorm":
                parent, _, child = name.rpartition(".")
                norm = torch.nn.RMSNorm(32, eps=config.rms_norm_eps, dtype=dtype)
                with torch.no_grad():
                    norm.weight.uniform_(0.5, 1.5)
                setattr(model.get_submodule(parent), child, norm)
    return model


def gpt2(vocabulary: int = VOCABULARY, seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random GPT-2 with two layers, absolute positions and no dropout."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=512,
        n_embd=32,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return GPT2LMHeadModel(config).to(dtype)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with 320 entries, BOS and EOS, without the package's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["def add(a, b):\n    return a + b\nassert add(1, 2) == 3\n", "for item in items: total += item"] * 8
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def digits() -> str:
    """The tokenizer.json of a BPE that splits digits singly, and whose merges hold "12", which this prevents."""
    inner = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    inner.pre_tokenizer = pre_tokenizers.Sequence(split)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<s>"]
    inner.train_from_iterator(
        ["def add return"] * 9, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    found = json.loads(inner.to_str())
    found["model"]["vocab"]["12"] = len(found["model"]["vocab"])
    found["model"]["merges"].insert(0, ["1", "2"])
    return json.dumps(found)


def build_llama(vocab_size: int, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama with grouped-query attention, two layers and hidden size 32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def save(folder: Path, model: PreTrainedModel) -> str:
    """Save a model with the tiny tokenizer, and return the directory's path."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def memorised(dialogues: Sequence[Dialogue], folder: Path, steps: int = 400) -> str:
    """Train a tiny Llama until it has memorized dialogues, with a tokenizer made for them; return its directory."""
    heads = 2 if find_spec("vllm") else 4  # vLLM on a CPU runs no heads of less than 32 channels
    contents = [block.content for dialogue in dialogues for message in dialogue.messages for block in message.blocks]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        contents, trainers.BpeTrainer(vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    words = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=1024,
        )
    )
    add_special_tokens(model, words)
    samples = [encode_dialogue(dialogue, words) for dialogue in dialogues]
    width = max(map(len, samples))
    ids = torch.tensor([[*sample.ids, *[0] * (width - len(sample))] for sample in samples])
    labels = ids.masked_fill(~torch.tensor([[*s.is_label, *[False] * (width - len(s))] for s in samples]), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.005:
            break
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def encoded(
    blocks: list[tuple[str, int]],
    seed: int = 0,
    reflection: bool = True,
    user: int = 5,
    question: int = 4,
    answer: int = 6,
) -> Encoded:
    """A sample of random tokens in the layout of appendix C; block lengths count their content only.

    Ids 2..8 stand for the special tokens; the tests do not depend on which special token an id is.
    """
    rng = random.Random(f"sample {seed}")
    ids, labels, spans, bounds = [0], [False], [], []

    def message(m: int, contents: list[tuple[str, int]]) -> None:
        start = len(ids)
        ids.append(2 + m % 2)
        labels.append(False)
        for b, (kind, length) in enumerate(contents):
            first = len(ids)
            ids.extend([4, *(rng.randrange(9, VOCABULARY) for _ in range(length)), 7])
            labels.extend([m % 2 == 1 and kind != "execution"] * (length + 2))
            spans.append(Span(m, b, kind, first, len(ids)))  # type: ignore[arg-type]
        ids.append(8)
        labels.append(m % 2 == 1)
        bounds.append((start, len(ids)))

    if reflection:
        message(0, [("text", user)])
        message(1, blocks)
        message(2, [("text", question)])
        message(3, [("text", answer)])
    else:
        message(0, [("text", question)])
        message(1, [("text", answer)])
    ids.append(1)
    labels.append(False)
    return Encoded(tuple(ids), tuple(labels), tuple(spans), tuple(bounds), reflection, str(seed))


def dialogues(count: int = 6) -> list[Dialogue]:
    """Short dialogues; every third one is plain instruction data."""
    found = []
    for i in range(count):
        if i % 3 == 2:
            found.append(instruction_dialogue(f"negate {i}", f"```python\nf = lambda: -{i}\n```"))
            continue
        sequence = [
            Block("code", f"assert {i} == {i + 1}"),
            Block("execution", "AssertionError"),
            Block("text", "off by one"),
            Block("code", f"assert {i} == {i}"),
            Block("execution", ""),
        ]
        found.append(reflection_dialogue(f"say {i} with tests", sequence, f"say {i}", f"print({i})"))
    return found


def model_and_data(folder: Path) -> Path:
    """Fill a folder with a random tiny Llama (`model`) and six dialogues (`data.jsonl`), and return it."""
    save(folder / "model", llama(258, dtype=torch.float32))
    write_jsonl(folder / "data.jsonl", dialogues())
    return folder
