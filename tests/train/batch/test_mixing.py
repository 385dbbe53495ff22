"""Epochs hold plain and reflection data in the wanted proportion: by samples, by instructions or by tokens."""

from __future__ import annotations

import dataclasses
from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.config.train import LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.dialogue import Block, instruction_dialogue, reflection_dialogue
from reflectioncoder.dialogues.tokens import Encoded, encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.mixing import Turns, epoch_size, repeats_of, times
from reflectioncoder.train.batch.rows import cost, sample_stream
from reflectioncoder.train.batch.steps import TrainSteps, mean_cost, prepare

SEQUENCE = [Block("code", "assert 0"), Block("execution", "AssertionError"), Block("code", "assert 1")]


def samples(plain: int, sequences: int, problems: int = 3) -> tuple[list[Encoded], list[bool]]:
    """`plain` plain samples and `sequences` reflection samples of each of some problems."""
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    dialogues = [
        one
        for problem in range(problems)
        for one in (
            *(instruction_dialogue(f"say {problem}", f"print({problem + n})") for n in range(plain)),
            *(
                reflection_dialogue(f"say {problem} with tests", SEQUENCE * (n + 1), f"say {problem}", "print()")
                for n in range(sequences)
            ),
        )
    ]
    return [encode_dialogue(one, words, str(n)) for n, one in enumerate(dialogues)], [
        d.is_reflection for d in dialogues
    ]


def uncounted(_: Encoded) -> float:
    raise AssertionError("only mix = tokens needs to count tokens")


def test_by_samples_an_epoch_repeats_reflection_samples_only() -> None:
    found, reflections = samples(plain=1, sequences=2)
    assert repeats_of(found, reflections, TrainConfig(upsample=3), uncounted) == [1, 3, 3] * 3


@pytest.mark.parametrize(("plain", "sequences", "upsample"), [(1, 1, 2), (2, 3, 2), (3, 4, 1), (1, 5, 3)])
def test_by_instructions_every_epoch_shows_each_instruction_equally_often(
    plain: int, sequences: int, upsample: int
) -> None:
    found, reflections = samples(plain, sequences)
    repeats = repeats_of(found, reflections, TrainConfig(mix="instructions", upsample=upsample), uncounted)
    each = plain + sequences
    assert epoch_size(repeats) == 3 * (1 + upsample)
    seen: Counter[int] = Counter()
    for epoch in range(plain * sequences):
        counts = [times(one, epoch) for one in repeats]
        for problem in range(3):
            of_problem = counts[problem * each : (problem + 1) * each]
            assert sum(of_problem[:plain]) == 1 and sum(of_problem[plain:]) == upsample
        seen.update(dict(enumerate(counts)))
    # Over the epochs all samples of an instruction take their turn equally often.
    assert {seen[place] for place in range(len(found)) if not reflections[place]} <= {sequences}
    assert {seen[place] for place in range(len(found)) if reflections[place]} == {upsample * plain}


@pytest.mark.parametrize("objective", ["reflection", "teacher_only", "instruction"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_by_tokens_reflection_samples_take_their_share_of_a_run(share: float, objective: str) -> None:
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    dialogues = tiny.dialogues(30)
    config = TrainConfig(
        mix="tokens", reflection_share=share, batch_size=16, max_steps=120,
        objective="instruction" if objective == "instruction" else "reflection",
        loss=LossConfig(teacher_only=objective == "teacher_only"),
    )  # fmt: skip
    found, repeats, _ = prepare(dialogues, words, config)
    steps = TrainSteps(found, repeats, config)
    spent = Counter[bool]()
    for step, chosen in enumerate(steps.plan):
        for place in chosen:
            spent[dialogues[place].is_reflection] += steps.cost(place, step, 120)
    assert spent[True] / sum(spent.values()) == pytest.approx(share, abs=0.02)


def test_tokens_cannot_be_shared_with_data_that_is_not_there() -> None:
    found, _ = samples(plain=0, sequences=1)
    config = TrainConfig(mix="tokens")
    with pytest.raises(UserError, match="mix = tokens: there are no plain samples to mix with"):
        repeats_of(found, [True] * 3, config, uncounted)
    with pytest.raises(UserError, match="there are no reflection samples"):
        repeats_of(found, [False] * 3, config, uncounted)


@given(
    rate=st.fractions(0, 5, max_denominator=50), phase=st.fractions(0, 1, max_denominator=50), epochs=st.integers(1, 60)
)
def test_turns_add_up_to_their_rate(rate: Fraction, phase: Fraction, epochs: int) -> None:
    turns = Turns(rate, phase)
    counts = [turns.times(epoch) for epoch in range(epochs)]
    assert all(abs(count - rate) < 1 for count in counts)
    assert abs(sum(counts) - rate * epochs) < 1


def test_an_epoch_of_turns_is_shuffled_whole() -> None:
    repeats = [1, Turns(Fraction(1, 2)), Turns(Fraction(1, 2), Fraction(1, 2)), 2]
    stream = list(islice(sample_stream(repeats, 5), 4 * 6))
    epochs = [sorted(stream[n : n + 4]) for n in range(0, 24, 4)]
    assert epochs == [[0, 2, 3, 3], [0, 1, 3, 3]] * 3


def test_the_mean_cost_of_a_sample_is_that_of_its_schedule() -> None:
    sample = tiny.encoded([("code", 20), ("execution", 10), ("text", 6)])
    run = TrainConfig(masking=MaskingConfig("sequential_token"))
    exact = sum(cost(sample, run.masking, step, 600, 0) for step in range(600)) / 600
    assert mean_cost(sample, run) == pytest.approx(exact, rel=0.03)
    assert mean_cost(sample, dataclasses.replace(run, loss=LossConfig(teacher_only=True))) == len(sample)
