"""The work function of test workers, in a module that their processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from reflectioncoder.errors import UserError


class Tasks:
    """Performs the tasks of the workers."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, task: tuple[str, object]) -> object:
        name, value = task
        if name == "add":
            print("noise on standard output")
            return self.offset + int(str(value))
        if name == "sleep":
            time.sleep(float(str(value)))
        if name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "die once" and not Path(str(value)).exists():
            Path(str(value)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "refuse":
            raise UserError("bad input")
        if name == "break":
            raise ZeroDivisionError("seen in the worker")
        return os.getpid()

    def close(self) -> None:
        """Do nothing: there are no resources to release."""
