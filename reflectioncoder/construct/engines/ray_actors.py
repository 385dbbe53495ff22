"""Actors of one kind on a Ray cluster that share the work, are replaced when they are lost, and lose no work.

What an actor is asked is a function of what it holds (an interpreter, a model) that leaves nothing behind, so an
actor that dies, alone or with its node, costs only the time that its calls took: they are made again by another one.
The driver keeps every actor in sight, and no more calls are under way than there is room for in the actors. What this
does not protect against is the death of the driver, or of the head node; then the ledger has what was finished.
"""

from __future__ import annotations

import asyncio
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
T = TypeVar("T")
LOST = (
    exceptions.RayActorError,
    exceptions.ObjectLostError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
)
DEATHS = 5  # of actors over one call; more than of local processes, because nodes may go one after the other
STARTS = 3  # of one place's actors that fail one after the other
LOOK = 1.0  # seconds between two looks at the cluster
GRACE = 3.0  # seconds that actors have to tidy up at the end


def same_everywhere() -> dict[str, str]:
    """The versions that must not differ between nodes, for they decide what programs print."""
    known = {name: version for name, version in versions().items() if name in ("reflectioncoder", "ipython")}
    return {**known, "python": ".".join(platform.python_version_tuple()[:2])}


@dataclass(frozen=True)
class Place:
    """Where an actor is."""

    address: str
    versions: dict[str, str]


class Actor:
    """The far side: holds what `make` gives and lets functions work with it, one at a time."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._held = make, None

    def place(self) -> Place:
        """Where this is; answers as soon as a node has taken the actor."""
        return Place(ray.util.get_node_ip_address(), same_everywhere())

    def open(self) -> None:
        """Make what is to be held."""
        self._held = self._make()

    def do(self, work: Callable[[Any], Any]) -> Any:
        """Call a function with what is held."""
        return work(self._held)

    def close(self) -> None:
        """Let go of what is held."""
        if self._held is not None:
            self._held.close()


class ConcurrentActor(Actor):
    """The far side of what works on many things at once: functions give awaitables, all on one event loop."""

    async def do(self, work: Callable[[Any], Any]) -> Any:
        """Await what a function gives."""
        return await work(self._held)

    async def close(self) -> None:  # type: ignore[override]
        """See `Actor.close`."""
        if self._held is not None:
            await self._held.close()


@dataclass(eq=False)
class _Member:
    """An actor that is ready, seen from the driver."""

    actor: Any
    place: Place
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Crew(Generic[H]):
    """Actors at work for one event loop; made inside it, ended with `close`.

    Args:
        make: called once in each actor, gives what it holds; something that can be pickled.
        size: how many actors; called again and again, for nodes may join.
        wait: seconds to wait for a node while there is no actor at all.
        report: told in a line what was lost.
        room: calls that an actor has at once; more than one needs a `make` whose methods are coroutines.
        cpus, gpus: what each actor takes of a node.
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
        # killed or not, an actor is replaced here and nowhere else, so what was under way is known
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
        """How many actors there are or will be once there is room for them."""
        return max(1, len(self._keepers))

    async def use(self, work: Callable[[H], Any]) -> Any:
        """Call a function with what an actor holds; again where the actor is lost.

        Args:
            work: something that can be pickled, that leaves nothing behind in the actor.

        Raises:
            UserError: there are no actors and none can be had.
            InfrastructureError: actor after actor died over this call.
            Exception: what the function raised.
        """
        # cancelled, the call still goes on in the actor, which is free only after it
        task = self._loop.create_task(self._call(work))
        self._calls.add(task)
        task.add_done_callback(self._called)
        return await asyncio.shield(task)

    def _called(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, also where nobody waits for it any more

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
                self._give(-1, None)  # the next one is to hear it too
                raise self._over
            if not member.gone.is_set():
                return level, member

    def _give(self, level: int, member: _Member | None) -> None:
        # places with the same number go before those with higher ones, so that actors fill up evenly
        self._free.put_nowait((level, next(self._order), member))

    def _lost(self, member: _Member) -> None:
        if not member.gone.is_set():
            member.gone.set()
            # which of the two, Ray itself knows only a while later
            self._report(f"ray: lost a worker on {member.place.address}, or that node; its work is done again")

    async def _keep(self) -> None:
        """One place in the crew: an actor, and after it the next."""
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
        """Fill places as nodes join, and give up where there is no actor for too long."""
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
        """No further calls: those that wait for an actor, and all later ones, raise this."""
        if self._over is None:
            self._over = why
            self._give(-1, None)

    def tell(self, work: Callable[[H], Any]) -> None:
        """Call a function with what each actor holds, without waiting for it."""
        for member in self._members:
            member.actor.do.remote(work)

    async def close(self) -> None:
        """End every actor; those that are at work are killed after a moment."""
        self._watcher.cancel()
        closing = [self._loop.create_task(_closed(member.actor)) for member in self._members]
        if closing:
            await asyncio.wait(closing, timeout=GRACE)
        tasks = [self._watcher, *self._keepers, *self._calls, *closing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _closed(actor: Any) -> None:
    try:
        await actor.close.remote()
    except exceptions.RayError:
        pass  # dead already
