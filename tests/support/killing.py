"""Runs functions in forked processes that are killed: at a moment, or just before a file is moved into place."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[], object]) -> int:
    """Run a function in a forked process, and return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def killed_at_move(work: Callable[[], object], number: int) -> bool:
    """Run a function in a forked process that is killed before the `number`-th rename of a file, counted from 1.

    Returns:
        whether it ended before that.

    Raises:
        AssertionError: it failed.
    """

    def counted() -> None:
        kill_before_move(number)
        work()

    return ended(in_child(counted))


def kill_before_move(number: int) -> None:
    """Let this process be killed before its `number`-th rename of a file, counted from 1."""
    left = [number]

    def wrapped(move: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return move(*arguments, **options)

        return call

    os.rename, os.replace = wrapped(os.rename), wrapped(os.replace)


def killed_after(work: Callable[[], object], seconds: float) -> bool:
    """Run a function in a forked process that is killed after a time; return whether it ended before that."""
    child = in_child(work)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return ended(child)


def ended(child: int) -> bool:
    """Wait for a child; return whether it ended by itself. Raises AssertionError if it failed."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"exit status {code}"
    return code == 0
