"""The engine `ray`: interpreters and native models run on the nodes of a Ray cluster.

The driver (the process of `reflectioncoder build`) keeps the problems, the conversations and the ledger. It sends
programs, and problems for mutation, to actors (`ray_actors.py`), which return results. Actors write nothing, and the
calls of a lost actor are repeated on another, so the result equals that of the local engine unless the driver dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import methodcaller
from types import TracebackType
from typing import Generic, TypeVar, cast

import ray
from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.engines.interpreters import Programs
from reflectioncoder.construct.engines.processes import Handler
from reflectioncoder.construct.engines.ray_actors import Crew
from reflectioncoder.errors import InfrastructureError, UserError
from reflectioncoder.interpreter.interpreter import Interpreter

T = TypeVar("T")
R = TypeVar("R")
OBJECT_STORE = 80 << 20  # bytes; messages are small, and this is Ray's minimum
REACH = 5.0  # timeout in seconds for a connection to the head node


@contextmanager
def cluster(address: str, hidden: Sequence[str] = ()) -> Iterator[None]:
    """Connect to a Ray cluster; an existing connection of this process is reused and left open.

    Args:
        address: HOST:PORT of the head. Empty uses `RAY_ADDRESS`, else the cluster of this machine, else it starts a
            new cluster on this machine.
        hidden: environment variables to hide from the processes of a cluster that is started here.

    Raises:
        UserError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    _connect(address, hidden)
    try:
        yield
    finally:
        ray.shutdown()
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, handler)  # Ray has installed its own


def _connect(address: str, hidden: Sequence[str]) -> None:
    address = address or os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise UserError(
            f"ray_address = '{address}': give HOST:PORT of the head; the build runs on a node of the cluster"
        )
    if address not in ("", "auto", "local"):
        _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started: list[dict[str, object]] = [{"address": address}]
    if address == "":
        started = [{"address": "auto"}, {"address": "local"}]
    if started[-1]["address"] == "local":
        started[-1] |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    for number, options in enumerate(started, 1):
        keys = {name: os.environ.pop(name) for name in hidden if name in os.environ}
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **options)  # type: ignore[arg-type]
            return
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            if number == len(started):
                line = " ".join(str(error).split())[:300]
                raise UserError(f"ray_address = '{address}': {line}") from None
        finally:
            os.environ.update(keys)


def _reach(address: str) -> None:
    """Check that the address accepts connections, because Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"ray_address = '{address}': no Ray cluster there ({error}); give HOST:PORT of the head, as"
            " 'ray start --head' prints it"
        ) from None


def cores_of(config: BuildConfig) -> int:
    """Return the number of interpreters of a build; by default the current number of CPUs in the cluster."""
    return config.workers or int(ray.cluster_resources().get("CPU", 0))


def replicas_of(config: BuildConfig) -> int:
    """Return the number of copies of a build's native model; by default one per GPU."""
    return config.native.replicas or max(1, int(ray.cluster_resources().get("GPU", 0)))


def printer(console: Console) -> Callable[[str], None]:
    return partial(console.print, markup=False, highlight=False, soft_wrap=True)


class RayWorkers(Generic[T, R]):
    """Actors that process a list of tasks, as `processes.Pool` does on one machine; a context manager.

    Args:
        make: called once in each actor to make the `Handler`; must be picklable.
        config: configuration of the build.
        console: console for reports of lost actors.
    """

    def __init__(self, make: Callable[[], Handler[T, R]], config: BuildConfig, console: Console) -> None:
        self._make, self._config, self._console = make, config, console
        self._runner = asyncio.Runner()
        self._crew: Crew[Handler[T, R]] | None = None
        self._under_way: set[asyncio.Task[tuple[int, R]]] = set()

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yield index and result of each task when it is finished.

        Raises:
            UserError: an actor raised it, several actors died during one task, or no node is available.
        """
        waiting = iter(enumerate(tasks))
        while done := self._runner.run(self._step(waiting)):
            for task in done:
                yield task.result()

    async def _step(self, waiting: Iterator[tuple[int, T]]) -> set[asyncio.Task[tuple[int, R]]]:
        """Keep two tasks per actor in flight, and return those that are done; empty if no task is left."""
        if self._crew is None:
            size = partial(cores_of, self._config)
            self._crew = Crew(self._make, size, self._config.ray_wait, printer(self._console))
        while len(self._under_way) < 2 * self._crew.places and (item := next(waiting, None)) is not None:
            self._under_way.add(asyncio.create_task(self._one(*item)))
        if not self._under_way:
            return set()
        done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        return done

    async def _one(self, index: int, task: T) -> tuple[int, R]:
        assert self._crew is not None
        try:
            return index, await self._crew.use(methodcaller("__call__", task))
        except InfrastructureError as error:
            raise UserError(f"{error}; is there too little memory? try fewer workers") from None

    def close(self) -> None:
        """Stop all actors, busy or not."""
        self._runner.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._crew is not None:
            await self._crew.close()

    def __enter__(self) -> RayWorkers[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RayInterpreters(Programs):
    """Interpreters in actors, as `interpreters.InterpreterPool` on one machine.

    Args:
        make: called once in each actor to make its interpreter; must be picklable.
        config: configuration of the build.
        console: console for reports of lost actors.
    """

    def __init__(self, make: Callable[[], Interpreter], config: BuildConfig, console: Console) -> None:
        self._make, self._config, self._console = make, config, console

    async def __aenter__(self) -> RayInterpreters:
        size = partial(cores_of, self._config)
        self._crew = Crew(self._make, size, self._config.ray_wait, printer(self._console))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._crew.close()

    async def use(self, work: Callable[[Interpreter], T]) -> T:
        """See `Programs.use` and `Crew.use`."""
        return cast(T, await self._crew.use(work))
