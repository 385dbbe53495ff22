"""Statements that await, on the event loop of the session.

The loop is Python that a program can patch, so nothing that it returns is believed. Instead, every such statement runs
below a generator of ours (`_watch`), which goes on behind its first line only where the statement has returned, and
then pauses: the place at which it stands says so, and a program cannot set it. The generators are made before the
program starts, so that it cannot put others in their place.
"""

import operator
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from reflectioncoder.sandbox.notebook import Notebook, in_place


@types.coroutine
def _watch(evaluate: Any, arguments: tuple[Any, ...], pause: Callable[[], object]) -> Generator[Any, Any, None]:
    """Run a statement that awaits; pauses once it has returned."""
    __tracebackhide__ = "__ipython_bottom__"
    yield from evaluate(*arguments)
    pause()
    yield


@types.coroutine
def _nothing() -> Generator[Any, Any, None]:
    yield from ()


class Awaiting:
    """Runs watched statements one after the other, and keeps what they raised.

    Attributes:
        failures: what they raised, with the line of the cell, until it is taken away.
        place: where a watched statement stands; made of the interpreter's own functions, so that it cannot be patched.
        paused: where one stands that has returned.
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
        """What runs a statement: `eval` and its arguments."""
        return self._watch(evaluate, arguments, self._pause)

    def _pause(self) -> None:
        self._notebook.event_loop().stop()

    def run(self, watched: Awaitable[None], name: str) -> None:
        """Run a watched statement until it pauses or has ended, or the program stops the loop."""
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
            error.__traceback__ = trace and trace.tb_next  # one frame of ours is left out, and there are two
            self.failures.append(self._notebook.failed(error, name))
        finally:
            if self._running is watched:  # and not one that paused, and ends while the next one runs
                self._pause()
