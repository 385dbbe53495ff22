"""Training on several processes: which rank this is, sums over the ranks, and what happens when one dies.

`torchrun` or `accelerate launch` start one process a device and set the environment that is read here. Without a
sharding engine every rank holds the whole model and the gradients are summed once a step; sharded runs leave that to
their engine (see `sharding.py`).
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

from reflectioncoder.errors import RankError, first_line

# How long ranks wait for the one that writes or loads: storage may be slow, while a rank that died is noticed at once.
PATIENCE = timedelta(hours=24)
# What errors of a processor's, a GPU's or a library's memory have in common.
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
# What helps where the model itself does not fit.
SMALLER = (
    "set precision = bfloat16, spread the model over several GPUs (--sharding), train adapters (lora.r, with "
    "lora.quantize = 4bit for less), or take a smaller model"
)


@dataclass(frozen=True)
class World:
    """The processes of a run, as their launcher set them.

    Args:
        rank: of this process, from 0; rank 0 writes everything.
        size: number of processes on all machines.
        room: where ranks wait for each other, of `meet`.
    """

    rank: int = 0
    size: int = 1
    room: Any = field(default=None, compare=False, repr=False)

    @staticmethod
    def from_environment() -> World:
        """The launcher's variables; a process that no launcher started is alone."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return World(int(os.environ.get("RANK", "0")), size) if size > 1 else World()

    @property
    def name(self) -> str:
        """To put behind a sentence; empty where the process is alone."""
        return f" on rank {self.rank} of {self.size} ({socket.gethostname()})" if self.size > 1 else ""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def meet(self) -> World:
        """The same world with a room to wait in; all ranks call it once their process group is there.

        The room's connections are the processors' own (gloo), whatever carries the gradients: they notice at once that
        a rank died, and have a time limit of their own, so that one rank may write for longer than `rank_timeout`.

        Raises:
            RankError: the ranks' machines cannot reach each other that way.
        """
        if self.size == 1 or not dist.is_initialized():
            return self
        try:
            return replace(self, room=dist.new_group(backend="gloo", timeout=PATIENCE))
        except RuntimeError as error:
            raise RankError(
                f"the ranks cannot reach each other{self.name} ({first_line(error)[:120]}); set "
                "GLOO_SOCKET_IFNAME to the network interface that joins their machines"
            ) from None

    def wait(self) -> None:
        """Until all ranks are here, however long one of them writes. Raises RuntimeError where one died meanwhile."""
        if self.size > 1 and dist.is_initialized():
            dist.barrier(group=self.room)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sum the gradients over all ranks, in place; a rank that has none counts as zeros.

        Once a step is enough: losses are weighted by the global batch, so gradients are sums and not means.
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
    """Whether an error says that another rank is gone or does not answer."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset by peer", "timed out", "timeout", "broken pipe")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in NO_MEMORY)


@contextmanager
def one_line(
    world: World, where: Callable[[], str], lower: Callable[[], str], advice: Callable[[], str]
) -> Iterator[None]:
    """Running out of memory or losing another rank inside ends in one line.

    Args:
        world: of the run.
        where: called for what was going on.
        lower: called for what needs less memory.
        advice: called for how to go on.

    Raises:
        RankError: with that line.
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
    """Raise the one line that a rank ends with when another is gone."""
    raise RankError(
        f"lost contact with another rank {where}{world.name} ({first_line(error)[:120]}); {advice}"
    ) from None


class EndsWithALine:
    """While in use, SIGTERM ends this process with one line, even while it waits for other ranks.

    A launcher ends the remaining ranks that way when one dies. They often wait in a collective, where no Python code
    runs; so the signal wakes a thread.

    Args:
        world: of the run; nothing changes where the process is alone.
        line: called for what to say.
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
