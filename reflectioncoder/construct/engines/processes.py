"""Local worker processes that exit when their parent process exits.

Each worker is a fresh Python process that reads tasks from standard input and writes results to standard output. When
the parent process dies, even by SIGKILL, the worker's input ends and it exits. A worker that dies is replaced, and its
task goes to another. Results arrive in the order in which they are finished.
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
from reflectioncoder.registry import added_in, load_added

T = TypeVar("T", contravariant=True)
R = TypeVar("R", covariant=True)
WORKER_ATTEMPTS = 3  # attempts at one task, each on a different worker
WORKER_GRACE = 2.0  # seconds for cleanup after a worker has lost its parent or was asked to stop


class Handler(Protocol[T, R]):
    """Processes the tasks inside a worker."""

    def __call__(self, task: T, /) -> R:
        """Process one task."""

    def close(self) -> None:
        """Release all resources."""


class _Worker:
    """The parent's handle of one worker process."""

    def __init__(self, make: Callable[[Any], Any], argument: Any, added: Sequence[str]) -> None:
        package = str(Path(__file__).resolve().parents[3])
        paths = [package, *filter(None, sys.path)]  # `make` may be importable only with this process's sys.path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reflectioncoder.construct.engines.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # so that only the parent receives a Ctrl-C at the terminal
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.inbox: IO[bytes] = self.process.stdin
        self.outbox: IO[bytes] = self.process.stdout
        self.task: int | None = None
        with suppress(BrokenPipeError):  # a dead worker is detected when its answer is read
            pickle.dump((make, argument, added, sys.argv), self.inbox)
            self.inbox.flush()

    def give(self, index: int, task: Any) -> None:
        self.task = index
        with suppress(BrokenPipeError):
            pickle.dump(task, self.inbox)
            self.inbox.flush()

    def answer(self) -> tuple[str, Any] | None:
        """Read the next answer; None if the worker died."""
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
            self.process.wait(2 * WORKER_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.outbox.close()


class ProcessPool(Generic[T, R]):
    """Worker processes that process a list of tasks; a context manager.

    Args:
        make: module-level function or class, called once in each worker with `argument` to make the `Handler`.
        argument: any picklable value.
        count: number of processes.

    Raises:
        UserError: the caller added entries to a registry in a place that the processes cannot load.
    """

    def __init__(self, make: Callable[[Any], Handler[T, R]], argument: Any, count: int) -> None:
        self._make, self._argument, self._count = make, argument, count
        self._added = added_in()
        self._workers: list[_Worker] = []

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yield index and result of each task when it is finished.

        Raises:
            UserError: a worker raised it, or several workers died during one task.
            RuntimeError: a worker raised another exception; the message has its traceback.
        """
        waiting = deque(range(len(tasks)))
        failures: dict[int, int] = {}
        with selectors.DefaultSelector() as selector:

            def start() -> None:
                worker = _Worker(self._make, self._argument, self._added)
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
                            if failures[index] == WORKER_ATTEMPTS:
                                status = worker.process.returncode
                                raise UserError(
                                    f"worker processes died {WORKER_ATTEMPTS} times over the same task"
                                    f" (exit status {status});"
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
                    next_task(worker)  # before the result is processed, so that the worker is not idle meanwhile
                    assert index is not None
                    yield index, value

    def close(self) -> None:
        """Stop all workers, busy or not."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()

    def __enter__(self) -> ProcessPool[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _main() -> None:
    """Entry point of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox = os.fdopen(os.dup(1), "wb")
    inbox = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # standard output is for answers only; print and the like go to standard error
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
            except Exception:  # such as a module that cannot be imported in the worker
                answer("error", traceback.format_exc())
                break
        tasks.put(stop)
        time.sleep(WORKER_GRACE)
        os._exit(1)  # the parent is gone and the current task does not end

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
                make, argument, added, sys.argv = task  # a program that is loaded again may read its words
                load_added(added)
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
