"""Pools of interpreters that run many programs concurrently for asynchronous code. Each has its own warm process.

The requests of a build are the named methods `run`, `check` and `unstable`, so that they can be pickled. Here the
interpreters run in threads of this process; in `on_ray.py` they are actors on other machines.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar, overload

from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.construct.filters import determinism as repeat
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Isolation, Limits
from reflectioncoder.interpreter.pool import Pool, close_all, open_all
from reflectioncoder.interpreter.portable import run_portably
from reflectioncoder.problems.problem import Problem

T = TypeVar("T")


class Programs(ABC):
    """A local or remote pool of interpreters; an asynchronous context manager."""

    @abstractmethod
    async def use(self, work: Callable[[Interpreter], T]) -> T:
        """Call a function with the next free interpreter.

        Args:
            work: the function; it must be picklable for a pool on other machines.
        """

    @abstractmethod
    async def __aenter__(self) -> Programs: ...

    @abstractmethod
    async def __aexit__(self, *_: object) -> None: ...

    @overload
    async def run(self, code: str, limits: Limits | None = None, given: str = "") -> CellResult: ...  # type: ignore[overload-overlap]

    @overload
    async def run(self, code: Sequence[str], limits: Limits | None = None, given: str = "") -> list[CellResult]: ...

    async def run(
        self, code: str | Sequence[str], limits: Limits | None = None, given: str = ""
    ) -> CellResult | list[CellResult]:
        """See `Interpreter.run`; the texts name no folder of the machine (`run_portably`)."""
        cells = [code] if isinstance(code, str) else code
        results = await self.use(partial(run_portably, cells=cells, limits=limits, given=given))
        return results[0] if isinstance(code, str) else results

    async def check(self, code: str, problem: Problem, asserts: str = "") -> str | None:
        """See `filters.code_fails`."""
        return await self.use(partial(filters.code_fails, code, problem, asserts=asserts))

    async def unstable(self, dialogue: Dialogue, problem: Problem, repeats: int = 2) -> Rejected | None:
        """See `determinism.unstable`."""
        return await self.use(partial(repeat.unstable, dialogue, problem, repeats=repeats))


class InterpreterPool(Programs):
    """Interpreters on this machine; `async with InterpreterPool() as pool: result = await pool.run(code)`.

    Args:
        size: number of programs that run concurrently; about one per core is fastest, more if programs sleep or wait.
        limits: default limits of a cell.
        isolation, libraries: see `Interpreter`.

    Raises:
        UserError: the size is not positive, or (on entering) the isolation is not available on this machine.
    """

    def __init__(
        self,
        size: int = 2,
        limits: Limits | None = None,
        isolation: Isolation = "auto",
        libraries: Sequence[str] = DEFAULT_LIBRARIES,
    ) -> None:
        if size < 1:
            raise UserError(f"interpreter pool: size = {size}: give a number above 0")
        self._size = size
        self._make = partial(Interpreter, limits, isolation, libraries=libraries)
        self._all: list[Interpreter] = []

    async def __aenter__(self) -> InterpreterPool:
        self._all = await asyncio.to_thread(open_all, self._size, self._make)
        self._pool = Pool(self._all)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.close()
        await asyncio.to_thread(close_all, self._all)

    async def use(self, work: Callable[[Interpreter], T]) -> T:
        """Call a function with the next free interpreter, in a separate thread.

        Args:
            work: the function, such as `lambda interpreter: judge(program, "f", examples, interpreter)`.
        """
        return await self._pool.use_async(work)
