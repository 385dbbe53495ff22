"""Real training runs of a tiny model: the log, the saved model, resuming after a kill, and errors of one line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import rank
import tiny
import torch
from ranks import forked
from training import At, config, interrupt, log, quiet
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from reflectioncoder.config.toml import load, save
from reflectioncoder.config.train import LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.dialogue import instruction_dialogue, write_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.rows import split_by_cost
from reflectioncoder.train.checkpoints import newest_checkpoint
from reflectioncoder.train.compute.master_weights import MasterAdamW
from reflectioncoder.train.train import describe_plan, train

VOCABULARY = 258


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.model_and_data(tmp_path_factory.mktemp("base"))
    tiny.save(folder / "gpt2", tiny.gpt2(VOCABULARY, dtype=torch.float32))
    return folder


def test_a_run_logs_its_terms_and_saves_a_model_that_just_works(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = train(config(base, tmp_path), said.append)
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    names = ["step", "loss", "teacher_ce", "student_ce", "kl", "mask_rate", "learning_rate", "grad_norm"]
    assert list(lines[0]) == [*names, "tokens", "tokens_per_second", "seconds"]
    assert [line["mask_rate"] for line in lines] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    # One warm-up step from zero, then half a cosine over the remaining five steps.
    assert [line["learning_rate"] for line in lines[:2]] == [0, 1e-3]
    assert lines[-1]["learning_rate"] < lines[2]["learning_rate"]
    assert lines[-1]["teacher_ce"] < lines[0]["teacher_ce"]
    assert lines[0]["tokens"] < lines[1]["tokens"] < lines[-1]["tokens"] == result.tokens
    assert (result.steps, result.samples, result.dropped) == (6, 6, 0)
    assert said[0] == "6 samples (4 reflection, 2 plain)"
    assert load(TrainConfig, tmp_path / "config.toml") == config(base, tmp_path)
    assert newest_checkpoint(tmp_path) is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<s><|user|><|text|>hi<|endofblock|><|endofmessage|><|assistant|><|text|>"
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]
    assert tokenizer.convert_tokens_to_ids("<|endofmessage|>") in model.generation_config.eos_token_id


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_goes_on_with_the_same_losses(base: Path, tmp_path: Path, precision: str) -> None:
    train(config(base, tmp_path / "whole", precision=precision), quiet)
    killed = tmp_path / "killed"
    save(config(base, killed, precision=precision), tmp_path / "child")
    process = forked(rank.killed, tmp_path / "said", tmp_path / "child" / "config.toml", 5)
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    assert [line["step"] for line in log(killed)] == [1, 2, 3, 4]
    # A kill during writing leaves an incomplete checkpoint and half a line.
    (killed / "checkpoint-5").mkdir()
    with (killed / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train(config(base, killed, precision=precision, resume=True), quiet)
    whole, resumed = log(tmp_path / "whole"), log(killed)
    for name in ("step", "loss", "teacher_ce", "student_ce", "kl", "mask_rate", "learning_rate", "grad_norm", "tokens"):
        assert [line[name] for line in resumed] == [line[name] for line in whole], name
    assert resumed[3]["seconds"] < resumed[4]["seconds"]
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    second = AutoModelForCausalLM.from_pretrained(killed)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_micro_batches_change_neither_losses_nor_updates(base: Path, tmp_path: Path) -> None:
    train(config(base, tmp_path / "large", micro_tokens=100_000), quiet)
    train(config(base, tmp_path / "small", micro_tokens=1), quiet)
    for left, right in zip(log(tmp_path / "large"), log(tmp_path / "small"), strict=True):
        for name in ("loss", "kl", "grad_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-4)


def test_the_instruction_objective_trains_on_the_last_round_at_equal_tokens(base: Path, tmp_path: Path) -> None:
    budget = {"max_steps": -1, "max_tokens": 3000, "save_steps": 0}
    reflection = train(config(base, tmp_path / "r", **budget), quiet)
    instruction = train(config(base, tmp_path / "i", objective="instruction", **budget), quiet)
    assert instruction.steps > reflection.steps
    for result in (reflection, instruction):
        lines = log(Path(result.output))
        assert lines[-1]["tokens"] >= 3000 > lines[-2]["tokens"]
    assert all(line["kl"] == line["student_ce"] == 0 for line in log(tmp_path / "i"))
    assert all(line["loss"] == pytest.approx(line["teacher_ce"]) for line in log(tmp_path / "i"))


def test_other_readings_and_gradient_checkpointing_run(base: Path, tmp_path: Path) -> None:
    train(
        config(
            base,
            tmp_path,
            masking=MaskingConfig("mix", semantics="release"),
            loss=LossConfig("separate", "token"),
            gradient_checkpointing=True,
            scheduler="constant",
            max_steps=2,
        ),
        quiet,
    )
    assert [line["mask_rate"] for line in log(tmp_path)] == [0.5, 1.0]


class Poison(TrainerCallback):
    """Makes a gradient infinite at a given step, and keeps a reference to the model."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.model = model
        if state.global_step == self.step:
            model.model.norm.weight.register_hook(lambda gradient: gradient / 0)


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_is_used(base: Path, tmp_path: Path) -> None:
    poison = Poison(3)
    with pytest.raises(UserError, match=r"step 3: the gradient norm is (nan|inf); start again .*checkpoint-2 is"):
        train(config(base, tmp_path), quiet, [poison])
    assert all(parameter.isfinite().all() for parameter in poison.model.parameters())
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3]


def test_long_samples_are_dropped_and_counted(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    data = tmp_path / "data.jsonl"
    write_jsonl(data, [*tiny.dialogues(), instruction_dialogue("say it", "x" * 500)])
    result = train(config(base, tmp_path / "run", data=(str(data),), max_length=400, max_steps=1), said.append)
    assert (result.samples, result.dropped) == (6, 1)
    assert said[0] == "6 samples (4 reflection, 2 plain); dropped 1 longer than 400 tokens"
    with pytest.raises(UserError, match="all 4 reflection sequences are longer than max_length = 100 tokens"):
        train(config(base, tmp_path / "plain", max_length=100), quiet)
    with pytest.raises(
        UserError, match=r"all 6 samples are longer than max_length = 10 tokens \(the shortest has \d+\)"
    ):
        train(config(base, tmp_path / "none", max_length=10), quiet)


def test_a_finished_model_is_not_overwritten_by_accident(base: Path, tmp_path: Path) -> None:
    train(config(base, tmp_path, max_steps=1), quiet)
    with pytest.raises(UserError, match="holds a finished model"):
        train(config(base, tmp_path, max_steps=1), quiet)
    train(config(base, tmp_path, max_steps=2, overwrite=True), quiet)
    assert len(log(tmp_path)) == 2


@pytest.mark.parametrize("positions", ["keep", "rebase"])
def test_absolute_positions_are_warned_about_where_they_are_kept(base: Path, tmp_path: Path, positions: str) -> None:
    said: list[str] = []
    train(config(base, tmp_path, model=str(base / "gpt2"), positions=positions, max_steps=1), said.append)
    assert len(log(tmp_path)) == 1
    warned = [line for line in said if "has no rotary positions" in line]
    assert len(warned) == (positions == "keep") and all("table 7" in line for line in warned)


def test_without_students_a_run_has_the_loss_of_the_whole_sequences_alone(base: Path, tmp_path: Path) -> None:
    """What "w/o Distillation" is in the authors' code; `loss.distillation = 0` has the student's cross-entropy too."""
    only, both = LossConfig(teacher_only=True), LossConfig(distillation=0.0, cross_entropy="separate")
    one = train(config(base, tmp_path / "only", loss=only, max_steps=2, warmup_ratio=1.0), quiet)
    other = train(config(base, tmp_path / "both", loss=both, max_steps=2, warmup_ratio=1.0), quiet)
    first, second = log(tmp_path / "only")[0], log(tmp_path / "both")[0]
    assert first["student_ce"] == first["kl"] == 0 < second["student_ce"]
    assert first["loss"] == pytest.approx(first["teacher_ce"]) and first["teacher_ce"] == pytest.approx(
        second["teacher_ce"]
    )
    assert second["loss"] > first["loss"] and one.tokens < other.tokens and one.samples == other.samples


def test_ctrl_c_says_how_to_go_on_and_resume_refuses_another_run(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="interrupted after step 3 of 6; continue from checkpoint-2 with --resume"):
        train(config(base, tmp_path), quiet, [At(3, interrupt)])
    with pytest.raises(UserError, match="holds checkpoint-2 of an unfinished run; add --resume to continue"):
        train(config(base, tmp_path), quiet)
    assert len(log(tmp_path)) == 2  # the third step had not been logged
    with pytest.raises(UserError, match=r"learning_rate was 0\.001 and is now 0\.1"):
        train(config(base, tmp_path, resume=True, learning_rate=0.1), quiet)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    train(config(base, tmp_path, resume=True, micro_tokens=9), quiet)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_an_unfinished_run_is_replaced_where_asked_for(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, tmp_path), quiet, [At(3, interrupt)])
    train(config(base, tmp_path, overwrite=True, max_steps=1), quiet)
    assert [line["step"] for line in log(tmp_path)] == [1] and newest_checkpoint(tmp_path) is None


def test_a_run_is_not_resumed_with_other_samples(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_jsonl(data, tiny.dialogues())
    out = tmp_path / "out"
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, out, data=(str(data),)), quiet, [At(3, interrupt)])
    write_jsonl(data, tiny.dialogues()[::-1])
    with pytest.raises(UserError, match=r"cannot resume, the samples in .*data\.jsonl are not those that"):
        train(config(base, out, data=(str(data),), resume=True), quiet)
    assert newest_checkpoint(out) == out / "checkpoint-2"
    progress = out / "checkpoint-2" / "progress.json"  # earlier versions wrote no hash of the data
    progress.write_text(json.dumps({k: v for k, v in json.loads(progress.read_text()).items() if k != "data"}))
    assert train(config(base, out, data=(str(data),), resume=True), quiet).steps == 6


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_intact(base: Path, tmp_path: Path) -> None:
    # A file in the place of step 4's checkpoint makes writing fail, like a full disk.
    with pytest.raises(UserError, match=r"cannot write .*checkpoint-4.*earlier checkpoints are intact"):
        train(config(base, tmp_path), quiet, [At(3, lambda: (tmp_path / "checkpoint-4").write_text(""))])
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "name at least one file"),
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"max_steps": 0}, "max_steps = 0: must be positive"),
        ({"epochs": 0.0}, "epochs = 0.0: must be positive"),
        ({"device": "tpu:9"}, "device 'tpu:9'"),
        ({"masking": MaskingConfig(order=("code", "text"))}, "masking.order"),
    ],
)
def test_bad_settings_give_one_line(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(config(base, tmp_path, **changes), quiet)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"empty\.jsonl: "):
        train(config(base, tmp_path / "out", data=(str(tmp_path / "empty.jsonl"),)), quiet)


def test_a_first_step_that_changes_nothing_is_announced(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(config(base, tmp_path, max_steps=1), said.append)
    assert "the learning rate rises from 0 over 1 steps, so the first changes nothing" in said


def test_the_plan_is_told_without_training(base: Path, tmp_path: Path) -> None:
    result = train(config(base, tmp_path / "out"), quiet)
    told = describe_plan(config(base, tmp_path / "other"))
    assert f"6 steps, {result.tokens:,} tokens through the model" in told
    assert not (tmp_path / "other").exists()


def test_master_weights_keep_updates_that_bfloat16_would_lose() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = MasterAdamW([{"params": [parameter], "weight_decay": 0.0}], lr=1e-3)
    for _ in range(8):  # each step changes it by about 1e-3; bfloat16 has no number between 1 - 1/256 and 1
        (parameter.float().sum()).backward()
        assert parameter.grad is None
        optimizer.step()
        assert optimizer.parameters()[0].grad is None
    assert optimizer.parameters()[0][0].item() == pytest.approx(1 - 8e-3, abs=1e-5)
    assert parameter[0].item() == pytest.approx(0.992, abs=2e-3)


def test_master_gradients_add_up_in_float32() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = MasterAdamW([{"params": [parameter]}], lr=0.0)
    for _ in range(1000):  # in bfloat16, 256 + 1 is 256
        parameter.sum().backward()
    gradient = optimizer.parameters()[0].grad
    assert gradient is not None and gradient.item() == 1000


def test_split_is_what_the_budget_says() -> None:
    assert split_by_cost([400, 300, 200], 500) == [[0], [1, 2]]
