"""Starts training on several processes, as a launcher does, and is what they run: `ranks.py CONFIG.toml ...`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(**more: str) -> dict[str, str]:
    """One thread a process, and the modules that this one sees."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **more}


def launch(configs: Sequence[Path], ranks: int = 2, seconds: float = 300) -> list[str]:
    """Train with each configuration in turn, on `ranks` processes; returns what each rank said.

    Raises:
        AssertionError: a rank failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
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

    from reflectioncoder.config import TrainConfig
    from reflectioncoder.settings import load
    from reflectioncoder.train import train

    for path in sys.argv[1:]:
        train(load(TrainConfig, path))
    dist.destroy_process_group()
