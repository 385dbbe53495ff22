"""Starts training on several processes, as a launcher does, and is what they run: `ranks.py CONFIG.toml[:STEP] ...`."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training import log
from transformers import AutoModelForCausalLM

from reflectioncoder.config.toml import save
from reflectioncoder.config.train import TrainConfig

TERMS = ("loss", "teacher_ce", "student_ce", "kl", "grad_norm")


def config(base: Path, output: Path, **changes: Any) -> TrainConfig:
    usual = TrainConfig(
        model=str(base / "model"),
        output=str(output),
        data=(str(base / "data.jsonl"),),
        batch_size=5,
        micro_tokens=400,
        max_steps=5,
        learning_rate=1e-3,
        precision="float32",
        save_steps=2,
        device="cpu",
    )
    return dataclasses.replace(usual, **changes)


def on_file(config: TrainConfig, folder: Path) -> Path:
    save(config, folder)
    return folder / "config.toml"


def same_losses(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    left, right = log(one), log(other)
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert (a["step"], a["tokens"], a["mask_rate"]) == (b["step"], b["tokens"], b["mask_rate"])
        for name in TERMS:
            assert b[name] == pytest.approx(a[name], rel=tolerance, abs=tolerance), (a["step"], name)


def same_weights(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    left, right = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (one, other))
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), name


def environment(**more: str) -> dict[str, str]:
    """One thread a process, and the modules that this one sees."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **more}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(configs: Sequence[Path | str], ranks: int = 2, seconds: float = 300) -> list[str]:
    """Train with each configuration in turn, on `ranks` processes; returns what each rank said.

    A colon and a number behind a configuration end that run, as Ctrl-C does, after so many steps; what it leaves is
    copied to its output's name with ".kept" behind it, before the next run goes on.

    Raises:
        AssertionError: a rank failed.
    """
    port = free_port()
    processes = []
    for rank in range(ranks):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, __file__, *map(str, configs)]
        processes.append(
            subprocess.Popen(
                command, env=environment(**variables), stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        )
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(said)
    return said


if __name__ == "__main__":
    import torch.distributed as dist
    from training import At, interrupt

    from reflectioncoder.config.toml import load
    from reflectioncoder.errors import UserError
    from reflectioncoder.train.train import train

    for word in sys.argv[1:]:
        path, _, step = word.partition(":")
        try:
            train(load(TrainConfig, path), callbacks=[At(int(step), interrupt)] if step else [])
        except UserError as error:
            if not step:
                raise
            print(error, file=sys.stderr)
            dist.barrier()
            if dist.get_rank() == 0:
                output = load(TrainConfig, path).output
                shutil.copytree(output, f"{output}.kept")
            dist.barrier()
    dist.destroy_process_group()
