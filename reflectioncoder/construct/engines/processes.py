"""Local worker processes that outlive neither their work nor the process that started them.

Each worker is a fresh Python process that reads tasks from its standard input and answers on its standard output. When
the owner is gone, even by SIGKILL, the worker's input ends and it leaves. A worker that dies is replaced and its task
given to another. Results come in the order in which they are finished; whoever wants another order sorts.
"""

from __future__ import annotations

import os
import pickle
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, Protocol, TypeVar

from reflectioncoder.errors import UserError

T = TypeVar("T", contravariant=True)
R = TypeVar("R", covariant=True)
ATTEMPTS = 3  # of one task, each on another worker
GRACE = 2.0  # seconds that a worker without owner, or told to stop, has to tidy up


class Handler(Protocol[T, R]):
    """What works on the tasks inside a worker."""

    def __call__(self, task: T, /) -> R:
        """Work on one task."""

    def close(self) -> None:
        """Let go of what is held."""


class _Worker:
    """The owner's end of one process."""

    def __init__(self, make: Callable[[Any], Any], argument: Any) -> None:
        package = str(Path(__file__).resolve().parents[3])
        paths = [package, *filter(None, sys.path)]  # `make` may live where only this process looks
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reflectioncoder.construct.engines.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a Ctrl-C at the terminal is the owner's to handle
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.inbox: IO[bytes] = self.process.stdin
        self.outbox: IO[bytes] = self.process.stdout
        self.task: int | None = None
        with suppress(BrokenPipeError):  # a worker that is dead already is noticed when its answer is read
            pickle.dump((make, argument), self.inbox)
            self.inbox.flush()

    def give(self, index: int, task: Any) -> None:
        self.task = index
        with suppress(BrokenPipeError):
            pickle.dump(task, self.inbox)
            self.inbox.flush()

    def answer(self) -> tuple[str, Any] | None:
        """The answer that is due; None where the worker died over it."""
        try:
            kind, value = pickle.load(self.outbox)
        except (EOFError, pickle.UnpicklingError, OSError):
            return None
        return kind, value

    def stop(self) -> None:
        with suppress(OSError):
            self.inbox.close()

    def wait(self) -> None:
        try:
            self.process.wait(2 * GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.outbox.close()


class Pool(Generic[T, R]):
    """Worker processes at work on a list of tasks; a context manager.

    Args:
        make: a function or class of a module, called once in each worker with `argument`; gives the `Handler`.
        argument: any value that can be pickled.
        count: how many processes.
    """

    def __init__(self, make: Callable[[Any], Handler[T, R]], argument: Any, count: int) -> None:
        self._make, self._argument, self._count = make, argument, count
        self._workers: list[_Worker] = []

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Index and result of each task, as they are finished.

        Raises:
            UserError: a worker's own, or a task over which worker after worker died.
            RuntimeError: any other exception in a worker, with its traceback.
        """
        waiting = deque(range(len(tasks)))
        failures: dict[int, int] = {}
        with selectors.DefaultSelector() as selector:

            def start() -> None:
                worker = _Worker(self._make, self._argument)
                self._workers.append(worker)
                selector.register(worker.outbox, selectors.EVENT_READ, worker)
                next_task(worker)

            def next_task(worker: _Worker) -> None:
                worker.task = None
                if waiting:
                    index = waiting.popleft()
                    worker.give(index, tasks[index])

            for _ in range(min(self._count, len(tasks))):
                start()
            while any(worker.task is not None for worker in self._workers):
                for key, _ in selector.select():
                    worker: _Worker = key.data
                    index, reply = worker.task, worker.answer()
                    if reply is None:
                        selector.unregister(worker.outbox)
                        self._workers.remove(worker)
                        worker.stop()
                        worker.wait()
                        if index is not None:
                            failures[index] = failures.get(index, 0) + 1
                            if failures[index] == ATTEMPTS:
                                status = worker.process.returncode
                                raise UserError(
                                    f"worker processes died {ATTEMPTS} times over the same task (exit status {status});"
                                    " is there too little memory? try fewer workers"
                                )
                            waiting.appendleft(index)
                        if waiting:
                            start()
                        continue
                    kind, value = reply
                    if kind == "user error":
                        raise UserError(value)
                    if kind == "error":
                        raise RuntimeError(f"in a worker:\n{value}")
                    next_task(worker)  # before the result is looked at, so that the worker does not wait for it
                    assert index is not None
                    yield index, value

    def close(self) -> None:
        """Stop all workers, at work or not."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()

    def __enter__(self) -> Pool[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _main() -> None:
    """The worker's side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox = os.fdopen(os.dup(1), "wb")
    inbox = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # whatever else prints must not get between the answers
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop = object()

    def listen() -> None:
        while True:
            try:
                tasks.put(pickle.load(inbox))
            except (EOFError, pickle.UnpicklingError, OSError):
                break
            except Exception:  # such as a module that cannot be imported here
                answer("error", traceback.format_exc())
                break
        tasks.put(stop)
        time.sleep(GRACE)
        os._exit(1)  # the owner is gone and the task at hand does not end

    def answer(kind: str, value: Any) -> None:
        try:
            pickle.dump((kind, value), outbox)
            outbox.flush()
        except BrokenPipeError:
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    handler = None
    while (task := tasks.get()) is not stop:
        try:
            if handler is None:
                make, argument = task
                handler = make(argument)
            else:
                answer("result", handler(task))
        except UserError as error:
            answer("user error", str(error))
        except Exception:
            answer("error", traceback.format_exc())
    if handler is not None:
        handler.close()


if __name__ == "__main__":
    _main()
