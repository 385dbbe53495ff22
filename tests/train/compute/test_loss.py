"""The packed, chunked loss equals the reference implementation in value and all gradients, to 1e-9 in float64."""

from __future__ import annotations

import pytest
import reference_trainer as reference
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, loss_weights, split_by_cost
from reflectioncoder.train.compute.activation_checkpointing import checkpoint_layers
from reflectioncoder.train.compute.loss import Head, micro_batch_loss, scored_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention

STEPS = 10
SEED = 7
THREE_ROUNDS = [("code", 4), ("execution", 3), ("text", 2), ("code", 5), ("execution", 2), ("text", 3), ("code", 4)]
STRATEGIES = ("block", "sequential", "random", "mix", "random_token", "sequential_token", "all", "none")


def batch() -> list[Encoded]:
    return [
        tiny.encoded(THREE_ROUNDS, 1),
        tiny.encoded([], 2, reflection=False),
        tiny.encoded([("text", 2), ("code", 3), ("execution", 1), ("code", 2)], 3, answer=9),
    ]


def ours(
    model: PreTrainedModel,
    samples: list[Encoded],
    masking: MaskingConfig,
    config: LossConfig,
    step: int,
    positions: str = "keep",
    micro_tokens: int = 10_000,
    chunk: int = 6,
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    use_varlen_attention(model)
    model.zero_grad()
    rows = [build_rows(sample, masking, positions, step, STEPS, SEED) for sample in samples]
    weights = loss_weights(rows, config)
    total, means = 0.0, dict.fromkeys(("teacher_ce", "student_ce", "kl"), 0.0)
    for group in split_by_cost([row.tokens for row in rows], micro_tokens):
        terms = micro_batch_loss(model, pack([(rows[i], weights[i]) for i in group]), chunk)
        terms.loss.backward()
        total += terms.loss.item()
        for name in means:
            means[name] += getattr(terms, name).item()
    return total, means, gradients(model)


def plain(
    model: PreTrainedModel, samples: list[Encoded], masking: MaskingConfig, config: LossConfig, step: int, rebase: bool
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    model.zero_grad()
    value, means = reference.loss(model, samples, masking, config, step, STEPS, SEED, rebase)
    value.backward()
    return value.item(), means, gradients(model)


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return found


def assert_same(
    left: tuple[float, dict[str, float], dict[str, torch.Tensor]],
    right: tuple[float, dict[str, float], dict[str, torch.Tensor]],
    means: bool = True,
) -> None:
    assert left[0] == pytest.approx(right[0], abs=1e-9)
    if means:
        assert left[1] == pytest.approx(right[1], abs=1e-9)
    for name, gradient in right[2].items():
        assert (left[2][name] - gradient).abs().max() < 1e-9, name
        assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("semantics", ["paper", "release"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equals_dense_masking_for_every_strategy_and_mask_rate(strategy: str, semantics: str) -> None:
    model = tiny.llama()
    masking = MaskingConfig(strategy=strategy, semantics=semantics)  # type: ignore[arg-type]
    for step in (0, 3, 5, 9):
        right = plain(model, batch(), masking, LossConfig(), step, False)
        assert_same(ours(model, batch(), masking, LossConfig(), step), right)


@pytest.mark.parametrize(
    "order", [("execution", "text", "code"), ("text", "code", "execution"), ("code", "execution", "text")]
)
def test_equals_dense_masking_for_other_orders(order: tuple[str, ...]) -> None:
    model = tiny.llama(tied=False, seed=1)
    masking = MaskingConfig(order=order)
    for step in (1, 4, 8):
        assert_same(
            ours(model, batch(), masking, LossConfig(), step), plain(model, batch(), masking, LossConfig(), step, False)
        )


@pytest.mark.parametrize("cross_entropy", ["pooled", "separate"])
@pytest.mark.parametrize("normalization", ["sample", "token"])
@pytest.mark.parametrize("distillation", [1.0, 0.0, 0.3])
def test_equals_plain_loss_for_every_reading(cross_entropy: str, normalization: str, distillation: float) -> None:
    model = tiny.llama()
    config = LossConfig(cross_entropy, normalization, distillation)  # type: ignore[arg-type]
    left = ours(model, batch(), MaskingConfig(), config, 4)
    assert_same(left, plain(model, batch(), MaskingConfig(), config, 4, False), means=normalization == "sample")


@pytest.mark.parametrize("strategy", ["block", "random", "sequential_token"])
@pytest.mark.parametrize("semantics", ["paper", "release"])
def test_rebase_equals_dense_masking_on_absolute_positions(strategy: str, semantics: str) -> None:
    model = tiny.gpt2()
    masking = MaskingConfig(strategy=strategy, semantics=semantics)  # type: ignore[arg-type]
    for step in (2, 5, 9):
        left = ours(model, batch(), masking, LossConfig(), step, "rebase")
        assert_same(left, plain(model, batch(), masking, LossConfig(), step, True))


def test_rotary_positions_make_keep_and_rebase_agree_only_where_nothing_before_a_gap_is_seen() -> None:
    model = tiny.llama()
    no_bos = MaskingConfig(strategy="all", semantics="release")  # the visible tokens are contiguous
    keep = ours(model, batch(), no_bos, LossConfig(), 5, "keep")
    rebased = ours(model, batch(), no_bos, LossConfig(), 5, "rebase")
    assert keep[0] == pytest.approx(rebased[0], abs=1e-6)  # Llama computes rotary embeddings in float32
    partly = MaskingConfig()
    keep = ours(model, batch(), partly, LossConfig(), 5, "keep")
    assert abs(keep[0] - ours(model, batch(), partly, LossConfig(), 5, "rebase")[0]) > 1e-4


@pytest.mark.parametrize("config", [LossConfig(), LossConfig("separate", "token", 0.5)])
def test_value_does_not_depend_on_micro_batches_order_or_chunks(config: LossConfig) -> None:
    model = tiny.llama()
    whole = ours(model, batch(), MaskingConfig(), config, 5)
    assert_same(ours(model, batch(), MaskingConfig(), config, 5, micro_tokens=1), whole)
    assert_same(ours(model, batch(), MaskingConfig(), config, 5, micro_tokens=120), whole)
    assert_same(ours(model, batch()[::-1], MaskingConfig(), config, 5), whole)
    for chunk in (2, 7, 1000):
        assert_same(ours(model, batch(), MaskingConfig(), config, 5, chunk=chunk), whole)


@pytest.mark.parametrize("selective", [False, True])
def test_checkpointing_changes_nothing(selective: bool) -> None:
    model = tiny.llama()
    whole = ours(model.train(), batch(), MaskingConfig(), LossConfig(), 5)
    checkpoint_layers(model, selective)
    assert_same(ours(model, batch(), MaskingConfig(), LossConfig(), 5), whole)


def test_selective_checkpointing_computes_no_matrix_product_and_no_attention_again() -> None:
    def operations(model: PreTrainedModel) -> int:
        with FlopCounterMode(display=False) as counter:
            ours(model.train(), batch(), MaskingConfig(), LossConfig(), 5)
        return int(counter.get_total_flops())

    whole = operations(tiny.llama())
    found = []
    for selective in (True, False):
        model = tiny.llama()
        checkpoint_layers(model, selective)
        found.append(operations(model))
    assert found[0] == whole < found[1]


def test_only_plain_samples_have_no_student_and_no_divergence() -> None:
    model = tiny.llama()
    samples = [tiny.encoded([], seed, reflection=False) for seed in range(3)]
    left = ours(model, samples, MaskingConfig(), LossConfig("separate", "token"), 5)
    assert left[1]["student_ce"] == left[1]["kl"] == 0
    assert left[0] == pytest.approx(left[1]["teacher_ce"])
    assert_same(left, plain(model, samples, MaskingConfig(), LossConfig("separate", "token"), 5, False), means=False)


def test_two_tokens_by_hand() -> None:
    # One pair, a vocabulary of two. Teacher logits (0, log 3): p = (1/4, 3/4). Student logits (0, 0): q = (1/2, 1/2).
    head = Head(torch.eye(2, dtype=torch.float64))
    hidden = torch.tensor([[0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    hidden[0, 1] = torch.log(hidden[0, 1])
    hidden.requires_grad_()
    loss, ce, kl = scored_loss(
        hidden, head, torch.tensor([1, 0]), torch.tensor([0.5, 0.25]).double(), torch.tensor([2.0]).double()
    )
    log = torch.log(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    assert ce.tolist() == pytest.approx([(log[2] - log[1]).item(), log[0].item()])
    # 1/4 log((1/4) / (1/2)) + 3/4 log((3/4) / (1/2))
    assert kl.item() == pytest.approx((-0.25 * log[0] + 0.75 * (log[1] - log[0])).item())
    assert loss.item() == pytest.approx((0.5 * ce[0] + 0.25 * ce[1] + 2 * kl[0]).item())
    loss.backward()
    assert hidden.grad is not None
    # Gradients: teacher 0.5 (p - (0, 1)); student 0.25 (q - (1, 0)) + 2 (q - p).
    assert hidden.grad[0].tolist() == pytest.approx([0.125, -0.125])
    assert hidden.grad[1].tolist() == pytest.approx([-0.125 + 0.5, 0.125 - 0.5])


@pytest.mark.parametrize(("scale", "softcap", "bias"), [(1.0, 0.0, False), (2.0, 4.0, True)])
def test_rows_beside_a_frozen_table_equal_the_merged_table(scale: float, softcap: float, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    own = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(11, generator=generator, dtype=torch.float64) if bias else None
    places = torch.tensor([10, 0, 4])
    rest = torch.randint(11, (9,), generator=generator), torch.rand(9, generator=generator).double(), torch.ones(3)
    merged = Head(weight.index_copy(0, places, own), shift, scale, softcap)
    apart = Head(weight, shift, scale, softcap, own, places)
    torch.testing.assert_close(apart.logits(hidden), merged.logits(hidden))
    found = [scored_loss(hidden, head, *rest, chunk=4)[0] for head in (apart, merged)]
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-12)
    for left, right in zip(*(torch.autograd.grad(loss, (hidden, own)) for loss in found), strict=True):
        assert (left - right).abs().max() < 1e-12
        assert right.abs().max() > 1e-3


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_without_gradients_nothing_but_the_loss_is_computed(softcap: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 5, generator=generator).double().requires_grad_() for n in (9, 11))
    rest = torch.randint(11, (9,), generator=generator), torch.rand(9, generator=generator).double(), torch.ones(3)
    head = Head(weight, softcap=softcap)
    wanted = scored_loss(hidden, head, *rest, chunk=4)
    # Each chunk needs one matrix product for the logits; two more would compute gradients.
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        found = scored_loss(hidden, head, *rest, chunk=4)
    assert counted.get_total_flops() == 2 * 9 * 11 * 5
    for left, right in zip(found, wanted, strict=True):
        assert torch.equal(left, right.detach())
        assert not left.requires_grad


@pytest.mark.parametrize(("scale", "softcap", "bias"), [(0.5, 0.0, False), (1.0, 3.0, True), (2.0, 4.0, True)])
def test_scaled_capped_and_biased_heads_match_autograd(scale: float, softcap: float, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(11, generator=generator, dtype=torch.float64, requires_grad=True) if bias else None
    target = torch.randint(11, (9,), generator=generator)
    ce_weight, kl_weight = torch.rand(9, generator=generator).double(), torch.rand(3, generator=generator).double()
    leaves = [leaf for leaf in (hidden, weight, shift) if leaf is not None]
    loss = scored_loss(hidden, Head(weight, shift, scale, softcap), target, ce_weight, kl_weight, chunk=4)[0]
    found = torch.autograd.grad(loss, leaves)
    logits = hidden @ weight.T + (shift if shift is not None else 0)
    logits = logits * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = logits.log_softmax(-1)
    kl = torch.nn.functional.kl_div(log_p[3:6], log_p[:3].detach(), log_target=True, reduction="none").sum(-1)
    plainly = (torch.nn.functional.cross_entropy(logits, target, reduction="none") * ce_weight).sum() + kl @ kl_weight
    assert loss.item() == pytest.approx(plainly.item(), abs=1e-12)
    for left, right in zip(found, torch.autograd.grad(plainly, leaves), strict=True):
        assert (left - right).abs().max() < 1e-12
