"""The warm, isolated Python interpreter: runs programs cell by cell and prints what a notebook prints.

Reflection data is made by running programs that a model wrote and showing it the text of their failure (section 3.1
and figure 1 of the paper, which uses Jupyter kernels). Here one warm process per `Interpreter` imports IPython once and
forks a fresh session per program. This side is the judge: wall clock, output cap and the end of a process are what it
saw itself, not what the program says. A run past its limit is a timeout whatever it reports; one that ends without a
signed result is `killed`. What this does not stop: a program that goes looking for our frames in its own process can
still forge a result (see `_interpreter_child`).
"""

import codecs
import importlib.util
import json
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reflectioncoder.errors import UserError

Outcome = Literal["ok", "error", "timeout", "memory", "output_limit", "killed", "infrastructure"]
Isolation = Literal["auto", "full", "reduced", "none"]

_CHILD = Path(__file__).with_name("_interpreter_child.py")
_STRATEGIES = {"auto": ("root", "user"), "full": ("root",), "reduced": ("root", "user"), "none": ("none",)}
_START_SECONDS = 60.0  # for the warm process and for a session to come up; generous, machines are shared
_NONCE_BYTES = 16
_RESULT = struct.Struct("<BiII")
_VERDICTS: tuple[Outcome, ...] = ("ok", "error", "memory")
_LONGEST_RESULT = 1 << 15


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


class _InfrastructureError(Exception):
    """The warm process or a session could not be had; never the program's fault."""


class _WarmProcess:
    """The owner's handle on one fork server."""

    def __init__(self, strategy: str) -> None:
        spec = importlib.util.find_spec("IPython")
        if spec is None or spec.origin is None:
            raise UserError("the interpreter needs IPython: pip install ipython==8.24.0")
        site = str(Path(spec.origin).parent.parent)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        self.lock = threading.Lock()
        self.folder = tempfile.mkdtemp(prefix="reflectioncoder-") if strategy == "none" else None
        visible = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, site}
        settings = {
            "strategy": strategy,
            "owner": os.getpid(),
            "path": [site],
            "visible": sorted(visible | {os.path.realpath(path) for path in visible}),
        }
        home = self.folder or "/tmp"
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": home + "/.ipython"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-P", str(_CHILD), str(theirs.fileno()), json.dumps(settings)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
                env=environment,
            )
        try:
            hello = self._receive()
        except BaseException:
            self.stop()
            raise
        self.level: str = hello["level"]
        self.layers: dict[str, bool] = hello["layers"]

    def _receive(self) -> dict[str, Any]:
        self.control.settimeout(_START_SECONDS)
        try:
            data = self.control.recv(1 << 16)
        except OSError as error:
            raise _InfrastructureError(f"no answer from the interpreter's warm process: {error}") from error
        if not data:
            raise _InfrastructureError("the interpreter's warm process ended unexpectedly")
        reply: dict[str, Any] = json.loads(data)
        if "error" in reply:
            raise _InfrastructureError(reply["error"])
        return reply

    def ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        with self.lock:
            try:
                socket.send_fds(self.control, [json.dumps(request).encode()], fds)
            except OSError as error:
                raise _InfrastructureError(f"the interpreter's warm process is gone: {error}") from error
            return self._receive()

    def stop(self) -> None:
        """Close the control socket, on which the server kills its sessions and ends; make sure it did."""
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class Session:
    """One program's process: cells run in it share state, as in a notebook. Made by `Interpreter.session`."""

    def __init__(self, warm: _WarmProcess, limits: Limits) -> None:
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
                except _InfrastructureError as error:  # then its death has killed the session already
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
        if self._ended is not None:
            return CellResult("killed", "", message=f"not run: {self._ended}")
        try:
            result = self._run(code, limits or self._limits)
        except _InfrastructureError as error:
            self._ended = "the session was lost"
            self.close()
            return CellResult("infrastructure", "", message=str(error))
        except BaseException:
            self.close()
            raise
        return result

    def _run(self, code: str, limits: Limits) -> CellResult:
        if not self._ready:
            self._wait_until_ready()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        source = code.encode("utf-8", "surrogatepass")
        exchange = _Exchange(len(source).to_bytes(4, "little") + source + nonce, nonce, limits.output_chars)
        started = time.monotonic()
        verdict = exchange.drive(self._command, self._output, self._result, started + limits.seconds)
        seconds = time.monotonic() - started
        if verdict == "result" and seconds <= limits.seconds:
            outcome, line, name, message = exchange.parsed
            return CellResult(outcome, exchange.text, name, message, line, seconds)
        if verdict == "result" or seconds > limits.seconds:
            verdict = "timeout"
        self._ended = f"an earlier cell of the session ended it ({verdict})"
        how = self.close(patience=0.5 if verdict == "ended" else 0.0)
        if "lost" in how:
            raise _InfrastructureError(how["lost"])
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
        ready, _, _ = select.select([self._result], [], [], _START_SECONDS)
        word = os.read(self._result, 1000) if ready else b""
        if word != b"R":
            detail = word[1:].decode("utf-8", "replace") or "no sign of life"
            raise _InfrastructureError(f"a session of the interpreter did not start: {detail}")
        self._ready = True


class _Exchange:
    """One cell's traffic: sends the code, collects text and result, and notices every limit."""

    def __init__(self, to_send: bytes, nonce: bytes, output_chars: int) -> None:
        self._to_send, self._nonce, self._cap = memoryview(to_send), nonce, output_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        self._chars = 0
        self._answer = b""
        self.parsed: tuple[Outcome, int | None, str | None, str | None] = ("killed", None, None, None)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces) + self._decoder.decode(b"", final=True)

    def drive(self, command: int, output: int, result: int, deadline: float) -> str:
        """Until a signed result, a limit or the end: `result`, `timeout`, `output_limit`, `forged` or `ended`."""
        poller = select.poll()
        poller.register(command, select.POLLOUT)
        poller.register(output, select.POLLIN)
        poller.register(result, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            events = dict(poller.poll(left * 1000 + 1))
            if command in events:
                try:
                    self._to_send = self._to_send[os.write(command, self._to_send) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    self._to_send = self._to_send[:0]
                if not self._to_send:
                    poller.unregister(command)
            if output in events and not self._read_output(output, poller):
                return "output_limit"
            if result in events:
                data = os.read(result, 1 << 16)
                self._answer += data
                state = self._judge() if data else "ended"
                if state:
                    # all that was written before the result is in the pipe by now
                    while deadline > time.monotonic() and (more := self._drain(output)) is not None:
                        if not more:
                            return "output_limit"
                    return state
        return "timeout"

    def _read_output(self, output: int, poller: select.poll) -> bool:
        more = self._drain(output)
        if more is None:  # every writer has closed it; polling on would spin
            poller.unregister(output)
        return more is not False

    def _drain(self, output: int) -> bool | None:
        """Read once. None: nothing there; False: over the cap."""
        try:
            data = os.read(output, 1 << 16)
        except BlockingIOError:
            return None
        if not data:
            return None
        piece = self._decoder.decode(data)
        self._pieces.append(piece)
        self._chars += len(piece)
        return self._chars <= self._cap

    def _judge(self) -> str | None:
        """`result` once the answer is complete and carries the nonce; `forged` when it cannot become that."""
        answer = self._answer
        if not self._nonce.startswith(answer[:_NONCE_BYTES]) or len(answer) > _LONGEST_RESULT:
            return "forged"
        start = _NONCE_BYTES + _RESULT.size
        if len(answer) < start:
            return None
        kind, line, name_size, message_size = _RESULT.unpack(answer[_NONCE_BYTES:start])
        if kind >= len(_VERDICTS):
            return "forged"
        if len(answer) < start + name_size + message_size:
            return None
        name = answer[start : start + name_size].decode("utf-8", "replace")
        message = answer[start + name_size : start + name_size + message_size].decode("utf-8", "replace")
        failed = kind != 0
        where = line if failed and line > 0 else None
        self.parsed = (_VERDICTS[kind], where, name or None, message if failed else None)
        return "result"


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
                warm = _WarmProcess(strategy)
            except _InfrastructureError as error:
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
        except _InfrastructureError:
            self.close()
            self._open()
        try:
            return Session(self._warm, limits or self.limits)
        except _InfrastructureError as error:
            raise UserError(f"the interpreter cannot start sessions: {error}") from error

    def run(self, cells: Sequence[str], limits: Limits | None = None) -> list[CellResult]:
        """Run cells in a fresh session, all of them, also after one that raised.

        Returns:
            one result per cell; cells after one that ended the session are `killed` with a message that says so.
        """
        with self.session(limits) as session:
            return [session.run(code) for code in cells]


def _stop_in_owner(warm: _WarmProcess, owner: int) -> None:
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
