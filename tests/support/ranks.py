"""Starts training on several ranks, as a launcher does, and compares losses and weights of runs."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import rank
import torch
from training import log
from transformers import AutoModelForCausalLM

from reflectioncoder.config.toml import save
from reflectioncoder.config.train import TrainConfig

FORKS = multiprocessing.get_context("forkserver")
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
    """Environment variables of a rank: one thread, and the module path of this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **more}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Run a function of `rank` in a forked process. Its parent has done the imports, which take ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        FORKS.set_forkserver_preload(["rank"])
        process = FORKS.Process(target=target, args=arguments)
        process.start()
    return process


def launch(configs: Sequence[Path | str], ranks: int = 2, seconds: float = 300) -> list[str]:
    """Train with each configuration in turn on `ranks` processes.

    Args:
        configs: configuration files. A suffix ":N" interrupts the run after N steps, as Ctrl-C does. Its output
            directory is then copied, with the suffix ".kept", before the next run starts.
        ranks: number of processes.
        seconds: time limit of all runs together.

    Returns:
        the standard error of each rank.

    Raises:
        AssertionError: a rank failed.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, str(number)) for number in range(ranks)]
        processes = []
        for number, said in enumerate(logs):
            variables = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(ranks)}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            processes.append(forked(rank.ranks, said, variables, [*map(str, configs)]))
        until = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
        texts = [said.read_text() if said.exists() else "" for said in logs]
    assert codes == [0] * ranks, "\n".join(map(str, [codes, *texts]))
    return texts
