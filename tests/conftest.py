"""What several test files share: a tiny tokenizer, and the folder of real data where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reflectioncoder.dialogues.dialogue import Dialogue

DATA = Path(os.environ.get("REFLECTIONCODER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with 320 entries, BOS, EOS and no special tokens of ours."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["def add(a, b):\n    return a + b\nassert add(1, 2) == 3\n", "for item in items: total += item"] * 8
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def build_llama(vocab_size: int, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama with grouped-query attention, two layers, 32 wide."""
    import torch

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


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def learnt() -> list[Dialogue]:
    """Dialogues that `model` knows by heart."""
    import blocks

    return blocks.lessons()


@pytest.fixture(scope="session")
def model(learnt: list[Dialogue], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny model that writes the dialogues of `learnt`."""
    import tiny

    return tiny.memorised(learnt, tmp_path_factory.mktemp("learnt"))


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the folder of real data sets, {DATA}, is not there; set REFLECTIONCODER_DATA")
    return DATA
