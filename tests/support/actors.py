"""The object inside the test actors, in a module that the processes of a cluster can import."""

from __future__ import annotations

import asyncio
import os
import signal

from reflectioncoder.errors import UserError


class Answers:
    """Serves many calls concurrently, as a native sampler does."""

    def __init__(self) -> None:
        self.at_once = self.most = 0

    async def answer(self, number: int) -> tuple[int, int, int]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.3)
        self.at_once -= 1
        if number < 0:
            raise UserError("a line")
        return number, self.most, os.getpid()

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def close(self) -> None:
        """Do nothing: there are no resources to release."""
