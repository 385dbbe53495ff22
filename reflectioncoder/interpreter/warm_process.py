"""The trusted side of a warm process: starts it, asks it for sessions, and judges what comes out of them."""

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
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from reflectioncoder.errors import UserError

START_SECONDS = 60.0  # for the warm process and for a session to come up; generous, machines are shared
NONCE_BYTES = 16
_FAILURE = struct.Struct("<?III")
_LONGEST_RESULT = 1 << 15
_PACKAGES = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from reflectioncoder.sandbox.server import main; main()"


class InfrastructureError(Exception):
    """The warm process or a session could not be had; never the program's fault."""


class Python(NamedTuple):
    """A Python with IPython: its program, the folders it lives in, and the one that IPython is imported from."""

    executable: str
    folders: tuple[str, ...]
    site: str


def own_python() -> Python:
    """The one we run on. Raises UserError where it has no IPython."""
    spec = importlib.util.find_spec("IPython")
    if spec is None or spec.origin is None:
        raise UserError("the interpreter needs IPython: pip install ipython==8.24.0")
    folders = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    return Python(sys.executable, folders, str(Path(spec.origin).parent.parent))


_ASK = """\
import importlib.util, json, sys
found = importlib.util.find_spec("IPython")
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps([sys.version_info[:2], [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix],
                  found and found.origin, missing]))
"""


@cache
def other_python(executable: str, modules: tuple[str, ...] = ()) -> Python:
    """Another Python, such as a virtual environment's, asked about itself.

    Args:
        executable: its program.
        modules: what it must be able to import.

    Raises:
        UserError: it does not run, is too old or too new, or lacks IPython or one of the modules.
    """
    try:
        command = [executable, "-s", "-P", "-c", _ASK, *modules]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=True)
        version, folders, origin, missing = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UserError(f"interpreter python {executable}: does not run ({error})") from None
    if not [3, 11] <= version < [3, 13]:
        raise UserError(f"interpreter python {executable}: is {version[0]}.{version[1]}; 3.11 or 3.12 is needed")
    if not origin:
        raise UserError(f"interpreter python {executable}: needs IPython: {executable} -m pip install ipython==8.24.0")
    if missing:
        raise UserError(f"interpreter preload: no module named '{missing[0]}' is installed for {executable}")
    return Python(executable, tuple(folders), str(Path(origin).parent.parent))


class WarmProcess:
    """The owner's handle on one fork server.

    Args:
        strategy: how programs are isolated, see `layers.Isolation`.
        preload: modules to import before the first fork.
        visible: folders that programs may read besides the system's and Python's own.
        python: the Python that programs run on.
        variables: more environment variables of programs.

    Raises:
        InfrastructureError: the process does not come up.
    """

    def __init__(
        self,
        strategy: str,
        preload: Sequence[str] = (),
        visible: Sequence[str] = (),
        python: "Python | None" = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        python = python or own_python()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        self.lock = threading.Lock()
        self.folder = tempfile.mkdtemp(prefix="reflectioncoder-") if strategy == "none" else None
        shown = {*python.folders, python.site, *map(os.path.abspath, visible)}
        shown.add(str(Path(__file__).parents[1] / "sandbox"))  # the warm process imports half of it behind its walls
        settings = {
            "strategy": strategy,
            "owner": os.getpid(),
            "path": [python.site],
            "visible": sorted(shown | {os.path.realpath(path) for path in shown}),
            "preload": list(preload),
        }
        home = self.folder or "/tmp"
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": home + "/.ipython"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment |= variables or {}
        with theirs:
            self.process = subprocess.Popen(
                [python.executable, "-s", "-P", "-c", _START, _PACKAGES, str(theirs.fileno()), json.dumps(settings)],
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
        self.control.settimeout(START_SECONDS)
        try:
            data = self.control.recv(1 << 16)
        except OSError as error:
            raise InfrastructureError(f"no answer from the interpreter's warm process: {error}") from error
        if not data:
            raise InfrastructureError("the interpreter's warm process ended unexpectedly")
        reply: dict[str, Any] = json.loads(data)
        if "error" in reply:
            raise InfrastructureError(reply["error"])
        return reply

    def ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        with self.lock:
            try:
                socket.send_fds(self.control, [json.dumps(request).encode()], fds)
            except OSError as error:
                raise InfrastructureError(f"the interpreter's warm process is gone: {error}") from error
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


class Remote:
    """A session's process seen from here: its pipes, and the one way to end it.

    Args:
        warm: who forks it.
        kind: `cells` or `commands`.
        outputs: how many separate outputs it has.
        request: what else the warm process must know: memory, seconds.
    """

    def __init__(self, warm: WarmProcess, kind: str, outputs: int, request: dict[str, Any]) -> None:
        self._warm = warm
        self.ended: str | None = None
        self._ready = False
        self._id: int | None = None
        self.command, self.result, self.outputs = -1, -1, [-1] * outputs
        theirs: list[int] = []
        try:
            command_r, self.command = os.pipe()
            self.result, result_w = os.pipe()
            theirs = [command_r, result_w]
            for place in range(outputs):
                self.outputs[place], output_w = os.pipe()
                theirs.append(output_w)
            self._id = warm.ask({"do": "new", "kind": kind, "folder": warm.folder, **request}, theirs)["id"]
        except BaseException:
            self.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (self.command, self.result, *self.outputs):
            os.set_blocking(fd, False)

    def close(self, patience: float = 0.0, peak: bool = False) -> dict[str, Any]:
        """Kill whatever the session still runs; safe to call twice.

        Args:
            patience: seconds to wait for a session that is ending by itself, so that its exit status is seen.
            peak: whether to look how much memory it has held (`peak_kb`).

        Returns:
            how the session's first process ended, as the warm process saw it; `lost` where that is gone itself.
        """
        how: dict[str, Any] = {}
        self.ended = self.ended or "the session is closed"
        if self._id is not None:
            request = {"do": "kill", "id": self._id, "patience": patience, "peak": peak}
            self._id = None
            try:
                how = self._warm.ask(request)
            except InfrastructureError as error:  # then its death has killed the session already
                how = {"lost": str(error)}
        # only now: a program whose pipe closes ends by itself, and then nothing is left to look at
        for fd in (self.command, self.result, *self.outputs):
            if fd >= 0:
                os.close(fd)
        self.command, self.result, self.outputs = -1, -1, []
        return how

    def memory_kills(self) -> int:
        """How many processes the kernel has killed for want of memory since the session started."""
        return int(self._warm.ask({"do": "memory", "id": self._id})["kills"])

    def drive(self, exchange: "Exchange", seconds: float) -> tuple[str, float]:
        """Let an exchange run, at most so long.

        Returns:
            its verdict (see `Exchange.drive`), `timeout` whatever it says where the limit was reached, and the time.
        """
        if not self._ready:
            self._wait_until_ready()
        started = time.monotonic()
        verdict = exchange.drive(self.command, self.outputs, self.result, started + seconds)
        took = time.monotonic() - started
        return ("timeout" if took > seconds and verdict != "output_limit" else verdict), took

    def _wait_until_ready(self) -> None:
        ready, _, _ = select.select([self.result], [], [], START_SECONDS)
        word = os.read(self.result, 1000) if ready else b""
        if word != b"R":
            detail = word[1:].decode("utf-8", "replace") or "no sign of life"
            raise InfrastructureError(f"a session of the interpreter did not start: {detail}")
        self._ready = True


class Failure(NamedTuple):
    """What the program's process tells of a cell that raised: claims, good enough for what is no success anyway."""

    memory: bool
    line: int | None
    exception: str | None
    message: str


class Exchange(ABC):
    """One request's traffic: sends it, collects text and answer, and notices every limit.

    Args:
        request: the bytes to send.
        output_chars: most characters of all outputs together.
    """

    def __init__(self, request: bytes, output_chars: int) -> None:
        self._to_send = memoryview(request)
        self._left = output_chars
        self._texts: dict[int, list[str]] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self.answer = b""

    @abstractmethod
    def judge(self) -> str | None:
        """`result` once the answer is complete, `forged` when it cannot become one, None while it may."""

    def text(self, place: int = 0) -> str:
        """What one of the outputs has said; bytes that are no UTF-8 are replaced."""
        return "".join(self._texts[place]) + self._decoders[place].decode(b"", final=True)

    def drive(self, command: int, outputs: Sequence[int], result: int, deadline: float) -> str:
        """Until the answer, a limit or the end: `result`, `timeout`, `output_limit`, `forged` or `ended`."""
        places = {fd: place for place, fd in enumerate(outputs)}
        for place in places.values():
            self._texts[place] = []
            self._decoders[place] = codecs.getincrementaldecoder("utf-8")("replace")
        poller = select.poll()
        poller.register(command, select.POLLOUT)
        for fd in (*outputs, result):
            poller.register(fd, select.POLLIN)
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
            for fd, place in places.items():
                if fd in events:
                    more = self._drain(fd, place)
                    if more is None:  # every writer has closed it; polling on would spin
                        poller.unregister(fd)
                    elif not more:
                        return "output_limit"
            if result in events:
                data = os.read(result, 1 << 16)
                self.answer += data
                state = self.judge() if data else "ended"
                if state:
                    # all that was written before the result is in the pipes by now
                    for fd, place in places.items():
                        while deadline > time.monotonic() and (more := self._drain(fd, place)) is not None:
                            if not more:
                                return "output_limit"
                    return state
        return "timeout"

    def _drain(self, fd: int, place: int) -> bool | None:
        """Read once. None: nothing there; False: over the cap."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return None
        if not data:
            return None
        piece = self._decoders[place].decode(data)
        self._texts[place].append(piece[: self._left])
        self._left -= len(piece)
        return self._left >= 0


class CellExchange(Exchange):
    """Cells to run as one, and the signature or the failure that comes back."""

    def __init__(self, cells: Sequence[bytes], output_chars: int) -> None:
        self._nonce = b"=" + secrets.token_bytes(NONCE_BYTES - 1)
        sized = [len(cell).to_bytes(4, "little") + cell for cell in cells]
        super().__init__(len(cells).to_bytes(4, "little") + b"".join(sized) + self._nonce, output_chars)
        self.failure: Failure | None = None

    def judge(self) -> str | None:
        """See `Exchange.judge`; a complete answer without a failure is the signature."""
        answer = self.answer
        if not answer.startswith(b"E"):
            if answer == self._nonce:
                return "result"
            return None if self._nonce.startswith(answer) else "forged"
        start = 1 + _FAILURE.size
        if len(answer) < start:
            return None
        memory, line, name_size, message_size = _FAILURE.unpack(answer[1:start])
        if start + name_size + message_size > _LONGEST_RESULT:
            return "forged"
        if len(answer) < start + name_size + message_size:
            return None
        texts = answer[start : start + name_size], answer[start + name_size : start + name_size + message_size]
        name, message = (text.decode("utf-8", "replace") for text in texts)
        self.failure = Failure(memory, line or None, name or None, message)
        return "result"


class CommandExchange(Exchange):
    """A command to run, and how it ended: a JSON object of a process that the command cannot reach."""

    def __init__(self, request: dict[str, Any], output_chars: int) -> None:
        body = json.dumps(request).encode()
        super().__init__(len(body).to_bytes(4, "little") + body, output_chars)
        self.ending: dict[str, Any] = {}

    def judge(self) -> str | None:
        """See `Exchange.judge`."""
        if not self.answer.endswith(b"\n"):
            return None if len(self.answer) < _LONGEST_RESULT else "forged"
        try:
            self.ending = json.loads(self.answer)
        except ValueError:
            return "forged"
        return "result"
