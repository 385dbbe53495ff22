"""Runs statements that use top-level `await` on the session's event loop.

The event loop is Python code that a program can patch, so its return values are not trusted. Instead, each statement is
wrapped in a generator of ours (`_watch`). The generator passes its first line only after the statement has returned;
then it pauses. Its position (`gi_frame.f_lasti`) therefore proves that the statement has returned, and a program cannot
set that position. The generators are created before the program starts, so the program cannot replace them.
"""

import operator
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from reflectioncoder.sandbox.notebook import Notebook, in_place


@types.coroutine
def _watch(evaluate: Any, arguments: tuple[Any, ...], pause: Callable[[], object]) -> Generator[Any, Any, None]:
    """Run one statement that awaits, and pause once it has returned."""
    __tracebackhide__ = "__ipython_bottom__"
    yield from evaluate(*arguments)
    pause()
    yield


@types.coroutine
def _nothing() -> Generator[Any, Any, None]:
    yield from ()


class Awaiting:
    """Runs watched statements one after the other and collects the exceptions they raise.

    Attributes:
        failures: (exception, line of the cell) of each statement that raised; the caller removes them.
        place: returns the position of a watched statement; built from C functions, so a program cannot patch it.
        paused: the position of a watched statement that has returned.
    """

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._watch = in_place(_watch, "yield from evaluate", notebook.file, notebook.source, "await eval(code_obj")
        self._running: object = None
        self.failures: list[tuple[BaseException, int]] = []
        self.place: Callable[[Any], int] = operator.attrgetter("gi_frame.f_lasti")
        trial = self._watch(_nothing, (), list)
        trial.send(None)
        self.paused = self.place(trial)

    def watch(self, evaluate: Any, *arguments: Any) -> Any:
        """Return the paused generator that runs a statement.

        Args:
            evaluate: `eval`.
            arguments: its arguments: the compiled statement, globals and locals.
        """
        return self._watch(evaluate, arguments, self._pause)

    def _pause(self) -> None:
        self._notebook.event_loop().stop()

    def run(self, watched: Awaitable[None], name: str) -> None:
        """Run a watched statement until it pauses, ends, or the program stops the event loop."""
        self._running = watched
        self._notebook.seem_running(False)
        try:
            loop = self._notebook.event_loop()
            task = loop.create_task(self._await(watched, name))  # noqa: F841 (a loop holds its tasks weakly)
            loop.run_forever()
        finally:
            self._notebook.seem_running(True)

    async def _await(self, watched: Awaitable[None], name: str) -> None:
        try:
            await watched
        except BaseException as error:
            trace = error.__traceback__
            error.__traceback__ = trace and trace.tb_next  # two frames are ours; `failed` drops only one
            self.failures.append(self._notebook.failed(error, name))
        finally:
            if self._running is watched:  # not for an earlier statement that ends while this one runs
                self._pause()
