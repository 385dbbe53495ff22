"""The warm, isolated Python interpreter: runs programs cell by cell and prints what a notebook prints.

Reflection data is made by running programs that a model wrote and showing it the text of their failure (section 3.1
and figure 1 of the paper, which uses Jupyter kernels). Here one warm process per `Interpreter` imports IPython once and
forks a fresh session per program. This side is the judge: wall clock, output cap and the end of a process are what it
saw itself, not what the program says. A run past its limit is a timeout whatever it reports; one that ends without a
signed result is `killed`. What this does not stop is said in `sandbox/session.py`.
"""

import os
import select
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectioncoder.errors import UserError
from reflectioncoder.sandbox.owner import START_SECONDS, Exchange, InfrastructureError, WarmProcess

Outcome = Literal["ok", "error", "timeout", "memory", "output_limit", "killed", "infrastructure"]
Isolation = Literal["auto", "full", "reduced", "none"]

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


class Session:
    """One program's process: cells run in it share state, as in a notebook. Made by `Interpreter.session`."""

    def __init__(self, warm: WarmProcess, limits: Limits) -> None:
        self._warm, self._limits = warm, limits
        self._ended: str | None = None
        self._ready = False
        self._id: int | None = None
        command_r, self._command = os.pipe()
        self._output, output_w = os.pipe()
        self._result, result_w = os.pipe()
        theirs = [command_r, output_w, result_w]
        try:
            request = {"do": "new", "memory_mb": limits.memory_mb, "seconds": limits.seconds, "folder": warm.folder}
            self._id = warm.ask(request, theirs)["id"]
        except BaseException:
            self.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (self._command, self._output, self._result):
            os.set_blocking(fd, False)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, patience: float = 0.0) -> dict[str, Any]:
        """Kill whatever the session still runs; safe to call twice.

        Args:
            patience: seconds to wait for a session that is ending by itself, so that its exit status is seen.

        Returns:
            how the session's first process ended, as the warm process saw it.
        """
        how: dict[str, Any] = {}
        if self._command >= 0:
            for fd in (self._command, self._output, self._result):
                os.close(fd)
            self._command = self._output = self._result = -1
            self._ended = self._ended or "the session is closed"
            if self._id is not None:
                try:
                    how = self._warm.ask({"do": "kill", "id": self._id, "patience": patience})
                except InfrastructureError as error:  # then its death has killed the session already
                    how = {"lost": str(error)}
        return how

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
        if self._ended is not None:
            return CellResult("killed", "", message=f"not run: {self._ended}")
        try:
            result = self._run([code.encode("utf-8", "surrogatepass") for code in cells], limits or self._limits)
        except InfrastructureError as error:
            self._ended = "the session was lost"
            self.close()
            return CellResult("infrastructure", "", message=str(error))
        except BaseException:
            self.close()
            raise
        return result

    def _run(self, cells: Sequence[bytes], limits: Limits) -> CellResult:
        if not self._ready:
            self._wait_until_ready()
        exchange = Exchange(cells, limits.output_chars)
        started = time.monotonic()
        verdict = exchange.drive(self._command, self._output, self._result, started + limits.seconds)
        seconds = time.monotonic() - started
        if verdict == "result" and seconds <= limits.seconds:
            failure = exchange.failure
            if failure is None:
                return CellResult("ok", exchange.text, seconds=seconds)
            outcome: Outcome = "memory" if failure.memory else "error"
            return CellResult(outcome, exchange.text, failure.exception, failure.message, failure.line, seconds)
        if verdict == "result" or seconds > limits.seconds:
            verdict = "timeout"
        self._ended = f"an earlier cell of the session ended it ({verdict})"
        how = self.close(patience=0.5 if verdict == "ended" else 0.0)
        if "lost" in how:
            raise InfrastructureError(how["lost"])
        if verdict == "timeout":
            return CellResult("timeout", exchange.text, message=f"over {limits.seconds:g} s", seconds=seconds)
        if verdict == "output_limit":
            message = f"over {limits.output_chars} characters of output"
            return CellResult("output_limit", exchange.text[: limits.output_chars], message=message, seconds=seconds)
        if how.get("memory"):
            message = f"over {self._limits.memory_mb} MiB of memory"
            return CellResult("memory", exchange.text, message=message, seconds=seconds)
        status = how.get("status")
        message = "its result was forged" if verdict == "forged" else f"the process ended with status {status}"
        return CellResult("killed", exchange.text, message=message, seconds=seconds)

    def _wait_until_ready(self) -> None:
        ready, _, _ = select.select([self._result], [], [], START_SECONDS)
        word = os.read(self._result, 1000) if ready else b""
        if word != b"R":
            detail = word[1:].decode("utf-8", "replace") or "no sign of life"
            raise InfrastructureError(f"a session of the interpreter did not start: {detail}")
        self._ready = True


class Interpreter:
    """A warm Python process that runs each program in a fresh, isolated session.

    Args:
        limits: default limits of a cell.
        isolation: `auto` takes the best that this machine gives but never less than `reduced`; `full` and `reduced`
            insist on at least that much; `none` (limits only: the program reaches network and files) must be asked for.

    Raises:
        UserError: the level cannot be had here.
    """

    def __init__(self, limits: Limits | None = None, isolation: Isolation = "auto") -> None:
        if isolation not in _STRATEGIES:
            raise UserError(f"isolation {isolation!r} is not one of {', '.join(_STRATEGIES)}")
        self.limits = limits or Limits()
        self._asked = isolation
        self._open()

    def _open(self) -> None:
        reasons = []
        for strategy in _STRATEGIES[self._asked]:
            try:
                warm = WarmProcess(strategy)
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

    def session(self, limits: Limits | None = None) -> Session:
        """A fresh session whose cells share state.

        Raises:
            UserError: no session can be started, even with a new warm process.
        """
        if os.getpid() != self._owner:  # our process was forked; the warm process belongs to the other one
            self._open()
        try:
            return Session(self._warm, limits or self.limits)
        except InfrastructureError:
            self.close()
            self._open()
        try:
            return Session(self._warm, limits or self.limits)
        except InfrastructureError as error:
            raise UserError(f"the interpreter cannot start sessions: {error}") from error

    def run(self, cells: Sequence[str], limits: Limits | None = None) -> list[CellResult]:
        """Run cells in a fresh session, all of them, also after one that raised.

        Returns:
            one result per cell; cells after one that ended the session are `killed` with a message that says so.
        """
        with self.session(limits) as session:
            return [session.run(code) for code in cells]


def _stop_in_owner(warm: WarmProcess, owner: int) -> None:
    if os.getpid() == owner:
        warm.stop()


def describe_isolation() -> list[str]:
    """What this machine gives, a line per layer, for `reflectioncoder doctor`."""
    try:
        with Interpreter() as interpreter:
            lines = [f"interpreter isolation: {interpreter.isolation}"]
            return lines + [f"  {'yes' if there else 'no '} {name}" for name, there in interpreter.layers.items()]
    except UserError as error:
        return ["interpreter isolation: none", f"  {error}"]
