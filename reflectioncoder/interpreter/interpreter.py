"""The isolated Python interpreter: runs programs cell by cell and returns the text that a notebook shows.

To build reflection data, programs written by a model are run, and the model is shown the text of their failures
(section 3.1 and figure 1 of the paper, which uses Jupyter kernels). Here each `Interpreter` has one warm process, which
imports IPython once and forks a fresh session per program. This module makes the verdict. It measures the wall-clock
time, the size of the output and the end of the process itself and does not rely on the program's reports: a run that
exceeds its time limit is a timeout whatever it reports, and a run that ends without a signed result is `killed`.
`sandbox/session.py` lists what this does not protect against.
"""

import importlib.util
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.errors import InfrastructureError, UserError, first_line
from reflectioncoder.interpreter.exchange import CellExchange
from reflectioncoder.interpreter.warm_process import Remote, WarmProcess, other_python, own_python

Outcome = Literal["ok", "error", "timeout", "memory", "output_limit", "killed", "infrastructure"]
Isolation = Literal["auto", "full", "reduced", "none"]
T = TypeVar("T")

MOST = {"seconds": 10**9, "memory_mb": 2**40}  # largest limits
_STRATEGIES = {"auto": ("root", "user"), "full": ("root",), "reduced": ("root", "user"), "none": ("none",)}


@dataclass(frozen=True)
class Limits:
    """Limits of one cell, each above 0. The memory limit applies to a session and is fixed when the session starts.

    Args:
        seconds: time of a cell: processor time of all its processes. Sleeping counts as well, waiting for a processor
            does not, so that the load of the machine changes no result (see `clock.py`).
        memory_mb: address space of a process beyond that of an idle session, in MiB.
        output_chars: characters of output. Longer output is cut off and ends the session.

    Raises:
        UserError: a limit is not above 0, or the time or memory limit is larger than a machine can count.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    output_chars: int = 20_000

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "output_chars"):
            value, most = getattr(self, name), MOST.get(name)
            if not value > 0:
                raise UserError(f"interpreter limit {name} = {value!r}: give a number above 0")
            if most is not None and value > most:
                raise UserError(f"interpreter limit {name} = {value!r}: give a number up to {most:,}")


@dataclass(frozen=True)
class CellResult:
    """The result of running a cell.

    Args:
        outcome: `ok`, `error` (the cell raised an exception), or what ended the run. `infrastructure` is a failure of
            the interpreter itself, never of the program.
        text: what a notebook shows for the cell, without terminal colours.
        exception: name of the exception's type; None if there was none.
        message: text of the exception, or why the run was ended.
        line: line of the cell, from 1, of the top-level statement that failed (first arrow of the traceback).
        seconds: wall-clock time.
    """

    outcome: Outcome
    text: str
    exception: str | None = None
    message: str | None = None
    line: int | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the cell ran to its end without an exception and within its limits."""
        return self.outcome == "ok"

    @property
    def error(self) -> str:
        """Exception and first line of its message, at most 300 characters; empty if `ok`."""
        return "" if self.ok else ": ".join(filter(None, (self.exception, first_line(self.message or ""))))[:300]


class Session:
    """The process of one program. Its cells share state, as in a notebook. Created by `Interpreter.session`."""

    def __init__(self, warm: WarmProcess, limits: Limits, module: bool = False, unnumbered: int = 0) -> None:
        self._limits = limits
        request = {"memory_mb": limits.memory_mb, "seconds": limits.seconds, "module": module}
        request["unnumbered"] = unnumbered
        self._remote = Remote(warm, "cells", 1, request)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, peak: bool = False) -> int:
        """End the session and kill its processes; may be called twice.

        Args:
            peak: whether to measure the peak memory, which takes a little time.

        Returns:
            the highest peak memory among its live processes, beyond that of an idle session, in MiB; 0 if not
            requested.
        """
        return int(self._remote.close(peak=peak).get("peak_kb", 0)) // 1024

    def processor_seconds(self) -> float:
        """Return the processor time that its processes have used so far; 0 if the session has ended."""
        return self._remote.processor_seconds()

    def counted_seconds(self, elapsed: float) -> float:
        """Return what a time limit counts of the wall-clock seconds since the start: not waiting for a processor."""
        return self._remote.counted_seconds(elapsed)

    @property
    def ended(self) -> bool:
        """Whether the session accepts no more cells, because it was closed or a cell ended it."""
        return self._remote.ended is not None

    def run(self, code: str, limits: Limits | None = None) -> CellResult:
        """Run one cell.

        Args:
            code: source code of the cell.
            limits: time and output limits for this cell instead of the session's.

        Returns:
            the result. A cell that exceeds a limit also ends the session; later cells are not run and are `killed`.
        """
        return self.run_together([code], limits)

    def run_together(self, cells: Sequence[str], limits: Limits | None = None) -> CellResult:
        """Run several cells as one program, such as a solution and its tests; stops at the first that raises.

        All cells are compiled before the first one runs, each on its own, so that no cell can reach the text of
        another. `ok` means that every statement of every cell has run to its end.

        Args:
            cells: source code of each cell. `OwnCode` runs in a namespace of its own; see there.
            limits: time and output limits for all cells together, instead of the session's.

        Returns:
            one result for all cells.
        """
        if self._remote.ended is not None:
            return CellResult("killed", "", message=f"not run: {self._remote.ended}")
        try:
            return self._run(cells, limits or self._limits)
        except InfrastructureError as error:
            self._remote.ended = "the session was lost"
            self.close()
            return CellResult("infrastructure", "", message=str(error))
        except BaseException:
            self.close()
            raise

    def _run(self, cells: Sequence[str], limits: Limits) -> CellResult:
        exchange = CellExchange(cells, limits.output_chars)
        verdict, seconds = self._remote.drive(exchange, limits.seconds)
        text = exchange.text()
        if verdict == "result":
            failure = exchange.failure
            if failure is None:
                return CellResult("ok", text, seconds=seconds)
            outcome: Outcome = "memory" if failure.memory else "error"
            return CellResult(outcome, text, failure.exception, failure.message, failure.line, seconds)
        self._remote.ended = f"an earlier cell of the session ended it ({verdict})"
        how = self._remote.close(patience=0.5 if verdict == "ended" else 0.0)
        outcome, message = outcome_of_ending(verdict, how, limits, self._limits.memory_mb)
        return CellResult(outcome, text, message=message, seconds=seconds)


def outcome_of_ending(verdict: str, how: dict[str, Any], limits: Limits, memory_mb: int) -> tuple[Outcome, str]:
    """Determine why a session ended.

    Args:
        verdict: the verdict of `Exchange.drive`, any except `result`.
        how: the warm process's report, from `Remote.close`.
        limits: limits of the cell or command.
        memory_mb: memory limit of the session in MiB.

    Returns:
        the outcome, and a message that explains it.

    Raises:
        InfrastructureError: the warm process itself has ended, so the outcome is unknown.
    """
    if "lost" in how:
        raise InfrastructureError(how["lost"])
    if verdict == "timeout":
        return "timeout", f"over {limits.seconds:g} s"
    if verdict == "output_limit":
        return "output_limit", f"over {limits.output_chars} characters of output"
    if how.get("memory"):
        return "memory", f"over {memory_mb} MiB of memory"
    return (
        "killed",
        "its result was forged" if verdict == "forged" else f"the process ended with status {how.get('status')}",
    )


class Interpreter:
    """A warm Python process that runs each program in a fresh, isolated session.

    Args:
        limits: default limits of a cell.
        isolation: `auto` uses the best level that this machine offers, at least `reduced`. `full` and `reduced` require
            at least that level. `none` applies limits only: the program can use the network and all files.
        preload: modules to import once in the warm process, such as "numpy"; see docs/interpreter.md for their cost.
        visible: directories that programs may read besides /usr and Python's own, such as those of a toolchain.
        python: executable of the Python that runs the programs, such as that of another virtual environment. It needs
            IPython. Empty for the current one.
        variables: environment variables of programs besides PATH, HOME, TMPDIR, LANG and the thread counts.
        libraries: what programs may import besides the standard library, IPython and `preload`: names of modules or of
            installed distributions. What a library requires comes with it. Nothing else that is installed is visible.

    Raises:
        UserError: this machine does not offer the isolation level, or a module or library is not installed.

    Example:
        with Interpreter(Limits(seconds=2)) as interpreter:
            print(interpreter.run("1 / 0").outcome)  # error
            with interpreter.session() as session:
                session.run("x = 20")
                print(session.run("x + 1").text)  # the output as IPython shows it
    """

    def __init__(
        self,
        limits: Limits | None = None,
        isolation: Isolation = "auto",
        preload: Sequence[str] = (),
        visible: Sequence[str] = (),
        python: str = "",
        variables: Mapping[str, str] | None = None,
        libraries: Sequence[str] = DEFAULT_LIBRARIES,
    ) -> None:
        if isolation not in _STRATEGIES:
            raise UserError(f"isolation {isolation!r} is not one of {', '.join(_STRATEGIES)}")
        self.limits = limits or Limits()
        if python:
            self._python = other_python(python, tuple(name.partition(".")[0] for name in preload))
        else:
            self._python = own_python()
            for name in preload:
                if importlib.util.find_spec(name.partition(".")[0]) is None:
                    raise UserError(f"interpreter preload: no module named '{name}' is installed")
        self._asked, self._preload, self._visible = isolation, tuple(preload), tuple(visible)
        self._variables, self._libraries = dict(variables or {}), tuple(libraries)
        self._open()

    def _open(self) -> None:
        reasons = []
        for strategy in _STRATEGIES[self._asked]:
            try:
                warm = WarmProcess(
                    strategy, self._preload, self._visible, self._python, self._variables, self._libraries
                )
            except InfrastructureError as error:
                reasons.append(f"{'privileges' if strategy == 'root' else 'user namespace'}: {error}")
                continue
            if self._asked == "full" and warm.level != "full":
                missing = ", ".join(name for name, there in warm.layers.items() if not there)
                warm.stop()
                reasons.append(f"missing: {missing}")
                continue
            self._warm, self._owner = warm, os.getpid()
            self._finalizer: Callable[[], object] = weakref.finalize(self, _stop_in_owner, warm, os.getpid())
            return
        raise UserError(
            f"cannot isolate programs on this machine ({'; '.join(reasons)}): allow user namespaces or run as root,"
            " or pass isolation='none', which lets programs use the network and all files"
        )

    @property
    def isolation(self) -> str:
        """The isolation level in force: `full`, `reduced` or `none`."""
        return self._warm.level

    @property
    def layers(self) -> dict[str, bool]:
        """Each isolation layer by name, and whether it is in force."""
        return dict(self._warm.layers)

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the warm process and all its sessions."""
        self._finalizer()

    def start(self, make: Callable[[WarmProcess], T]) -> T:
        """Create an object that owns a fresh session; restarts the warm process once if it has ended.

        Args:
            make: creates the object, given the warm process.

        Raises:
            UserError: no session can be started, even with a new warm process.
        """
        if os.getpid() != self._owner:  # this process is a fork; the warm process belongs to its parent
            self._open()
        try:
            return make(self._warm)
        except InfrastructureError:
            self.close()
            self._open()
        try:
            return make(self._warm)
        except InfrastructureError as error:
            raise UserError(f"the interpreter cannot start sessions: {error}") from error

    def session(self, limits: Limits | None = None, module: bool = False, unnumbered: int = 0) -> Session:
        """Start a fresh session whose cells share state.

        Args:
            limits: limits of each cell.
            module: run programs as an imported module instead of a notebook: `__name__` is not "__main__", there is no
                kernel command line, and `asyncio.run` works (a kernel runs cells inside its event loop).
            unnumbered: number of cells before the one that tracebacks call `Cell In[1]`.

        Raises:
            UserError: no session can be started.
        """
        return self.start(lambda warm: Session(warm, limits or self.limits, module, unnumbered))

    @overload
    def run(self, code: str, limits: Limits | None = None, given: str = "") -> CellResult: ...  # type: ignore[overload-overlap]

    @overload
    def run(self, code: Sequence[str], limits: Limits | None = None, given: str = "") -> list[CellResult]: ...

    def run(
        self, code: str | Sequence[str], limits: Limits | None = None, given: str = ""
    ) -> CellResult | list[CellResult]:
        """Run a program in a fresh session.

        Args:
            code: one cell, or a list of cells. They run one after the other, even after a cell that raised.
            limits: limits of each cell.
            given: code that runs before the cells and has neither a number nor a result; tracebacks call it
                `Cell In[0]`. If it ends the session, the cells are `killed`.

        Returns:
            one result for one cell, a list of results for a list. Cells after one that ended the session are `killed`,
            with a message that says so.
        """
        with self.session(limits, unnumbered=1 if given else 0) as session:
            if given:
                session.run(given)
            if isinstance(code, str):
                return session.run(code)
            return [session.run(cell) for cell in code]


def _stop_in_owner(warm: WarmProcess, owner: int) -> None:
    if os.getpid() == owner:
        warm.stop()


_UNBOUNDED = {
    "memory control group": "memory of a session is counted every 50 ms and may exceed its limit in between;"
    " not bounded: buffers of the kernel (sockets, pipes)",
    "process-count control group": "not bounded: processes of several sessions together",
    "user id of its own": "sessions side by side share one limit of 64 processes",
    "process-id namespace": "not bounded: memory of a program's children together, number of processes, disk space",
}
_REMEDIES = {
    "user id of its own": "run as root (in a container: with CAP_SYS_ADMIN) for the level full",
    "memory control group": "make a control group this user may write to, such as"
    " systemd-run --user --scope -p Delegate=yes COMMAND",
    "process-count control group": "as for memory; version 2 needs +pids in cgroup.subtree_control",
    "seccomp filter": "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or ARM64",
    "Landlock": "Linux 5.13 or newer with lsm=landlock; sessions work without it",
}


def describe_isolation() -> list[str]:
    """List the isolation layers that this machine offers, with remedies for missing ones (`reflectioncoder doctor`)."""
    try:
        with Interpreter() as interpreter:
            lines = [f"interpreter isolation: {interpreter.isolation}"]
            for name, there in interpreter.layers.items():
                remedy = "" if there else f": {_REMEDIES[name]}" if name in _REMEDIES else ""
                lines.append(f"  {'yes' if there else 'no '} {name}{remedy}")
                if not there and name in _UNBOUNDED:
                    lines.append(f"      {_UNBOUNDED[name]}")
            return lines
    except UserError as error:
        allow = "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
        return ["interpreter isolation: none", f"  {error}", f"  user namespaces are allowed with: {allow}"]
