"""Several ranks give the same result as one process; a job whose rank dies ends and can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from ranks import TERMS, config, on_file, same_losses, same_weights
from training import At, interrupt, log, quiet
from transformers import AutoConfig, AutoTokenizer

from reflectioncoder.config.train import LoraConfig
from reflectioncoder.dialogues.dialogue import write_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import deal, split_by_cost
from reflectioncoder.train.consolidate import consolidate
from reflectioncoder.train.ranks.sharding import choose_engine, loads_once, variables
from reflectioncoder.train.ranks.world import World
from reflectioncoder.train.train import train

CONFIGS = ROOT / "configs" / "accelerate"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.save(folder / "model", tiny.llama(258, dtype=torch.float32))
    # With unused rows in its vocabulary table, like Qwen.
    tiny.save(folder / "untied", tiny.llama(280, tied=False, dtype=torch.float32))
    write_jsonl(folder / "data.jsonl", tiny.dialogues(7))
    return folder


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 300), st.integers(1, 5))
def test_every_sample_goes_to_one_rank_and_ranks_make_as_many_passes(costs: list[int], budget: int, size: int) -> None:
    groups = split_by_cost(costs, budget, size)
    shares = [deal(groups, costs, size, rank) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for group in share for i in group) == list(range(len(costs)))
    assert all(len(g) <= 1 or sum(costs[i] for i in g) <= budget for share in shares for g in share)


def test_what_runs_at_the_same_time_costs_about_the_same() -> None:
    costs = [90, 80, 30, 20]
    groups = split_by_cost(costs, 90, 2)
    assert [deal(groups, costs, 2, rank) for rank in (0, 1)] == [[[0], [3]], [[1], [2]]]


def test_an_empty_share_is_a_pass_that_counts_nothing() -> None:
    batch = pack([])
    assert batch.ce_weight.tolist() == [0] and len(batch.kl_weight) == 0
    assert batch.cu_seqlens.tolist() == [0, batch.tokens]


def test_the_world_is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_environment() == World(0, 1)
    for name, value in (("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert World.from_environment() == World(9, 16) and not World.from_environment().first


WAITING = """
import os, time
from datetime import timedelta
import torch.distributed as dist
from reflectioncoder.train.ranks.world import World, lost_contact
rank = int(os.environ["RANK"])
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, rank == 0)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=3))
world = World(rank, 2).meet()
if rank == 0:
    time.sleep(5)  # writes a large model
world.wait()
print("waited", flush=True)
if rank == 1:
    os._exit(0)
try:
    world.wait()
except RuntimeError as error:
    print("lost contact" if lost_contact(error) else error)
"""


@pytest.mark.ranks
def test_ranks_wait_for_a_long_write_but_not_for_a_dead_rank() -> None:
    port = ranks.free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING],
            env=ranks.environment(RANK=str(rank), MASTER_PORT=port),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=200)[0].split("\n") for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said == [["waited", "lost contact", ""], ["waited", ""]]


@pytest.mark.ranks
def test_two_ranks_give_what_one_process_gives(base: Path, tmp_path: Path) -> None:
    # An epoch has 12 samples, as 5 of the 7 are up-sampled. With batches of 11, two ranks share one sample in step 2.
    runs = {
        "uneven": {},
        "fewer samples than ranks": {"max_steps": -1, "epochs": 1.0, "batch_size": 11},
        "bfloat16": {"precision": "bfloat16"},
        "lora": {"lora": LoraConfig(r=4)},
    }
    configs: list[Path | str] = []
    for name, changes in runs.items():
        train(config(base, tmp_path / "one" / name, **changes), quiet)
        configs.append(on_file(config(base, tmp_path / "two" / name, **changes), tmp_path / "configs" / name))
    assert log(tmp_path / "one" / "fewer samples than ranks")[-1]["tokens"] > 0
    said = ranks.launch(configs)
    assert "7 samples" in said[0] and "samples" not in said[1]
    for name in runs:
        # In bfloat16, sums depend on which samples share a micro-batch.
        tolerance = 2e-2 if name == "bfloat16" else 1e-5
        same_losses(tmp_path / "one" / name, tmp_path / "two" / name, tolerance)
        same_weights(tmp_path / "one" / name, tmp_path / "two" / name, tolerance)
        results = [json.loads((tmp_path / n / name / "result.json").read_text()) for n in ("one", "two")]
        assert results[0]["tokens"] == results[1]["tokens"]
    assert len(log(tmp_path / "two" / "fewer samples than ranks")) == 2


def engine_run(base: Path, folder: Path, sharding: str) -> None:
    """Check an engine: same result as one process, exact resumption, and consolidation of its checkpoints."""
    runs: dict[str, dict[str, Any]] = {
        "float32": {},
        "bfloat16": {"precision": "bfloat16", "model": str(base / "untied")},
    }
    configs: list[Path | str] = []
    for name, changes in runs.items():
        train(config(base, folder / "one" / name, **changes), quiet)
        sharded = config(base, folder / "two" / name, sharding=sharding, **changes)
        configs.append(on_file(sharded, folder / "configs" / name))
    words = []
    for resume in (False, True):
        changed = config(base, folder / "two" / "cut", sharding=sharding, resume=resume)
        words.append(on_file(changed, folder / "configs" / f"cut {resume}"))
    ranks.launch([*configs, f"{words[0]}:3", words[1]])
    consolidate(folder / "two" / "cut.kept", folder / "consolidated")
    for name in runs:
        tolerance = 2e-2 if name == "bfloat16" else 1e-5
        same_losses(folder / "one" / name, folder / "two" / name, tolerance)
        same_weights(folder / "one" / name, folder / "two" / name, tolerance)
        saved = AutoConfig.from_pretrained(folder / "two" / name)
        assert saved.dtype == getattr(torch, name)
        assert saved.vocab_size == AutoConfig.from_pretrained(folder / "one" / name).vocab_size
    lines = [[[line[name] for name in TERMS] for line in log(folder / "two" / run)] for run in ("float32", "cut")]
    assert lines[0] == lines[1]
    same_weights(folder / "two" / "float32", folder / "two" / "cut", 0.0)
    with pytest.raises(UserError, match="interrupted after step 3"):
        train(config(base, folder / "one" / "cut"), quiet, [At(3, interrupt)])
    same_weights(folder / "one" / "cut" / "checkpoint-2", folder / "consolidated")
    assert len(AutoTokenizer.from_pretrained(folder / "consolidated")) > 258


@pytest.mark.ranks
def test_fsdp2_gives_what_one_process_gives(base: Path, tmp_path: Path) -> None:
    engine_run(base, tmp_path, str(CONFIGS / "fsdp2.yaml"))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.ranks
def test_deepspeed_gives_what_one_process_gives(base: Path, tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed; run: pip install deepspeed")
    engine_run(base, tmp_path, str(CONFIGS / f"zero{stage}.yaml"))


def test_an_accelerate_file_means_what_its_launcher_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = variables(str(CONFIGS / "fsdp2.yaml"))
    assert found["ACCELERATE_USE_FSDP"] == "true" and found["FSDP_VERSION"] == "2"
    assert found["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT" and found["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", found["FSDP_CPU_RAM_EFFICIENT_LOADING"])
    assert loads_once("fsdp2") and not loads_once("deepspeed") and not loads_once("none")
    found = variables(str(CONFIGS / "zero3.yaml"))
    assert found["ACCELERATE_USE_DEEPSPEED"] == "true" and found["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert variables(str(CONFIGS / "ddp.yaml")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "not an accelerate configuration"),
        ("distributed_type: MEGATRON_LM", "MEGATRON_LM is not one of"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}", "set fsdp_version: 2"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}", "no ranks were started"),
    ],
)
def test_a_bad_sharding_file_gives_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {name: v for name, v in os.environ.items() if name != "RANK"})
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        choose_engine(str(tmp_path / "c.yaml"))
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        choose_engine(str(tmp_path / "none.yaml"))


CHILD = """
import os, signal, sys
from training import At
from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.train.train import train
callbacks = [At(5, lambda: os.kill(os.getpid(), signal.SIGKILL))] if os.environ["RANK"] == "1" else []
from reflectioncoder.errors import UserError
try:
    train(load(TrainConfig, sys.argv[1]), callbacks=callbacks)
except UserError as error:
    sys.exit(f"reflectioncoder train: {error}")
"""


@pytest.mark.ranks
def test_a_killed_rank_ends_the_job_and_resume_goes_on_exactly(base: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    path = on_file(config(base, killed, max_steps=7), tmp_path / "config")
    (tmp_path / "child.py").write_text(CHILD)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    job = subprocess.run(
        [*torchrun, str(tmp_path / "child.py"), str(path)],
        env=ranks.environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert job.returncode != 0
    lines = [line for line in job.stderr.splitlines() if line.startswith("reflectioncoder train: ")]
    assert len(lines) == 1 and "continue from checkpoint-4 with --resume" in lines[0], job.stderr
    assert not (killed / "model.safetensors").exists()
    alone = tmp_path / "alone"
    shutil.copytree(killed, alone)
    again = on_file(config(base, killed, max_steps=7, resume=True), tmp_path / "again")
    ranks.launch([again, on_file(config(base, whole, max_steps=7), tmp_path / "uninterrupted")])
    assert [[line[name] for name in TERMS] for line in log(killed)] == [
        [line[name] for name in TERMS] for line in log(whole)
    ]
    same_weights(whole, killed, 0.0)
    train(config(base, alone, max_steps=7, resume=True), quiet)  # with another number of ranks
    same_losses(whole, alone)
    same_weights(whole, alone)
