"""Group commit: records of many conversations that arrive close together share one transaction and one disk sync."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from reflectioncoder.construct.ledger.ledger import Entry, Ledger, RecordedStep


class Commits:
    """Writes to a ledger in a separate thread, in the order of the calls; for one event loop.

    Args:
        ledger: an open ledger; until `close` it must have no other writer.
        gather: seconds to wait for more records before a transaction. The wait is short compared with the time of an
            answer, and it saves most transactions when hundreds of conversations write.
    """

    def __init__(self, ledger: Ledger, gather: float = 0.05) -> None:
        self._ledger, self._gather = ledger, gather
        self._waiting: list[tuple[Entry | RecordedStep, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def write(self, record: Entry | RecordedStep) -> None:
        """Write a record durably before this returns, and even if this is cancelled. Raises as `Ledger.write`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        await done

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(self._gather)
            batch, self._waiting = self._waiting, []
            try:
                await loop.run_in_executor(self._thread, self._ledger.write, [record for record, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.cancelled():
                        done.set_exception(error)
            else:
                for _, done in batch:
                    if not done.cancelled():
                        done.set_result(None)

    async def close(self) -> None:
        """Wait for all pending writes."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
        self._thread.shutdown()
