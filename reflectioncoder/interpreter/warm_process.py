"""Starts the warm process (the fork server of `sandbox/server.py`) and drives its sessions from the parent process."""

import errno
import importlib.util
import json
import os
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.errors import InfrastructureError, UserError
from reflectioncoder.interpreter.clock import SessionClock
from reflectioncoder.interpreter.exchange import Exchange
from reflectioncoder.interpreter.libraries import (
    Python,
    hidden_folders,
    package_folders,
    visible_packages,
)
from reflectioncoder.sandbox.usage import SessionUsage

START_SECONDS = 60.0  # timeout for the start of the warm process or of a session; long, because machines are shared
CONTROL_GROUPS = True  # tests switch them off
_PACKAGES = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from reflectioncoder.sandbox.server import main; main()"


def own_python() -> Python:
    """Return the current Python. Raises UserError if it has no IPython."""
    spec = importlib.util.find_spec("IPython")
    if spec is None or spec.origin is None:
        raise UserError("the interpreter needs IPython: pip install ipython==8.24.0")
    folders = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    return Python(sys.executable, folders, package_folders(sys.path, str(Path(spec.origin).parent.parent)))


def check_libraries(libraries: Sequence[str]) -> None:
    """Raise UserError if a library that programs may import is not installed for the current Python."""
    visible_packages(own_python(), libraries)


_ASK = """\
import importlib.util, json, sys
found = importlib.util.find_spec("IPython")
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps([sys.version_info[:2], [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix],
                  found and found.origin, sys.path, missing]))
"""


@cache
def other_python(executable: str, modules: tuple[str, ...] = ()) -> Python:
    """Inspect another Python, such as that of a virtual environment.

    Args:
        executable: path of the executable.
        modules: modules that it must be able to import.

    Raises:
        UserError: it does not run, its version is not 3.11 or 3.12, or IPython or one of the modules is missing.
    """
    try:
        command = [executable, "-s", "-P", "-c", _ASK, *modules]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=True)
        version, folders, origin, search_path, missing = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UserError(f"interpreter python {executable}: does not run ({error})") from None
    if not [3, 11] <= version < [3, 13]:
        raise UserError(f"interpreter python {executable}: is {version[0]}.{version[1]}; 3.11 or 3.12 is needed")
    if not origin:
        raise UserError(f"interpreter python {executable}: needs IPython: {executable} -m pip install ipython==8.24.0")
    if missing:
        raise UserError(f"interpreter preload: no module named '{missing[0]}' is installed for {executable}")
    return Python(executable, tuple(folders), package_folders(search_path, str(Path(origin).parent.parent)))


def _of_python(python: Python) -> list[str]:
    """Parts of a Python installation that programs see: executables, libraries and settings, without its packages."""
    parts = []
    for folder in dict.fromkeys(python.folders):
        if Path(folder, "pyvenv.cfg").exists():  # a virtual environment, whose `lib` holds packages only
            parts += [f"{folder}/pyvenv.cfg", *sorted(glob(f"{folder}/bin/python*"))]
        else:
            parts += [f"{folder}/{part}" for part in ("bin", "lib", "lib64", "share")]
    return parts


class WarmProcess:
    """The parent process's handle on one fork server.

    Args:
        strategy: `root`, `user` or `none`; see `layers.IsolationLayers`.
        preload: modules to import before the first fork.
        visible: directories that programs may read besides the system's and Python's own.
        python: the Python that runs the programs; None for the current one.
        variables: additional environment variables of programs.
        libraries: what programs may import besides the standard library, IPython and `preload`.

    Raises:
        InfrastructureError: the process does not start.
        UserError: a library is not installed.
    """

    def __init__(
        self,
        strategy: str,
        preload: Sequence[str] = (),
        visible: Sequence[str] = (),
        python: "Python | None" = None,
        variables: Mapping[str, str] | None = None,
        libraries: Sequence[str] = DEFAULT_LIBRARIES,
    ) -> None:
        python = python or own_python()
        packages = visible_packages(python, [*libraries, *(name.partition(".")[0] for name in preload)])
        shown = [*_of_python(python), *map(os.path.abspath, visible)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        self.lock = threading.Lock()
        self.folder = tempfile.mkdtemp(prefix="reflectioncoder-") if strategy == "none" else None
        view = {
            "visible": shown,
            "hidden": hidden_folders(shown, _PACKAGES),
            "packages": packages,
            "own": str(Path(__file__).parents[1] / "sandbox"),
        }
        settings = {
            "strategy": strategy,
            "groups": CONTROL_GROUPS,
            "owner": os.getpid(),
            "path": list(packages),
            "view": view,
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
                start_new_session=True,  # only the parent process handles Ctrl-C
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
        """Send one request with descriptors and wait for the answer. Raises InfrastructureError if there is none."""
        with self.lock:
            try:
                socket.send_fds(self.control, [json.dumps(request).encode()], fds)
            except OSError as error:
                raise InfrastructureError(f"the interpreter's warm process is gone: {error}") from error
            return self._receive()

    def stop(self) -> None:
        """Close the control socket, upon which the server kills its sessions and ends; kill it after 5 s."""
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _remedy(error: OSError) -> str:
    if error.errno != errno.EMFILE:
        return ""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"; this process may have {limit:,} (ulimit -n): raise that, or close sessions"


class Remote:
    """A session's process as seen from the parent process: its pipes, and the only way to end it.

    Args:
        warm: the warm process that forks it.
        kind: `cells` or `commands`.
        outputs: number of separate outputs: 1 for cells, 2 for commands.
        request: further settings for the warm process: memory limit in MiB, time limit in seconds, module mode.

    Raises:
        InfrastructureError: the warm process cannot start the session.
        UserError: this process has too many open files.
    """

    def __init__(self, warm: WarmProcess, kind: str, outputs: int, request: dict[str, Any]) -> None:
        self._warm = warm
        self.ended: str | None = None
        self._ready, self._used = False, False
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
        except OSError as error:  # such as too many open files, which a new warm process would not help
            self.close()
            raise UserError(f"cannot start a session of the interpreter: {error.strerror}{_remedy(error)}") from error
        except BaseException:
            self.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (self.command, self.result, *self.outputs):
            os.set_blocking(fd, False)

    def close(self, patience: float = 0.0, peak: bool = False) -> dict[str, Any]:
        """End the session and kill its processes; may be called twice.

        Args:
            patience: seconds to wait for the process to end by itself, so that its exit status is known.
            peak: whether to measure the peak memory (`peak_kb`).

        Returns:
            the warm process's report: `status`, `memory`, `peak_kb`. Only `lost`, with the reason, if the warm process
            has ended; empty if the session was already closed.
        """
        how: dict[str, Any] = {}
        self.ended = self.ended or "the session is closed"
        if self._id is not None:
            request = {"do": "kill", "id": self._id, "patience": patience, "peak": peak}
            self._id = None
            try:
                how = self._warm.ask(request)
            except InfrastructureError as error:  # its end has already killed the session
                how = {"lost": str(error)}
        # after the request: a program ends when its pipe closes, and then no status or memory could be read
        for fd in (self.command, self.result, *self.outputs):
            if fd >= 0:
                os.close(fd)
        self.command, self.result, self.outputs = -1, -1, []
        return how

    def memory_kills(self) -> int:
        """Return how many processes the kernel has killed for lack of memory since the session started."""
        return int(self._warm.ask({"do": "memory", "id": self._id})["kills"])

    def usage(self) -> SessionUsage:
        """Return what the session has used so far. Raises InfrastructureError if the warm process has ended."""
        return SessionUsage(*self._warm.ask({"do": "usage", "id": self._id})["usage"])

    def processor_seconds(self) -> float:
        """Return the processor time that the session has used so far; 0 if it has ended or was lost."""
        try:
            return self.usage().processor if self._id is not None else 0.0
        except InfrastructureError:
            return 0.0

    def counted_seconds(self, elapsed: float) -> float:
        """Return what a time limit counts of `elapsed` wall-clock seconds: processor time and sleep, but no waiting."""
        try:
            used = self.usage() if self._id is not None else SessionUsage()
        except InfrastructureError:
            return 0.0
        return max(used.processor, elapsed - used.waited)

    def drive(self, exchange: "Exchange", seconds: float) -> tuple[str, float]:
        """Run an exchange within a time limit.

        Args:
            exchange: the request.
            seconds: time limit, as `SessionClock` measures it.

        Returns:
            the verdict (see `Exchange.drive`) and the wall-clock time in seconds. The verdict is `timeout` whenever the
            time limit was exceeded, except after `output_limit`.

        Raises:
            InfrastructureError: the session did not start.
        """
        if not self._ready:
            self._wait_until_ready()
        clock = SessionClock(seconds, self.usage, self.usage() if self._used else SessionUsage())
        self._used = True
        verdict = exchange.drive(self.command, self.outputs, self.result, clock.left)
        took = clock.elapsed
        return ("timeout" if verdict != "output_limit" and clock.exceeded() else verdict), took

    def _wait_until_ready(self) -> None:
        poller = select.poll()  # not `select`, which takes no descriptor above 1,023
        poller.register(self.result, select.POLLIN)
        word = os.read(self.result, 1000) if poller.poll(START_SECONDS * 1000) else b""
        if word != b"R":
            detail = word[1:].decode("utf-8", "replace") or "no answer"
            raise InfrastructureError(f"a session of the interpreter did not start: {detail}")
        self._ready = True
