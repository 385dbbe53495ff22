"""Progress on standard error: a bar on a terminal, and a line every 30 seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_SECONDS = 30.0  # seconds between two lines in a log
SLOW_SECONDS = 3.0  # `slow` prints its message after this time


class Meter:
    """Shows progress; a context manager.

    Args:
        what: the work in one word, such as "checking".
        total: total number of items; it can be changed later by `update`, because time-outs may add checks.

    Example:
        with Meter("checking", len(programs)) as meter:
            for number, program in enumerate(programs, 1):
                check(program)
                meter.update(number)
    """

    def __init__(self, what: str, total: int = 0) -> None:
        self.what, self.total, self.done = what, total, 0
        self._note = ""
        self._said = self._started = time.monotonic()
        self._bar: Progress | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Meter:
        return self

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show progress; can be called from any thread.

        Args:
            done: number of finished items.
            total: total number of items; None leaves it unchanged.
            note: short text to show, such as a speed.
        """
        with self._lock:
            self.done, self.total, self._note = done, self.total if total is None else total, note
            if sys.stderr.isatty():
                self._show_bar()
                return
            now = time.monotonic()
            if now - self._said >= LINE_SECONDS or (done == self.total and self._said > self._started):
                self._said = now
                print(self._line(now - self._started), file=sys.stderr, flush=True)

    def advance(self, note: str = "") -> None:
        """Count one more finished item and show progress."""
        self.update(self.done + 1, note=note)

    def _line(self, seconds: float) -> str:
        left = ""
        if 0 < self.done < self.total:
            left = f", about {duration(seconds * (self.total - self.done) / self.done)} left"
        note = f", {self._note}" if self._note else ""
        return f"{self.what}: {self.done}/{self.total}{note}{left}"

    def _show_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task(self.what, total=self.total, note="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self.done, total=self.total, note=self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the bar; what it shows stays on the terminal."""
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Format a duration: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def slow(what: str) -> Iterator[None]:
    """Print `what` on standard error if the block takes more than 3 seconds, and again every 30 seconds."""
    started, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        wait = SLOW_SECONDS
        while not ended.wait(wait):
            print(f"{what} ({duration(time.monotonic() - started)} so far)", file=sys.stderr, flush=True)
            wait = LINE_SECONDS

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
