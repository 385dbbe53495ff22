"""On-policy distillation: own answers, scored in the teacher's context, with the loss of a dense implementation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import reference_trainer as reference
import tiny
import torch
from training import At, config, interrupt, log, quiet
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from reflectioncoder.config.train import LossConfig, MaskingConfig, OnPolicyConfig, TrainConfig
from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message, reflection_dialogue
from reflectioncoder.dialogues.tokens import Encoded, encode_dialogue, prompt_ids
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.rows import one_off_prompt
from reflectioncoder.train.batch.steps import TrainSteps, prepare
from reflectioncoder.train.compute.average import MovingAverage
from reflectioncoder.train.compute.divergence import Distance
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention
from reflectioncoder.train.on_policy import OnPolicy, OwnAnswer, executor
from reflectioncoder.train.ranks.world import World
from reflectioncoder.train.train import describe_plan, train

CONTEXTS = ("reflection", "answer", "feedback")


@pytest.fixture
def model() -> PreTrainedModel:
    found = tiny.llama(258)
    add_special_tokens(found, tiny.tokenizer())
    return found


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    found = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), found)
    return found


def on_policy(model: Any, words: Any, world: World | None = None, execute: Any = None, **changes: Any) -> OnPolicy:
    """The steps of a run on tiny dialogues, with answers of at most seven tokens."""
    settings = OnPolicyConfig(**{"max_new_tokens": 7, **changes.pop("settings", {})})
    run = TrainConfig(
        objective="on_policy", on_policy=settings, batch_size=6, max_steps=2, micro_tokens=300, upsample=1, **changes
    )
    samples, repeats, _ = prepare(tiny.dialogues(), words, run)
    use_varlen_attention(model)
    return OnPolicy(model, words, TrainSteps(samples, repeats, run, world), execute)


def dense(model: PreTrainedModel, teacher: PreTrainedModel, maker: OnPolicy, step: int, context: str) -> torch.Tensor:
    """The loss of a step from whole rows, and contexts put together from dialogues."""
    run, words = maker.config, maker.tokenizer
    chosen = [maker.steps.samples[i] for i in maker.steps.plan[step]]
    answers = iter(maker.answer([one for one in chosen if one.is_reflection], step)[0])
    total = torch.zeros((), dtype=torch.float64)
    for sample in chosen:
        if not sample.is_reflection:
            scores = reference.logits(model, reference.pad([(sample.ids, set())]))[0].log_softmax(-1)
            asked = [t for t, label in enumerate(sample.is_label) if label]
            total = total - torch.stack([scores[t - 1, sample.ids[t]] for t in asked]).mean() / len(chosen)
            continue
        answer = next(answers)
        dialogue = tiny.dialogues()[int(sample.sample_id)]
        user, final = dialogue.messages[2], dialogue.messages[3]
        before = {
            "reflection": dialogue.messages[:2],
            "answer": (user, final),
            "feedback": (
                user,
                Message("assistant", (Block("code", maker.text(answer.ids)), Block("execution", "out"))),
            ),
        }[context]
        # The last message is empty: what follows its text token is the answer.
        whole = encode_dialogue(Dialogue((*before, user, Message("assistant", (Block("text", ""),)))), words)
        prefix = list(whole.ids[: whole.message_bounds[-1][0] + 2])
        alone = list(prompt_ids(dialogue.messages[2].blocks[0].content, words, ""))
        assert tuple(alone) == one_off_prompt(sample)
        at = torch.arange(len(answer.ids)) - 1
        left = reference.logits(teacher, reference.pad([([*prefix, *answer.ids], set())]))[0, len(prefix) + at].detach()
        right = reference.logits(model, reference.pad([([*alone, *answer.ids], set())]))[0, len(alone) + at]
        total = total + reference.divergence(left, right, run.loss).mean() / len(chosen)
    return total


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("own_weights", [False, True])
def test_the_loss_of_own_answers_equals_a_dense_one(
    model: PreTrainedModel, words: PreTrainedTokenizerFast, kind: Any, context: Any, own_weights: bool
) -> None:
    loss = LossConfig(divergence=kind, temperature=1.5, teacher="average" if own_weights else "same")
    maker = on_policy(model, words, execute=lambda code: "out", settings={"context": context}, loss=loss)
    average, teacher = None, model
    if own_weights:
        average, teacher = MovingAverage(model, 0.5), tiny.llama(258)
        add_special_tokens(teacher, tiny.tokenizer())
        torch.manual_seed(5)
        with torch.no_grad():
            for value, own, other in zip(
                average.values.values(), model.parameters(), teacher.parameters(), strict=True
            ):
                other.copy_(own + 0.1 * torch.randn_like(own))
                value.copy_(other)
    step = maker.make(1)
    total = 0.0
    for batch in step.micro_batches:
        terms = micro_batch_loss(model, batch, 6, Distance(kind, 1.5), average)
        terms.loss.backward()
        total += terms.loss.item()
    ours = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    expected = dense(model, teacher, maker, 1, context)
    expected.backward()
    assert total == pytest.approx(expected.item(), abs=1e-9)
    for left, parameter in zip(ours, model.parameters(), strict=True):
        assert (left - parameter.grad).abs().max() < 1e-9  # type: ignore[operator]


def test_answers_are_what_the_weights_of_now_say(model: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    maker = on_policy(model, words, settings={"temperature": 0.0})
    samples = [one for one in maker.steps.samples if one.is_reflection]
    model.train()
    answers, tokens = maker.answer(samples, 0)
    assert model.training and model.config._attn_implementation == "reflectioncoder_varlen"
    ends = {words.convert_tokens_to_ids(token) for token in ("<|endofblock|>", "<|endofmessage|>", "</s>")}
    for sample, answer in zip(samples, answers, strict=True):
        ids = list(one_off_prompt(sample))
        expected: list[int] = []
        while len(expected) < 7:
            token = int(reference.logits(model, reference.pad([([*ids, *expected], set())]))[0, -1].argmax())
            if token in ends:
                break
            expected.append(token)
        assert list(answer.ids[: len(expected)]) == expected and answer.ended == (len(expected) < 7)
        assert len(answer.ids) == len(expected) + 2 * answer.ended
    use_varlen_attention(model)
    assert tokens == sum(len(one_off_prompt(one)) for one in samples) + sum(len(a.ids) - 2 * a.ended for a in answers)
    sampled = on_policy(model, words)
    drawn = [sampled.answer(samples, step)[0] for step in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_feedback_is_what_a_notebook_shows_of_the_answer_and_the_asserts(words: PreTrainedTokenizerFast) -> None:
    model = tiny.llama(258)
    add_special_tokens(model, tiny.tokenizer())
    sequence = [
        Block("code", "assert f(1) == 9"),
        Block("execution", "E"),
        Block("code", "def f(x):\n    return x\nassert f(1) == 1"),
    ]
    sample = encode_dialogue(reflection_dialogue("r", sequence, "i", "x"), words, "0")
    execute = executor(TrainConfig(objective="on_policy", on_policy=OnPolicyConfig("feedback")))
    maker = on_policy(model, words, execute=execute, settings={"context": "feedback"})
    wrong = maker.run(sample, "def f(x):\n    return x + 1")
    assert "AssertionError" in wrong and "assert f(1) == 1" in wrong and "f(1) == 9" not in wrong
    assert maker.run(sample, "def f(x):\n    return x") == ""
    assert executor(TrainConfig()) is None
    code = words.encode("```python\ndef f(x):\n    return 2\n```", add_special_tokens=False)
    seen = words.decode(maker.context(sample, OwnAnswer(tuple(code), True)))
    assert seen.startswith(
        "<s><|user|><|text|>i<|endofblock|><|endofmessage|><|assistant|><|code|>def f(x):\n    return 2"
    )
    assert "<|execution|>" in seen and "AssertionError" in seen and seen.endswith("<|endofblock|><|endofmessage|>")


def test_ranks_answer_their_share_and_their_losses_add_up(
    model: PreTrainedModel, words: PreTrainedTokenizerFast
) -> None:
    whole = on_policy(model, words).make(1)

    class Rank(World):
        """A rank that already knows the sums over all ranks."""

        def total(self, values: torch.Tensor) -> torch.Tensor:
            sums = (
                whole.tokens,
                targets,
                whole.squares,
                whole.again,
                whole.teacher_tokens,
                whole.decoded_tokens,
                pairs,
            )
            return torch.tensor(sums, dtype=torch.float64)

    pairs = sum(len(batch.kl_weight) for batch in whole.micro_batches)
    targets = whole.scored - 2 * pairs

    def loss(step: Any) -> float:
        with torch.no_grad():
            return sum(micro_batch_loss(model, batch, 6).loss.item() for batch in step.micro_batches)

    for normalization in ("sample", "token"):
        run: Any = {"loss": LossConfig(normalization=normalization), "settings": {"temperature": 0.0}}
        alone = loss(on_policy(model, words, **run).make(1))
        greedy = on_policy(model, words, **run).make(1)
        whole, pairs = greedy, sum(len(batch.kl_weight) for batch in greedy.micro_batches)
        targets = greedy.scored - 2 * pairs
        parts = [loss(on_policy(model, words, Rank(rank, 4), **run).make(1)) for rank in range(4)]
        assert sum(parts) == pytest.approx(alone, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_run_goes_on_exactly_and_counts_every_token(base: Path, tmp_path: Path, context: Any) -> None:
    settings = OnPolicyConfig(context, max_new_tokens=12)
    loss = LossConfig(divergence="jensen_shannon", teacher="average", decay=0.9)
    run = config(base, tmp_path / "whole", objective="on_policy", on_policy=settings, loss=loss, max_steps=4)
    whole = train(dataclasses.replace(run, save_steps=0), quiet)
    with pytest.raises(UserError, match="interrupted"):
        train(dataclasses.replace(run, output=str(tmp_path / "part")), quiet, [At(3, interrupt)])
    part = train(dataclasses.replace(run, output=str(tmp_path / "part"), resume=True), quiet)
    for name in ("loss", "kl", "tokens"):
        assert [line[name] for line in log(tmp_path / "part")] == [line[name] for line in log(tmp_path / "whole")]
    for name in ("tokens", "teacher_tokens", "student_tokens", "decoded_tokens"):
        assert getattr(part, name) == getattr(whole, name) > 0
    assert whole.tokens == whole.teacher_tokens + whole.student_tokens + whole.decoded_tokens
    models = [load_model_and_tokenizer(str(tmp_path / name), device="cpu")[0] for name in ("whole", "part")]
    assert all(torch.equal(a, b) for a, b in zip(*(one.parameters() for one in models), strict=True))


def test_the_student_learns_what_the_teacher_says(base: Path, tmp_path: Path) -> None:
    run = config(
        base, tmp_path, objective="on_policy", on_policy=OnPolicyConfig(max_new_tokens=8), max_steps=30, save_steps=0,
        batch_size=6, scheduler="constant",
    )  # fmt: skip
    train(run, quiet)
    kls = [line["kl"] for line in log(tmp_path)]
    assert sum(kls[-5:]) < 0.7 * sum(kls[1:6])


def test_a_run_of_so_many_tokens_ends_there(base: Path, tmp_path: Path) -> None:
    run = config(
        base, tmp_path, objective="on_policy", on_policy=OnPolicyConfig(max_new_tokens=9), max_steps=-1,
        max_tokens=9000, save_steps=0,
    )  # fmt: skip
    result = train(run, quiet)
    lines = log(tmp_path)
    assert lines[-2]["tokens"] < 9000 <= lines[-1]["tokens"] == result.tokens
    assert lines[-1]["learning_rate"] < 3e-4
    assert "at most" in describe_plan(dataclasses.replace(run, output=str(tmp_path / "plan")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_policy": OnPolicyConfig(max_new_tokens=0)}, r"on_policy\.max_new_tokens = 0: must be at least 1"),
        ({"on_policy": OnPolicyConfig(temperature=-1.0)}, r"on_policy\.temperature = -1\.0: must be 0 or more"),
        ({"on_policy": OnPolicyConfig(top_p=0.0)}, r"on_policy\.top_p = 0\.0: must be above 0"),
        ({"masking": MaskingConfig(schedule="kl")}, "masking.schedule = kl: the objective on_policy"),
        ({"loss": LossConfig(teacher_only=True)}, "loss.teacher_only: the objective on_policy"),
    ],
)
def test_settings_that_make_no_sense_are_refused(base: Path, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(config(base, tmp_path, objective="on_policy", **changes), quiet)


def test_the_students_prompt_is_that_of_inference() -> None:
    sample: Encoded = tiny.encoded([("code", 3)], 1)
    start, end = sample.message_bounds[2]
    assert one_off_prompt(sample) == (0, *sample.ids[start:end], *sample.ids[end : end + 2])
