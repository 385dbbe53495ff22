"""A pool of open interpreters, shared by threads or coroutines."""

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
    """Start several interpreters in parallel.

    Args:
        count: number of interpreters, at least 1.
        make: starts one interpreter.

    Raises:
        UserError: an interpreter did not start; the others have been closed.
    """
    with ThreadPoolExecutor(count, thread_name_prefix="interpreter") as threads:
        starts = [threads.submit(make) for _ in range(count)]
    failed = next((error for start in starts if (error := start.exception()) is not None), None)
    if failed is not None:
        close_all([start.result() for start in starts if start.exception() is None])
        raise failed
    return [start.result() for start in starts]


def close_all(interpreters: Sequence[Interpreter]) -> None:
    """Close interpreters in parallel."""
    with ThreadPoolExecutor(max(1, len(interpreters))) as threads:
        list(threads.map(lambda interpreter: interpreter.close(), interpreters))


class Pool:
    """Lends open interpreters, each to one thread at a time. Closing the pool leaves the interpreters open.

    Args:
        interpreters: the open interpreters, at least one.
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
        """Wait for running calls and stop the threads."""
        self._threads.shutdown()

    def use(self, work: Callable[[Interpreter], T]) -> T:
        """Call a function with the next free interpreter, in the calling thread."""
        interpreter = self._free.get()
        try:
            return work(interpreter)
        finally:
            self._free.put(interpreter)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Call a function on each item, in as many threads as there are interpreters.

        Args:
            work: the function; it gets an interpreter through `use`.
            items: its arguments.

        Returns:
            the results, in the order of the items.
        """
        return self._threads.map(work, items)

    async def use_async(self, work: Callable[[Interpreter], T]) -> T:
        """Call a function with the next free interpreter, in a thread of the pool.

        If the coroutine is cancelled, a call that has started still runs to its end, at most to the program's time
        limit. Only then is the interpreter free again.
        """
        call = self._threads.submit(self.use, work)
        ended = asyncio.wrap_future(call)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not call.cancel():
                await asyncio.wait([ended])
            raise
