"""Settings of `pretrain`."""

from __future__ import annotations

from dataclasses import dataclass

MICRO_MODEL = "micro"


@dataclass(frozen=True)
class PretrainConfig:
    """Make a micro model for studies: a small Llama, pre-trained from nothing on procedural documents.

    Args:
        output: directory of the model; empty is a folder of the cache, named after these settings. With the default
            settings `model = "micro"` names it in all other commands.
        family: the generator of the problems that the documents are about, `procedural_micro` or `arithmetic`; its
            split `pretrain` is used.
        levels: difficulty levels of these problems.
        tokens: tokens to train on; no document is used twice but those of `sequences`.
        sequences: problems whose debugging is shown: programs with asserts, what they print, and remarks about the
            failures, each as a document of its own. They make up `share` of the tokens.
        share: share of the tokens that are from `sequences`, in [0, 1).
        vocabulary: entries of the tokenizer, a byte-level BPE that is made from the documents; digits stand alone.
        layers: layers of the model.
        width: size of the hidden states.
        heads: attention heads.
        window: tokens of a training row; documents follow each other in it. With long rows a small model learns to copy
            from other documents before it learns to read an instruction (docs/studies.md).
        batch_tokens: tokens of an optimizer step.
        learning_rate: peak learning rate; it rises over 5 % of the steps and falls to a tenth on a cosine.
        seed: seed of the documents and of the first weights.
    """

    output: str = ""
    family: str = "procedural_micro"
    levels: tuple[int, ...] = (1, 2)
    tokens: int = 4_000_000
    sequences: int = 100
    share: float = 0.15
    vocabulary: int = 768
    layers: int = 3
    width: int = 128
    heads: int = 4
    window: int = 256
    batch_tokens: int = 8192
    learning_rate: float = 3e-3
    seed: int = 0
