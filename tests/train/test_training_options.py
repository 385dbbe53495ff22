"""Held-out evaluation, trackers, options that must not change the result, and errors of one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from training import At, config, interrupt, log, quiet
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from reflectioncoder.config.train import LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.dialogue import Block, instruction_dialogue, reflection_dialogue, write_jsonl
from reflectioncoder.dialogues.tokens import Encoded, encode_dialogue
from reflectioncoder.dialogues.training_files import read_training
from reflectioncoder.errors import UserError, out_of_memory
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train import held_out as validation
from reflectioncoder.train import trackers
from reflectioncoder.train.batch.masking import visible_ranges, visible_shares
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, last_round, loss_weights
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.master_weights import with_masters
from reflectioncoder.train.ranks.world import World, lost_contact
from reflectioncoder.train.train import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.model_and_data(tmp_path_factory.mktemp("base"))
    write_jsonl(folder / "held.jsonl", tiny.dialogues(4)[3:])
    return folder


def evaluations(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "eval.jsonl").read_text().splitlines()]


def test_held_out_samples_are_scored_as_inference_would_read_them(base: Path, tmp_path: Path) -> None:
    from reflectioncoder.train.compute.packed_attention import use_varlen_attention

    said: list[str] = []
    held = str(base / "held.jsonl")
    train(config(base, tmp_path, eval_data=(held,), eval_steps=3, max_steps=3), said.append)
    (line,) = evaluations(tmp_path)
    assert any("held-out loss" in text for text in said)
    model, tokenizer = load_model_and_tokenizer(str(tmp_path), device="cpu")
    use_varlen_attention(model)
    samples = [encode_dialogue(dialogue, tokenizer, sample_id="0") for dialogue in read_training(held)]
    rows = [build_rows(sample, MaskingConfig("all"), "keep", 0, 1, 0) for sample in samples]
    terms = micro_batch_loss(model, pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True))))
    assert line["step"] == 3 and line["eval_loss"] == pytest.approx(terms.loss.item(), rel=1e-5)
    assert line["eval_kl"] == pytest.approx(terms.kl.item(), rel=1e-4)
    assert line["eval_perplexity"] == pytest.approx(math.exp(terms.student_ce.item()), rel=1e-5)


def test_the_best_checkpoint_is_kept_and_training_ends_when_nothing_gets_better(base: Path, tmp_path: Path) -> None:
    # With this learning rate the model gets worse from step 2 on. Step 1, at rate 0, leaves it unchanged.
    run = config(
        base, tmp_path, eval_data=(str(base / "held.jsonl"),), eval_steps=1, save_steps=1, patience=2, keep_best=True,
        learning_rate=0.5, max_steps=30, scheduler="constant",
    )  # fmt: skip
    result = train(run, quiet)
    lines = evaluations(tmp_path)
    losses = [line["eval_loss"] for line in lines]
    best = losses.index(min(losses))
    assert result.steps == len(losses) == best + 3 < 30
    model, _ = load_model_and_tokenizer(str(tmp_path), device="cpu")
    untouched, _ = load_model_and_tokenizer(str(base / "model"), device="cpu")
    if best == 0:
        assert torch.equal(model.model.norm.weight, untouched.model.norm.weight)
    again = dataclasses.replace(run, output=str(tmp_path / "again"), model=str(tmp_path), max_steps=1, patience=0)
    train(again, quiet)
    assert evaluations(tmp_path / "again")[0]["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


class AtEnd(TrainerCallback):
    """Interrupts a run after its last step."""

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        raise KeyboardInterrupt


def test_patience_is_kept_over_an_interruption(base: Path, tmp_path: Path) -> None:
    def run(name: str, **changes: Any) -> TrainConfig:
        return config(
            base, tmp_path / name, eval_data=(str(base / "held.jsonl"),), eval_steps=1, save_steps=1, patience=2,
            learning_rate=0.5, max_steps=30, scheduler="constant", **changes,
        )  # fmt: skip

    whole = train(run("whole"), quiet)
    assert whole.steps < 30
    interruptions = {"before its last evaluation": At(whole.steps, interrupt), "behind its last step": AtEnd()}
    for name, interruption in interruptions.items():
        with pytest.raises(UserError, match="interrupted"):
            train(run(name), quiet, [interruption])
        assert train(run(name, resume=True), quiet).steps == whole.steps, name
        assert evaluations(tmp_path / name) == evaluations(tmp_path / "whole"), name


def test_a_share_is_held_out_whatever_the_number_of_ranks() -> None:
    samples = [tiny.encoded([("code", 5), ("execution", 4)], seed) for seed in range(40)]
    run = TrainConfig(eval_share=0.25, micro_tokens=60)
    kept, held = validation.split(samples, run)
    assert sorted(kept + held) == list(range(40)) and 3 < len(held) < 20
    assert validation.split(samples, run) == (kept, held)
    tokens = {
        size: sum(
            batch.tokens
            for rank in range(size)
            for batch in validation.micro_batches([samples[i] for i in held], run, World(rank, size))
            if batch.ce_weight.any()
        )
        for size in (1, 3)
    }
    assert tokens[1] == tokens[3]


def test_a_sequence_and_its_plain_last_round_go_the_same_way() -> None:
    words = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), words)
    sequence = [Block("code", "assert 0"), Block("execution", "AssertionError"), Block("code", "assert 1")]
    dialogues = [
        kind
        for i in range(30)
        for kind in (
            reflection_dialogue(f"say {i} with tests", sequence, f"say {i}", f"print({i})"),
            instruction_dialogue(f"say {i}", f"print({i})"),
            instruction_dialogue(f"say {i}", "print()"),
        )
    ]
    samples = [encode_dialogue(dialogue, words, sample_id=str(i)) for i, dialogue in enumerate(dialogues)]
    _, held = validation.split(samples, TrainConfig(eval_share=0.3))
    assert held == [3 * problem + kind for problem in sorted({i // 3 for i in held}) for kind in range(3)]
    assert 3 < len(held) / 3 < 20
    short = [last_round(sample) for sample in samples]  # the same samples under the instruction objective
    assert validation.split(short, TrainConfig(eval_share=0.3))[1] == held
    assert validation.split(samples, TrainConfig(eval_share=0.3, seed=1))[1] != held


def test_the_trackers_get_every_curve(base: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed; run: make setup",
    )
    held = str(base / "held.jsonl")
    train(config(base, tmp_path, report_to=("tensorboard",), eval_data=(held,), eval_steps=6), quiet)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    names = set(events.Tags()["scalars"])
    wanted = ("teacher_ce", "student_ce", "kl", "mask_rate", "tokens_per_second", "kl_stage_1", "kl_stage_3")
    assert {f"train/{name}" for name in (*wanted, "visible_execution", "visible_text", "visible_code")} <= names
    assert {"eval/loss", "eval/student_ce", "eval/perplexity"} <= names
    shares = [event.value for event in events.Scalars("train/visible_execution")]
    assert shares[0] == 1 and shares[-1] == 0  # execution blocks are hidden from the second step on
    assert [event.value for event in events.Scalars("train/kl")] == pytest.approx(
        [line["kl"] for line in log(tmp_path)], rel=1e-6
    )


def test_wandb_is_used_where_asked_for(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed; run: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(config(base, tmp_path / "out", report_to=("wandb",), max_steps=1), quiet)
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_tensorboard_is_the_default_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    assert trackers.choose_trackers(("auto",)) == []
    with pytest.raises(UserError, match="report_to = trackio: it is not installed"):
        trackers.choose_trackers(("trackio",))
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name)
    assert trackers.choose_trackers(("auto",)) == ["tensorboard"] and trackers.choose_trackers(("none",)) == []
    assert trackers.choose_trackers(("wandb", "tensorboard")) == ["wandb", "tensorboard"]


def shares(samples: list[Encoded], run: TrainConfig, step: int, steps: int) -> dict[str, float]:
    ranges = [visible_ranges(one, run.masking, step, steps, run.seed) if one.is_reflection else [] for one in samples]
    return visible_shares(samples, ranges)


def test_visible_shares_count_the_tokens_of_each_type() -> None:
    # Blocks of 4, 6 and 2 tokens plus two markers each; in the first third only execution blocks are hidden.
    sample = tiny.encoded([("text", 4), ("code", 6), ("execution", 2)])
    plain = tiny.encoded([], reflection=False)
    run = TrainConfig(masking=MaskingConfig("block"))
    assert shares([sample, plain], run, 0, 12) == {
        "visible_code": 1.0, "visible_execution": 1.0, "visible_text": 1.0
    }  # fmt: skip
    assert shares([sample], run, 1, 12)["visible_execution"] == 0
    by_token = TrainConfig(masking=MaskingConfig("sequential_token"))
    # Half of the 6 + 8 + 4 tokens are hidden from the left: the text (6), and 3 of the 8 tokens of the code.
    assert shares([sample], by_token, 6, 12) == pytest.approx(
        {"visible_code": 5 / 8, "visible_execution": 1.0, "visible_text": 0.0}
    )
    assert shares([plain], run, 1, 12) == {}


def test_the_stage_of_the_schedule_is_the_papers() -> None:
    assert [trackers.stage(rate) for rate in (0, 1 / 3, 0.34, 2 / 3, 0.67, 1)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", ["gradient_checkpointing", "selective_checkpointing"])
def test_checkpointing_changes_nothing(base: Path, tmp_path: Path, kind: str) -> None:
    for name, on in (("without", False), ("with", True)):
        changes: dict[str, Any] = {kind: on}
        train(config(base, tmp_path / name, max_steps=3, save_steps=0, **changes), quiet)
    for left, right in zip(log(tmp_path / "without"), log(tmp_path / "with"), strict=True):
        assert [left[name] for name in ("loss", "kl", "grad_norm")] == pytest.approx(
            [right[name] for name in ("loss", "kl", "grad_norm")], rel=1e-6
        )


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd"])
def test_other_optimizers_learn_with_master_weights(base: Path, tmp_path: Path, optimizer: Any) -> None:
    rate = 1e-2 if optimizer == "adafactor" else 0.5
    run = config(base, tmp_path, optimizer=optimizer, learning_rate=rate, precision="bfloat16", scheduler="constant")
    train(run, quiet)
    assert log(tmp_path)[-1]["teacher_ce"] < log(tmp_path)[0]["teacher_ce"]


def test_masters_keep_what_bfloat16_would_lose_with_any_optimizer() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer: Any = with_masters(torch.optim.SGD)([{"params": [parameter]}], lr=1e-3)
    for _ in range(8):
        parameter.float().sum().backward()
        optimizer.step()
    assert optimizer.parameters()[0][0].item() == pytest.approx(1 - 8e-3, abs=1e-5)


@pytest.mark.parametrize("kind", ["AdamW8bit", "PagedAdamW8bit", "Lion8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_optimizers_of_eight_bits_keep_float32_weights_and_go_on_exactly(kind: str) -> None:
    bitsandbytes = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes is not installed; run: pip install bitsandbytes"
    )

    def start() -> tuple[torch.nn.Parameter, Any]:
        parameter = torch.nn.Parameter(torch.ones(64, 128, dtype=torch.bfloat16))
        return parameter, with_masters(getattr(bitsandbytes.optim, kind))([{"params": [parameter]}], lr=1e-4)

    def go(parameter: torch.nn.Parameter, optimizer: Any, steps: range) -> torch.Tensor:
        for step in steps:
            (parameter.float() * (1 + step % 3)).sum().backward()
            optimizer.step()
        return optimizer.parameters()[0].detach().clone()

    parameter, optimizer = start()
    whole = go(parameter, optimizer, range(8))
    assert {state["state1"].dtype for state in optimizer.state.values()} == {torch.uint8}
    # A bfloat16 weight would still be 1, because 1 - 1e-4 rounds to 1.
    assert ((whole - (1 - 8e-4)).abs() < 2e-4).all()
    assert torch.equal(parameter.detach(), whole.bfloat16())
    one = start()
    go(*one, range(4))
    other = start()
    other[1].load_state_dict(copy.deepcopy(one[1].state_dict()))
    assert torch.equal(go(*other, range(4, 8)), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_steps": 2}, "nothing to evaluate on"),
        ({"eval_share": 0.5}, "say how often to evaluate with eval_steps"),
        ({"patience": 1}, "need an evaluation"),
        ({"eval_share": 1.5}, "eval_share = 1.5"),
        (
            {"eval_share": 0.5, "eval_steps": 3, "keep_best": True},
            "save_steps = 2 must be a multiple of eval_steps = 3",
        ),
        ({"optimizer": "adamw_8bit"}, "needs a CUDA GPU"),
        ({"device": "cuda"}, "no CUDA"),
    ],
)
def test_settings_that_do_not_fit_give_one_line(
    base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if torch.cuda.is_available() and "CUDA" in message:
        pytest.skip("tests the error without a GPU, and this machine has one; hide it with CUDA_VISIBLE_DEVICES=")
    with pytest.raises(UserError, match=message) as caught:
        train(config(base, tmp_path, **changes), quiet)
    assert "\n" not in str(caught.value)


def test_data_without_reflection_sequences_is_refused(base: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    write_jsonl(plain, [instruction_dialogue("negate", "```python\nf = lambda: 0\n```")] * 2)
    with pytest.raises(UserError, match="none of the 2 samples is a reflection sequence"):
        train(config(base, tmp_path / "out", data=(str(plain),)), quiet)
    run = config(base, tmp_path / "out", data=(str(plain),), objective="instruction", max_steps=1, save_steps=0)
    assert train(run, quiet).steps == 1


def test_a_tokenizer_without_bos_is_refused_unless_allowed(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(base / "model").save_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    tokenizer.bos_token = None
    tokenizer.save_pretrained(model)
    with pytest.raises(UserError, match=r'no BOS token.*bos = "none"'):
        train(config(base, tmp_path / "out", model=str(model)), quiet)
    train(config(base, tmp_path / "out", model=str(model), bos="none", max_steps=1, save_steps=0), quiet)
    assert len(log(tmp_path / "out")) == 1


def test_resuming_another_run_names_every_difference(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out of memory"):
        train(config(base, tmp_path), quiet, [At(3, no_memory)])
    with pytest.raises(UserError, match=r"batch_size was 4 and is now 3; learning_rate was 0\.001 and is now 0\.1"):
        train(config(base, tmp_path, resume=True, learning_rate=0.1, batch_size=3), quiet)


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines")


def test_out_of_memory_says_what_to_lower_and_loses_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(config(base, tmp_path), quiet, [At(3, no_memory)])
    assert str(caught.value) == (
        "out of memory after step 3 of 6; lower micro_tokens (now 500), or set gradient_checkpointing, neither of "
        "which changes the result; continue from checkpoint-2 with --resume"
    )
    train(config(base, tmp_path, resume=True, micro_tokens=50, gradient_checkpointing=True), quiet)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


class AtBegin(TrainerCallback):
    """Runs out of memory before the first step, as if while creating the optimizer."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        no_memory()


def test_out_of_memory_names_what_really_helps(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"single sample of \d+ tokens, which micro_tokens \(now 9\) cannot cut; set"):
        train(config(base, tmp_path, micro_tokens=9), quiet, [At(3, no_memory)])
    with pytest.raises(UserError, match="after step 0 of 6; the model does not fit with its optimizer; set precision"):
        train(config(base, tmp_path / "begin"), quiet, [AtBegin()])
    monkeypatch.setattr("reflectioncoder.train.train.check_model", lambda _: no_memory())
    with pytest.raises(UserError, match=r"^out of memory while preparing .*; set precision = bfloat16, .*written yet$"):
        train(config(base, tmp_path / "check"), quiet)


def test_an_evaluation_that_cannot_be_written_says_how_to_go_on(base: Path, tmp_path: Path) -> None:
    run = config(base, tmp_path, eval_data=(str(base / "held.jsonl"),), eval_steps=3)
    with pytest.raises(UserError, match=r"cannot write .*eval\.jsonl: .*; continue from checkpoint-2 with --resume"):
        train(run, quiet, [At(2, (tmp_path / "eval.jsonl").mkdir)])


def test_errors_of_memory_and_of_lost_ranks_are_told_apart() -> None:
    assert out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert lost_contact(RuntimeError("Connection closed by peer [127.0.0.1]:3485"))
    assert not lost_contact(RuntimeError("shape mismatch"))
