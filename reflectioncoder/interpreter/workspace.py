"""Runs commands, such as compilers and programs in other languages, in the interpreter's isolation."""

from __future__ import annotations

import base64
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reflectioncoder.errors import InfrastructureError, UserError
from reflectioncoder.interpreter.exchange import CommandExchange
from reflectioncoder.interpreter.interpreter import Interpreter, Limits, Outcome, outcome_of_ending
from reflectioncoder.interpreter.warm_process import Remote, WarmProcess


@dataclass(frozen=True)
class ProgramResult:
    """The result of running a command.

    Args:
        outcome: `ok` for exit status 0, `error` for any other, `killed` for a signal or a lost session, or the limit
            that was exceeded. `infrastructure` is a failure of the interpreter itself, never of the program.
        stdout, stderr: its output; bytes that are not UTF-8 are replaced.
        status: exit status, or minus the number of the signal that ended it; None if a limit ended it.
        message: why it was ended; empty if it ended by itself.
        seconds: wall-clock time.
        peak_mb: peak resident memory of its largest process, in MiB; 0 if unknown.
    """

    outcome: Outcome
    stdout: str
    stderr: str
    status: int | None = None
    message: str = ""
    seconds: float = 0.0
    peak_mb: int = 0

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with exit status 0."""
        return self.outcome == "ok"


class Workspace:
    """A fresh, isolated working directory in which commands run one after the other; created by `workspace`.

    Files that a command writes are kept for the next command. Processes that it leaves running are killed.
    """

    def __init__(self, warm: WarmProcess, limits: Limits) -> None:
        self._limits = limits
        request = {"memory_mb": limits.memory_mb, "seconds": limits.seconds}
        self._remote = Remote(warm, "commands", 2, request)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes and discard the directory; may be called twice."""
        self._remote.close()

    def processor_seconds(self) -> float:
        """Return the processor time that its commands have used so far; 0 if the workspace is closed."""
        return self._remote.processor_seconds()

    def run(
        self,
        argv: Sequence[str],
        files: Mapping[str, str | bytes] | None = None,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        made: bool = False,
    ) -> ProgramResult:
        """Write files, then run one command to its end.

        Args:
            argv: the command, looked up in PATH (/usr/local/bin:/usr/bin:/bin), and its arguments.
            files: contents of files to write first, by path relative to the working directory.
            stdin: its standard input.
            env: environment variables besides PATH, HOME, TMPDIR and LANG.
            limits: time and output limits for this command instead of the workspace's.
            made: whether earlier commands produced the executable. If it then cannot be started, for example because
                it is a library, the program is at fault and the outcome is `error`.

        Raises:
            UserError: a file lies outside the working directory, or the command cannot be started and `made` is not
                set.
        """
        for name in files or {}:
            if name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"file {name!r}: must lie below the program's working directory")
        if self._remote.ended is not None:
            return ProgramResult("killed", "", "", message=f"not run: {self._remote.ended}")
        limits = limits or self._limits
        request = {
            "argv": list(argv),
            "files": {name: _base64(content) for name, content in (files or {}).items()},
            "stdin": _base64(stdin),
            "env": dict(env or {}),
        }
        exchange = CommandExchange(request, limits.output_chars)
        try:
            verdict, seconds = self._remote.drive(exchange, limits.seconds)
            if verdict != "result":
                self._remote.ended = f"an earlier command ended it ({verdict})"
                how = self._remote.close(patience=0.5 if verdict == "ended" else 0.0)
                outcome, message = outcome_of_ending(verdict, how, limits, self._limits.memory_mb)
                return ProgramResult(outcome, exchange.text(0), exchange.text(1), None, message, seconds)
            ending = exchange.ending
            killed = ending.get("status") == -signal.SIGKILL and self._remote.memory_kills() > 0
        except InfrastructureError as error:
            self._remote.ended = "the session was lost"
            self.close()
            return ProgramResult("infrastructure", "", "", message=str(error))
        except BaseException:
            self.close()
            raise
        if "refused" in ending:
            if made:
                return ProgramResult("error", "", "", None, ending["refused"], seconds)
            raise UserError(f"{ending['refused']}; check that it is installed in a directory that programs can read")
        status, peak = int(ending["status"]), int(ending["peak_kb"]) // 1024
        outcome = "ok" if status == 0 else "error" if status > 0 else "killed"
        message = f"ended by {signal.Signals(-status).name}" if status < 0 else ""
        if killed:
            outcome, message = "memory", f"over {self._limits.memory_mb} MiB of memory"
        return ProgramResult(outcome, exchange.text(0), exchange.text(1), status, message, seconds, peak)


def workspace(interpreter: Interpreter, limits: Limits | None = None) -> Workspace:
    """Create a fresh working directory for commands, in the isolation of an open interpreter.

    Args:
        interpreter: an open interpreter.
        limits: limits of each command; None for the interpreter's.

    Raises:
        UserError: no session can be started.
    """
    return interpreter.start(lambda warm: Workspace(warm, limits or interpreter.limits))


def _base64(content: str | bytes) -> str:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return base64.b64encode(data).decode()
