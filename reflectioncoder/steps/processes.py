"""Where steps run: processes on the cores and GPUs of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.registry import added_in
from reflectioncoder.steps.plan import StepVerb

GRACE = 10.0  # seconds for a step to end after an interrupt
# Ends with its parent however that ends, then becomes the command: a killed run leaves no process behind.
LAUNCHER = """
import ctypes, os, sys
parent = int(sys.argv[1])
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != parent: os._exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class StepProcess(Protocol):
    """A step that runs."""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def stop(self) -> None:
        """End it; what it has written stays."""


class StepPool(Protocol):
    """Where steps run.

    Args:
        jobs: steps that run at the same time.
        threads: threads of each.
    """

    jobs: int
    threads: int

    def room(self, on_device: bool) -> bool:
        """Whether a step can start now that computes on a GPU where there is one, or that does not."""

    def start(self, on_device: bool, words: Sequence[str], log: Path) -> StepProcess:
        """Start a step; there must be room for it.

        Args:
            on_device: see `room`.
            words: arguments of the Python interpreter.
            log: file to which its output is appended.
        """


def step_words(verb: StepVerb, config: Path) -> list[str]:
    """The arguments with which a Python interpreter runs a command; a program with parts of its own is used again.

    Raises:
        UserError: parts were added in a place that another process cannot load.
    """
    main = sys.modules["__main__"]
    program = getattr(main, "__file__", None) or ""
    if added_in() and program.endswith(".py") and getattr(main, "__spec__", None) is None:
        return [os.path.abspath(program), verb, "--config", str(config)]
    return ["-m", "reflectioncoder", verb, "--config", str(config)]


def start_process(
    words: Sequence[str], log: Path, changes: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a Python process whose output goes to a log, and which ends with this process.

    Args:
        words: arguments of the Python interpreter.
        log: file to which its output is appended.
        changes: changes of the environment.
        folder: working directory; None for that of this process.
    """
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *words]
    with log.open("ab") as out:
        return subprocess.Popen(
            launch, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **changes}, cwd=folder
        )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process, and kill it if it does not end in time."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def thread_variables(threads: int) -> dict[str, str]:
    """Environment of a process with a number of threads; those that wait sleep, as others use the cores."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"))
    return {**dict.fromkeys(counts, str(threads)), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def visible_gpus() -> list[str]:
    """Names of the GPUs of this machine, as CUDA_VISIBLE_DEVICES has them; does not load torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(line for line in listed.stdout.split("\n") if line[:3] == "GPU")]


class _Local:
    def __init__(self, process: subprocess.Popen[bytes], slots: list[int], slot: int) -> None:
        self._process, self._slots, self._slot = process, slots, slot
        self._free = False

    def poll(self) -> int | None:
        status = self._process.poll()
        if status is not None and not self._free:
            self._free = True
            self._slots.append(self._slot)
        return status

    def stop(self) -> None:
        stop_process(self._process)
        self.poll()


class LocalPool:
    """Processes of this machine. On a machine with GPUs, steps that need one do not wait for steps that need none.

    Args:
        jobs: steps at the same time; 0 is one per GPU, or one per core without any.
        threads: threads of each; 0 divides the cores.
        most: no more than this number of steps can ever run at the same time.
        gpus: names of the GPUs; several steps share one if there are more jobs.
    """

    def __init__(self, jobs: int, threads: int, most: int, gpus: Sequence[str] = ()) -> None:
        cores = len(os.sched_getaffinity(0))
        self.gpus = list(gpus)
        self.jobs = max(1, min(jobs or len(gpus) or cores, most))
        self.threads = threads or max(1, cores // self.jobs)
        self._device = list(range(self.jobs))
        self._host = list(range(self.jobs)) if gpus else self._device

    def room(self, on_device: bool) -> bool:
        """See `StepPool`."""
        return bool(self._device if on_device else self._host)

    def start(self, on_device: bool, words: Sequence[str], log: Path) -> StepProcess:
        """See `StepPool`. Raises UserError if no process can be started."""
        slots = self._device if on_device else self._host
        slot = slots.pop(0)
        changes = thread_variables(self.threads)
        if self.gpus:
            changes["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)] if on_device else ""
        try:
            return _Local(start_process(words, log, changes), slots, slot)
        except OSError as error:
            raise UserError(f"cannot start a process: {first_line(error)}") from None


def header(verb: StepVerb, attempt: int) -> str:
    """The first line of an attempt in a step's log."""
    return f"== {time.strftime('%Y-%m-%d %H:%M:%S')} reflectioncoder {verb}, attempt {attempt}\n"
