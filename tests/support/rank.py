"""Entry points of processes forked after the imports: the ranks of a training, and a run that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.distributed as dist
from killing import kill_before_move
from training import At, interrupt

from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError
from reflectioncoder.train.train import train


def begin(log: Path, variables: Mapping[str, str]) -> None:
    """Start a new session, as a launcher does, redirect standard error to a file, and set environment variables."""
    os.setsid()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.environ.update(variables)


def ranks(log: Path, variables: Mapping[str, str], words: Sequence[str]) -> None:
    """Train with each configuration in turn, as described in `ranks.launch`."""
    begin(log, variables)
    for word in words:
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


def killed(log: Path, path: Path, step: int) -> None:
    """Train, and kill this process with SIGKILL after a step."""
    begin(log, {})
    train(load(TrainConfig, path), callbacks=[At(step, lambda: os.kill(os.getpid(), signal.SIGKILL))])


def killed_at_move(log: Path, path: Path, number: int) -> None:
    """Train, and be killed with SIGKILL before the `number`-th rename of a file, counted from 1."""
    begin(log, {})
    kill_before_move(number)
    train(load(TrainConfig, path))


def trained(log: Path, path: Path) -> None:
    """Train in a process that the caller may kill; a UserError goes to the log, and the status is 2."""
    begin(log, {})
    try:
        train(load(TrainConfig, path))
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(2)
