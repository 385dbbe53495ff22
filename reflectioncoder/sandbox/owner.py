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
from collections.abc import Sequence
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


class WarmProcess:
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
                [sys.executable, "-s", "-P", "-c", _START, _PACKAGES, str(theirs.fileno()), json.dumps(settings)],
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


class Failure(NamedTuple):
    """What the program's process tells of a cell that raised: claims, good enough for what is no success anyway."""

    memory: bool
    line: int | None
    exception: str | None
    message: str


class Exchange:
    """The traffic of cells that run as one: sends the code, collects text and result, and notices every limit."""

    def __init__(self, cells: Sequence[bytes], output_chars: int) -> None:
        self._nonce = b"=" + secrets.token_bytes(NONCE_BYTES - 1)
        sized = [len(cell).to_bytes(4, "little") + cell for cell in cells]
        self._to_send = memoryview(len(cells).to_bytes(4, "little") + b"".join(sized) + self._nonce)
        self._cap = output_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        self._chars = 0
        self._answer = b""
        self.failure: Failure | None = None

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
        """`result` once the answer is complete; `forged` when it cannot become one."""
        answer = self._answer
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
