"""The warm, isolated Python interpreter: runs programs cell by cell and prints what a notebook prints.

Reflection data is made by running programs that a model wrote and showing it the text of their failure (section 3.1
and figure 1 of the paper, which uses Jupyter kernels). Here one warm process per `Interpreter` imports IPython once and
forks a fresh session per program. This side is the judge: wall clock, output cap and the end of a process are what it
saw itself, not what the program says. A run past its limit is a timeout whatever it reports; one that ends without a
signed result is `killed`. What this does not stop is said in `sandbox/session.py`.
"""

import importlib.util
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from reflectioncoder.errors import InfrastructureError, UserError, first_line
from reflectioncoder.interpreter.exchange import CellExchange
from reflectioncoder.interpreter.warm_process import Remote, WarmProcess, other_python, own_python

Outcome = Literal["ok", "error", "timeout", "memory", "output_limit", "killed", "infrastructure"]
Isolation = Literal["auto", "full", "reduced", "none"]
T = TypeVar("T")

_STRATEGIES = {"auto": ("root", "user"), "full": ("root",), "reduced": ("root", "user"), "none": ("none",)}


@dataclass(frozen=True)
class Limits:
    """What one cell may use. Memory belongs to the session and is fixed when it starts.

    Args:
        seconds: wall-clock time of a cell.
        memory_mb: address space of a process beyond what an idle session has, in MiB.
        output_chars: characters of text; the rest is cut and the session ends.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    output_chars: int = 20_000

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "output_chars"):
            if not getattr(self, name) > 0:
                raise UserError(f"interpreter limit {name} = {getattr(self, name)!r}: give a number above 0")


@dataclass(frozen=True)
class CellResult:
    """What a cell did.

    Args:
        outcome: `ok`, `error` (it raised), or what ended it; `infrastructure` is our fault, never the program's.
        text: what a notebook shows for the cell, without terminal colours.
        exception: name of the exception's type.
        message: the exception's text, or why the run was ended.
        line: line of the cell at which the failing top-level statement stood (the first arrow of the traceback).
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
        """What went wrong: exception and first line of its message, at most 300 characters; empty where ok."""
        return "" if self.ok else ": ".join(filter(None, (self.exception, first_line(self.message or ""))))[:300]


class Session:
    """One program's process: cells run in it share state, as in a notebook. Made by `Interpreter.session`."""

    def __init__(self, warm: WarmProcess, limits: Limits, module: bool = False) -> None:
        self._limits = limits
        request = {"memory_mb": limits.memory_mb, "seconds": limits.seconds, "module": module}
        self._remote = Remote(warm, "cells", 1, request)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, peak: bool = False) -> int:
        """Kill whatever the session still runs; safe to call twice.

        Args:
            peak: whether to look how much memory it has held; costs a little time.

        Returns:
            the most memory that one of its living processes has held beyond an idle session's, in MiB, if asked for.
        """
        return int(self._remote.close(peak=peak).get("peak_kb", 0)) // 1024

    @property
    def ended(self) -> bool:
        """Whether it takes no more cells: it was closed, or a cell ended it."""
        return self._remote.ended is not None

    def run(self, code: str, limits: Limits | None = None) -> CellResult:
        """Run one cell.

        Args:
            code: the text of the cell.
            limits: other time and output limits for this cell only.

        Returns:
            what the cell did; a cell that breaks a limit also ends the session, and later cells are `killed` unrun.
        """
        return self.run_together([code], limits)

    def run_together(self, cells: Sequence[str], limits: Limits | None = None) -> CellResult:
        """Run cells as one program, such as a solution and its tests; stops at the first that raises.

        All are compiled before the first runs, each on its own, so that no cell can reach another's text. `ok` says
        that every statement of every cell has run to its end.

        Args:
            cells: their texts.
            limits: other time and output limits, for all of them together.
        """
        if self._remote.ended is not None:
            return CellResult("killed", "", message=f"not run: {self._remote.ended}")
        try:
            return self._run([code.encode("utf-8", "surrogatepass") for code in cells], limits or self._limits)
        except InfrastructureError as error:
            self._remote.ended = "the session was lost"
            self.close()
            return CellResult("infrastructure", "", message=str(error))
        except BaseException:
            self.close()
            raise

    def _run(self, cells: Sequence[bytes], limits: Limits) -> CellResult:
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
    """What ended a session, and the words for it.

    Args:
        verdict: of the exchange, any but `result`.
        how: the warm process's account of the session's end.
        limits: of the cell or command.
        memory_mb: of the session.

    Raises:
        InfrastructureError: the warm process itself is gone, so nothing is known.
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
        isolation: `auto` takes the best that this machine gives but never less than `reduced`; `full` and `reduced`
            insist on at least that much; `none` (limits only: the program reaches network and files) must be asked for.
        preload: modules to import once in the warm process, such as "numpy"; docs/interpreter.md says what they cost.
        visible: folders that programs may read besides /usr and Python's own, such as a toolchain's.
        python: the Python that programs run on, such as another virtual environment's, with IPython in it; empty for
            the one that runs this.
        variables: environment variables of programs, besides PATH, HOME, TMPDIR, LANG and the numbers of threads.

    Raises:
        UserError: the level cannot be had here, or a module cannot be imported.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        isolation: Isolation = "auto",
        preload: Sequence[str] = (),
        visible: Sequence[str] = (),
        python: str = "",
        variables: Mapping[str, str] | None = None,
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
        self._variables = dict(variables or {})
        self._open()

    def _open(self) -> None:
        reasons = []
        for strategy in _STRATEGIES[self._asked]:
            try:
                warm = WarmProcess(strategy, self._preload, self._visible, self._python, self._variables)
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
            f"programs cannot be isolated here ({'; '.join(reasons)}): allow user namespaces or run as root,"
            " or accept programs that reach network and files with isolation='none'"
        )

    @property
    def isolation(self) -> str:
        """The level in force: `full`, `reduced` or `none`."""
        return self._warm.level

    @property
    def layers(self) -> dict[str, bool]:
        """Each layer of isolation and whether it is in force."""
        return dict(self._warm.layers)

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the warm process and every session of it."""
        self._finalizer()

    def start(self, make: Callable[[WarmProcess], T]) -> T:
        """Start something that lives in a fresh session, with a new warm process where the present one is lost.

        Raises:
            UserError: no session can be started, even with a new warm process.
        """
        if os.getpid() != self._owner:  # our process was forked; the warm process belongs to the other one
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

    def session(self, limits: Limits | None = None, module: bool = False) -> Session:
        """A fresh session whose cells share state.

        Args:
            limits: of each cell.
            module: run programs as an imported module and not as a notebook: `__name__` is not "__main__", there is no
                kernel's command line, and `asyncio.run` works, which it does not inside a kernel's event loop.

        Raises:
            UserError: no session can be started.
        """
        return self.start(lambda warm: Session(warm, limits or self.limits, module))

    @overload
    def run(self, code: str, limits: Limits | None = None) -> CellResult: ...  # type: ignore[overload-overlap]

    @overload
    def run(self, code: Sequence[str], limits: Limits | None = None) -> list[CellResult]: ...

    def run(self, code: str | Sequence[str], limits: Limits | None = None) -> CellResult | list[CellResult]:
        """Run a program in a fresh session.

        Args:
            code: one cell, or several that run one after the other, also after one that raised.
            limits: of each cell.

        Returns:
            one result for one cell, a list of them for a list; cells after one that ended the session are `killed`
            with a message that says so.
        """
        with self.session(limits) as session:
            if isinstance(code, str):
                return session.run(code)
            return [session.run(cell) for cell in code]


def _stop_in_owner(warm: WarmProcess, owner: int) -> None:
    if os.getpid() == owner:
        warm.stop()


_REMEDIES = {
    "user id of its own": "run as root (in a container: with CAP_SYS_ADMIN) for the level full",
    "memory control group": "make a control group this user may write to, such as"
    " systemd-run --user --scope -p Delegate=yes COMMAND",
    "process-count control group": "as for memory; version 2 needs +pids in cgroup.subtree_control",
    "seccomp filter": "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or ARM64",
    "Landlock": "Linux 5.13 or newer with lsm=landlock; sessions work without it",
}


def describe_isolation() -> list[str]:
    """What this machine gives, a line per layer, and what would give more; for `reflectioncoder doctor`."""
    try:
        with Interpreter() as interpreter:
            lines = [f"interpreter isolation: {interpreter.isolation}"]
            for name, there in interpreter.layers.items():
                remedy = "" if there else f": {_REMEDIES[name]}" if name in _REMEDIES else ""
                lines.append(f"  {'yes' if there else 'no '} {name}{remedy}")
            return lines
    except UserError as error:
        allow = "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
        return ["interpreter isolation: none", f"  {error}", f"  user namespaces are allowed with: {allow}"]
