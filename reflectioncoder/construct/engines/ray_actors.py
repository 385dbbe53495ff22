"""A group of identical Ray actors that share the work; lost actors are replaced and their calls repeated.

A call is a function of the object that an actor holds (an interpreter, a model) and has no lasting effects. So when an
actor dies, alone or with its node, another actor repeats its calls and only time is lost. The driver tracks every actor
and sends no more calls than the actors have capacity for. This does not protect against the death of the driver or of
the head node; in that case the finished problems are in the ledger.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions

from reflectioncoder.config.toml import versions
from reflectioncoder.errors import InfrastructureError, UserError

H = TypeVar("H")
LOST = (
    exceptions.RayActorError,
    exceptions.ObjectLostError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
)
DEATHS = 5  # actors lost during one call before it fails; more than for local processes, as nodes may fail in a row
STARTS = 3  # failed starts of one actor in a row before the crew gives up
LOOK = 1.0  # seconds between two checks of the cluster
ACTOR_GRACE = 3.0  # seconds for the actors' cleanup at the end


def same_everywhere() -> dict[str, str]:
    """Return the versions that must be equal on all nodes, because they affect the output of programs."""
    known = {name: version for name, version in versions().items() if name in ("reflectioncoder", "ipython")}
    return {**known, "python": ".".join(platform.python_version_tuple()[:2])}


@dataclass(frozen=True)
class Place:
    """The node and versions of an actor."""

    address: str
    versions: dict[str, str]


class Actor:
    """Remote side of an actor: holds the object made by `make`, and calls functions with it one at a time."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._held = make, None

    def place(self) -> Place:
        """Return the place of the actor; the call returns as soon as a node has scheduled the actor."""
        return Place(ray.util.get_node_ip_address(), same_everywhere())

    def open(self) -> None:
        """Make the held object."""
        self._held = self._make()

    def do(self, work: Callable[[Any], Any]) -> Any:
        """Call a function with the held object."""
        return work(self._held)

    def close(self) -> None:
        """Release the held object."""
        if self._held is not None:
            self._held.close()


class ConcurrentActor(Actor):
    """Remote side of an actor with concurrent calls: awaitables that functions return share one event loop."""

    async def do(self, work: Callable[[Any], Any]) -> Any:
        """Call a function with the held object, and await its result if it is an awaitable."""
        result = work(self._held)
        return await result if inspect.isawaitable(result) else result

    async def close(self) -> None:  # type: ignore[override]
        """See `Actor.close`."""
        if self._held is not None:
            await self._held.close()


@dataclass(eq=False)
class _Member:
    """The driver's handle of a ready actor."""

    actor: Any
    place: Place
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Crew(Generic[H]):
    """A group of actors for one event loop; create it inside the loop and stop it with `close`.

    Args:
        make: called once in each actor to make the object it holds; must be picklable.
        size: returns the number of actors; called repeatedly, as nodes may join.
        wait: seconds to wait for a node while there is no actor at all.
        report: called with a line of text about each lost actor.
        room: concurrent calls per actor; more than one requires an object whose methods are coroutines.
        cpus, gpus: resources that each actor reserves on its node.
    """

    def __init__(
        self,
        make: Callable[[], H],
        size: Callable[[], int],
        wait: float,
        report: Callable[[str], None],
        room: int = 1,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        kind, threads = (Actor, 1) if room == 1 else (ConcurrentActor, room + 3)
        # this class replaces actors, not Ray, so that the calls in progress are known
        options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": threads}
        self._kind: Any = ray.remote(kind)
        self._kind = self._kind.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD", **options)
        self._make, self._size, self._wait, self._report, self._room = make, size, wait, report, room
        self._free: asyncio.PriorityQueue[tuple[int, int, _Member | None]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._members: set[_Member] = set()
        self._placed = 0
        self._over: Exception | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._watcher = self._loop.create_task(self._watch())
        self._watcher.add_done_callback(self._ended)

    @property
    def places(self) -> int:
        """Number of actors, including those that wait for resources."""
        return max(1, len(self._keepers))

    async def use(self, work: Callable[[H], Any]) -> Any:
        """Call a function with the object of an actor; the call is repeated if the actor is lost.

        Args:
            work: the function; must be picklable and have no lasting effects in the actor.

        Raises:
            UserError: there are no actors and none can be started.
            InfrastructureError: several actors died during this call.
            Exception: whatever the function raises.
        """
        # a cancelled call continues in its actor, so its task must release the actor afterwards
        task = self._loop.create_task(self._call(work))
        self._calls.add(task)
        task.add_done_callback(self._called)
        return await asyncio.shield(task)

    def _called(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # retrieve it, so that asyncio does not warn if nothing awaits the task

    async def _call(self, work: Callable[[H], Any]) -> Any:
        deaths = 0
        while True:
            level, member = await self._take()
            try:
                result = await member.actor.do.remote(work)
            except LOST:
                self._lost(member)
                deaths += 1
                if deaths == DEATHS:
                    raise InfrastructureError(f"{DEATHS} worker processes died over the same call") from None
            except exceptions.RayTaskError as error:
                self._give(level, member)
                raise (error.cause or error) from None
            else:
                self._give(level, member)
                return result

    async def _take(self) -> tuple[int, _Member]:
        while True:
            level, _, member = await self._free.get()
            if member is None:
                assert self._over is not None
                self._give(-1, None)  # wake the next waiting call, which raises the same error
                raise self._over
            if not member.gone.is_set():
                return level, member

    def _give(self, level: int, member: _Member | None) -> None:
        # slots with a lower level are taken first, so that all actors fill up evenly
        self._free.put_nowait((level, next(self._order), member))

    def _lost(self, member: _Member) -> None:
        if not member.gone.is_set():
            member.gone.set()
            # whether the actor or its node died is known to Ray only later
            self._report(f"ray: lost a worker on {member.place.address}, or that node; its work is done again")

    async def _keep(self) -> None:
        """Keep one actor running: start it, and start a new one whenever it is lost."""
        failures = 0
        while True:
            actor = self._kind.remote(self._make)
            placed = False
            try:
                place: Place = await actor.place.remote()
                placed = True
                self._placed += 1
                here = same_everywhere()
                if place.versions != here:
                    odd = [f"{name} {found}" for name, found in place.versions.items() if found != here[name]]
                    ours = ", ".join(f"{name} {version}" for name, version in here.items())
                    raise UserError(f"ray: node {place.address} has {', '.join(odd)}; every node needs {ours}")
                await actor.open.remote()
                failures = 0
                member = _Member(actor, place)
                self._members.add(member)
                for level in range(self._room):
                    self._give(level, member)
                await member.gone.wait()
                self._members.discard(member)
            except LOST as error:
                failures += 1
                if failures == STARTS:
                    said = re.search(r"\w*Error: .*", str(error)) or re.search(r".*", str(error))
                    line = said.group() if said else ""
                    raise UserError(f"ray: workers do not start; is reflectioncoder on every node? ({line})") from None
                await asyncio.sleep(LOOK)
            except exceptions.RayTaskError as error:
                raise (error.cause or error) from None
            finally:
                self._placed -= placed
                ray.kill(actor)

    async def _watch(self) -> None:
        """Start more actors as nodes join; give up if there is no actor for `wait` seconds."""
        since = time.monotonic()
        while True:
            while len(self._keepers) < max(1, await asyncio.to_thread(self._size)):
                keeper = self._loop.create_task(self._keep())
                keeper.add_done_callback(self._ended)
                self._keepers.append(keeper)
            await asyncio.sleep(LOOK)
            if self._placed:
                since = time.monotonic()
            elif time.monotonic() - since > self._wait:
                self.end(
                    UserError(
                        f"ray: no node has taken any work for {self._wait:g} s (ray_wait): are there nodes with free"
                        " processors? Finished problems are kept: rerun to continue"
                    )
                )

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def end(self, why: Exception) -> None:
        """Stop accepting calls; waiting and later calls raise this exception."""
        if self._over is None:
            self._over = why
            self._give(-1, None)

    def tell(self, work: Callable[[H], Any]) -> None:
        """Call a function with the object of every actor, without waiting for the results."""
        for member in self._members:
            member.actor.do.remote(work)

    async def close(self) -> None:
        """Stop every actor; those still busy after `ACTOR_GRACE` seconds are killed."""
        self._watcher.cancel()
        closing = [self._loop.create_task(_closed(member.actor)) for member in self._members]
        if closing:
            await asyncio.wait(closing, timeout=ACTOR_GRACE)
        tasks = [self._watcher, *self._keepers, *self._calls, *closing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _closed(actor: Any) -> None:
    try:
        await actor.close.remote()
    except exceptions.RayError:
        pass  # already dead
