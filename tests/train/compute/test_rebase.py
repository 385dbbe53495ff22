"""Models with absolute positions: with rebased positions the student reads what inference reads, with kept ones not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import Row, Rows, build_rows, last_round, loss_weights
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention

STEPS = 10
ROUNDS = [("code", 6), ("execution", 5), ("text", 4), ("code", 6), ("execution", 2)]


def sample() -> Encoded:
    return tiny.encoded(ROUNDS, 3, user=7, question=6, answer=8)


def rows_at(step: int, positions: str) -> Rows:
    return build_rows(sample(), MaskingConfig(), positions, step, STEPS, 0)


def student_of(step: int, positions: str) -> Row:
    student = rows_at(step, positions).student
    assert student is not None
    return student


@pytest.mark.parametrize("step", [0, 2, 5, 9])
def test_a_rebased_student_is_a_plain_forward_pass_of_what_it_sees(step: int) -> None:
    model = tiny.gpt2()
    rows = rows_at(step, "rebase")
    assert rows.student is not None
    # The expected values use no code of the package: two plain sequences, the model's own attention and positions.
    model.set_attn_implementation("eager")
    teacher, student = (
        model(torch.tensor([row.ids]), use_cache=False).logits[0] for row in (rows.teacher, rows.student)
    )
    own, whole = sample(), len(sample())
    start, end = own.message_bounds[3]
    ids = torch.tensor(own.ids)
    labels = [t for t in range(whole) if own.is_label[t]]
    answer = torch.arange(start + 1, end)
    back = whole - len(rows.student.ids)  # offset of the answer in the student's sequence
    teacher_ce = F.cross_entropy(teacher[[t - 1 for t in labels]], ids[labels], reduction="none")
    student_ce = F.cross_entropy(student[answer - 1 - back], ids[answer], reduction="none")
    p, q = teacher[answer - 1].detach().log_softmax(-1), student[answer - 1 - back].log_softmax(-1)
    plainly = torch.cat([teacher_ce, student_ce]).mean() + (p.exp() * (p - q)).sum(-1).mean()
    plainly.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    use_varlen_attention(model)
    loss = micro_batch_loss(model, pack([(rows, loss_weights([rows], LossConfig())[0])])).loss
    loss.backward()
    assert loss.item() == pytest.approx(plainly.item(), abs=1e-9)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - gradients[name]).abs().max() < 1e-9, name


@pytest.mark.parametrize("step", [0, 5, 9])
@pytest.mark.parametrize("positions", ["keep", "rebase"])
def test_which_position_embeddings_the_student_learns_with(positions: str, step: int) -> None:
    model = tiny.gpt2()
    use_varlen_attention(model)
    alone = Rows(replace(student_of(step, positions), distill=()))
    micro_batch_loss(model, pack([(alone, loss_weights([alone], LossConfig())[0])])).loss.backward()
    gradient = model.transformer.wpe.weight.grad
    touched = set(gradient.abs().sum(1).nonzero()[:, 0].tolist())
    length, whole = len(alone.teacher.ids), len(sample())
    # No scored position attends to the last predicted token or to what follows it (EOS).
    if positions == "rebase":
        assert touched == set(range(length - 2))
    else:
        second = sample().message_bounds[2][0]
        assert set(range(second, whole - 2)) <= touched
        assert touched != set(range(length - 2))


def test_rebased_and_fully_hidden_the_student_reads_what_inference_reads() -> None:
    model = tiny.gpt2()
    inference = last_round(sample())
    rebased, kept = (
        build_rows(sample(), MaskingConfig("all"), positions, 5, STEPS, 0).student for positions in ("rebase", "keep")
    )
    assert rebased is not None and kept is not None
    assert rebased.ids == kept.ids == inference.ids
    assert rebased.positions == tuple(range(len(inference)))
    assert kept.positions[1:] == tuple(range(sample().message_bounds[2][0], len(sample())))

    def logits(row: Row) -> torch.Tensor:
        return model(torch.tensor([row.ids]), position_ids=torch.tensor([row.positions]), use_cache=False).logits

    plainly = model(torch.tensor([inference.ids]), use_cache=False).logits
    assert (logits(rebased) - plainly).abs().max() == 0
    assert (logits(kept) - plainly).abs().max() > 0.1
