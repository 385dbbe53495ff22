"""Training on several processes: this rank, sums over all ranks, and error handling when a rank dies.

`torchrun` or `accelerate launch` start one process per device and set the environment variables read here. Without a
sharding engine every rank holds the whole model and gradients are summed once per step; in sharded runs the engine does
that (see `sharding.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from reflectioncoder.errors import RankError, first_line, out_of_memory

# Timeout while one rank writes or loads: storage may be slow, and a dead rank is noticed immediately anyway.
BARRIER_TIMEOUT = timedelta(hours=24)
# Advice if the model itself does not fit.
SMALLER = (
    "set precision = bfloat16, spread the model over several GPUs (--sharding), train adapters (lora.r, with "
    "lora.quantize = 4bit for less), or take a smaller model"
)


@dataclass(frozen=True)
class World:
    """The processes of a run, as configured by their launcher.

    Args:
        rank: rank of this process, from 0; rank 0 writes all files.
        size: number of processes on all machines.
        room: process group for barriers, created by `meet`.
    """

    rank: int = 0
    size: int = 1
    room: Any = field(default=None, compare=False, repr=False)

    @staticmethod
    def from_environment() -> World:
        """Read the launcher's environment variables; without a launcher the size is 1."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return World(int(os.environ.get("RANK", "0")), size) if size > 1 else World()

    @property
    def name(self) -> str:
        """Suffix for messages that names rank and host; empty for a single process."""
        return f" on rank {self.rank} of {self.size} ({socket.gethostname()})" if self.size > 1 else ""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes all files."""
        return self.rank == 0

    def meet(self) -> World:
        """Return this world with a group for barriers; all ranks call it after the main group is initialised.

        The group uses gloo on CPU, whatever backend sums the gradients. gloo reports a dead rank immediately. The group
        has its own timeout, so one rank may write for longer than `rank_timeout`.

        Raises:
            RankError: the machines of the ranks cannot connect through gloo.
        """
        if self.size == 1 or not dist.is_initialized():
            return self
        try:
            return replace(self, room=dist.new_group(backend="gloo", timeout=BARRIER_TIMEOUT))
        except RuntimeError as error:
            raise RankError(
                f"the ranks cannot reach each other{self.name} ({first_line(error)[:120]}); set "
                "GLOO_SOCKET_IFNAME to the network interface that joins their machines"
            ) from None

    def wait(self) -> None:
        """Wait for all ranks, with a long timeout because one may be writing. Raises RuntimeError if a rank died."""
        if self.size > 1 and dist.is_initialized():
            dist.barrier(group=self.room)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sum the gradients over all ranks, in place; missing gradients count as zeros.

        Once per step is enough. Losses are weighted by the global batch, so gradients are summed, not averaged.
        """
        if self.size == 1:
            return
        work = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            work.append(dist.all_reduce(parameter.grad, async_op=True))
        for pending in work:
            pending.wait()


def lost_contact(error: BaseException) -> bool:
    """Whether an error means that another rank died or does not respond."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset by peer", "timed out", "timeout", "broken pipe")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


@contextmanager
def one_line(
    world: World, where: Callable[[], str], lower: Callable[[], str], advice: Callable[[], str]
) -> Iterator[None]:
    """Context manager that turns out-of-memory errors and lost ranks into a one-line error.

    Args:
        world: ranks of the run.
        where: returns what the run was doing.
        lower: returns how to use less memory.
        advice: returns how to continue the run.

    Raises:
        RankError: with the one-line message.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise RankError(f"out of memory {where()}{world.name}; {lower()}; {advice()}") from None
        if world.size > 1 and lost_contact(error):
            explain_loss(world, where(), error, advice())
        raise


def explain_loss(world: World, where: str, error: BaseException, advice: str) -> NoReturn:
    """Raise the one-line error of a rank that lost contact with another."""
    raise RankError(
        f"lost contact with another rank {where}{world.name} ({first_line(error)[:120]}); {advice}"
    ) from None


class EndsWithALine:
    """Context manager in which SIGTERM ends this process with a one-line message, even during a collective.

    Launchers send SIGTERM to the remaining ranks when one dies. These often wait in a collective, where no Python code
    runs, so a separate thread handles the signal.

    Args:
        world: ranks of the run; with a single process nothing changes.
        line: returns the message.
    """

    def __init__(self, world: World, line: Callable[[], str]) -> None:
        self.world, self.line = world, line
        self.active = world.size > 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if not self.active:
            return
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.before = signal.signal(signal.SIGTERM, lambda *_: None)
        self.wakeup = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        if not self.active:
            return
        signal.set_wakeup_fd(self.wakeup)
        signal.signal(signal.SIGTERM, self.before)
        os.close(self.write)

    def _watch(self) -> None:
        while number := os.read(self.read, 1):
            if number[0] == signal.SIGTERM:
                print(f"reflectioncoder train: {self.line()}", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGTERM)
        os.close(self.read)
