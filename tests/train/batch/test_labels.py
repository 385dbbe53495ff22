"""`loss.labels`: which tokens of a sequence are labels."""

from __future__ import annotations

import dataclasses

import pytest
import tiny

from reflectioncoder.config.train import LossConfig, SequenceLabels
from reflectioncoder.dialogues.dialogue import Block, instruction_dialogue, reflection_dialogue
from reflectioncoder.dialogues.tokens import Encoded, encode_dialogue
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.labels import choose_labels

BLOCKS = [
    Block("code", "bad"),
    Block("execution", "E1"),
    Block("text", "why"),
    Block("code", "worse"),
    Block("execution", "E2"),
    Block("text", "so"),
    Block("code", "good"),
    Block("execution", "ok"),
]
ROUND = "<|code|>{}<|endofblock|><|text|>why<|endofblock|><|code|>{}<|endofblock|><|text|>so<|endofblock|>"


def labels_of(sample: Encoded, labels: SequenceLabels) -> str:
    """The text of the labels, in order."""
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    chosen = choose_labels(sample, labels)
    assert dataclasses.replace(chosen, is_label=sample.is_label) == sample
    return words.decode([token for token, scored in zip(chosen.ids, chosen.is_label, strict=True) if scored])


@pytest.fixture(scope="module")
def sequence() -> Encoded:
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    return encode_dialogue(reflection_dialogue("do, tested", BLOCKS, "do", "good"), words)


def test_the_labels_of_each_choice_are_those_written_by_hand(sequence: Encoded) -> None:
    tail = "<|code|>good<|endofblock|><|endofmessage|>"
    answer = "<|text|>```python\ngood\n```<|endofblock|><|endofmessage|>"
    assert labels_of(sequence, "all") == ROUND.format("bad", "worse") + tail + answer
    right = "<|code|><|text|>why<|endofblock|><|code|><|text|>so<|endofblock|>"
    assert labels_of(sequence, "right") == right + tail + answer
    assert labels_of(sequence, "answer") == answer


@pytest.mark.parametrize("labels", ["right", "answer"])
def test_plain_samples_keep_their_labels(labels: SequenceLabels) -> None:
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    plain = encode_dialogue(instruction_dialogue("do", "good"), words)
    assert choose_labels(plain, labels) is plain
    assert LossConfig().labels == "all"
