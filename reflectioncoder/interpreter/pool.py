"""A pool of open interpreters that threads, or coroutines, take turns at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from reflectioncoder.interpreter.interpreter import Interpreter

T = TypeVar("T")
R = TypeVar("R")


def open_all(count: int, make: Callable[[], Interpreter]) -> list[Interpreter]:
    """Start interpreters side by side.

    Args:
        count: how many.
        make: starts one.

    Raises:
        UserError: one did not start; the others are closed.
    """
    with ThreadPoolExecutor(count, thread_name_prefix="interpreter") as threads:
        starts = [threads.submit(make) for _ in range(count)]
    failed = next((error for start in starts if (error := start.exception()) is not None), None)
    if failed is not None:
        close_all([start.result() for start in starts if start.exception() is None])
        raise failed
    return [start.result() for start in starts]


def close_all(interpreters: Sequence[Interpreter]) -> None:
    """Close interpreters side by side."""
    with ThreadPoolExecutor(max(1, len(interpreters))) as threads:
        list(threads.map(lambda interpreter: interpreter.close(), interpreters))


class Pool:
    """Open interpreters, each used by one thread at a time; a context manager that leaves them open.

    Args:
        interpreters: at least one.
    """

    def __init__(self, interpreters: Sequence[Interpreter]) -> None:
        self._free: SimpleQueue[Interpreter] = SimpleQueue()
        for interpreter in interpreters:
            self._free.put(interpreter)
        self._threads = ThreadPoolExecutor(len(interpreters), thread_name_prefix="interpreter")

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way and let go of the threads."""
        self._threads.shutdown()

    def use(self, work: Callable[[Interpreter], T]) -> T:
        """Call a function with the next free interpreter, in this thread."""
        interpreter = self._free.get()
        try:
            return work(interpreter)
        finally:
            self._free.put(interpreter)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Call a function that uses the pool with every item, in as many threads as there are interpreters.

        Returns:
            what it returns, in the items' order.
        """
        return self._threads.map(work, items)

    async def use_async(self, work: Callable[[Interpreter], T]) -> T:
        """Call a function with the next free interpreter, in a thread of the pool's.

        Cancelled, the call still runs to the program's time limit, and only then is the interpreter free.
        """
        call = self._threads.submit(self.use, work)
        ended = asyncio.wrap_future(call)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not call.cancel():
                await asyncio.wait([ended])
            raise
