"""The warm process behind `interpreter.py`: a fork server that imports IPython once.

Started with a clean environment; needs the standard library and IPython only. Three kinds of process live here: the
server (trusted), one first process per session (trusted, pid 1 of its namespace; killing it kills the session), and its
child, which runs the program (see `session.py`).
"""

import gc
import json
import os
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from reflectioncoder.sandbox.kernel import die_with_parent
from reflectioncoder.sandbox.layers import Isolation
from reflectioncoder.sandbox.notebook import Notebook, make_shell
from reflectioncoder.sandbox.session import as_ipython, become_program


class Server:
    """Answers the owner's requests (`new`, `kill`) one at a time, and ends when the owner does."""

    def __init__(
        self, control: socket.socket, owner: int, isolation: Isolation, notebook: Notebook, serve: Any
    ) -> None:
        self.control, self.owner, self.isolation, self.notebook, self.serve = control, owner, isolation, notebook, serve
        self.idle_kb = isolation.base_bytes // 1024  # every fork starts with as much
        self.live: dict[int, tuple[int, int, int]] = {}  # first process -> slot, memory limit, kernel kills before

    def loop(self) -> None:
        """Serve until the owner closes its end or dies."""
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.owner, select.POLLIN)
        while True:
            if any(fd == self.owner for fd, _ in poller.poll()):
                return
            message, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 4)
            if not message:
                return
            request = json.loads(message)
            try:
                reply = self._answer(request, fds)
            except OSError as error:
                reply = {"error": str(error)}
            for fd in fds:
                os.close(fd)
            self.control.send(json.dumps(reply).encode())

    def _answer(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if request["do"] == "new":
            return self._new(fds, request)
        if request["do"] == "memory":
            return {"kills": self._kernel_kills() - self.live[request["id"]][2]}
        peak = self._peak_kb(request["id"]) if request["peak"] else 0
        return {**self._kill(request["id"], request["patience"]), "peak_kb": peak}

    def stop(self) -> None:
        """Kill every session and leave the control groups."""
        for pid in list(self.live):
            self._kill(pid)
        for group in (self.isolation.memory, self.isolation.pids):
            if group:
                group.leave()

    def _kernel_kills(self) -> int:
        return self.isolation.memory.kills() if self.isolation.memory else 0

    def _cap(self, extra: list[int]) -> None:
        self.isolation.cap([memory for _, memory, _ in self.live.values()] + extra)

    def _new(self, fds: list[int], request: dict[str, Any]) -> dict[str, Any]:
        used = {slot for slot, _, _ in self.live.values()}
        # a slot is a user id; it also counts our own process number, so that no two warm processes share one
        slot = next(n for n in range(1 << 10) if n not in used)
        user = (self.isolation.outer_pid % (1 << 15) << 10) + slot
        self._cap([request["memory_mb"]])
        pid = self.isolation.fork()
        if pid == 0:
            try:
                self._first_process(user, fds, request)
            except BaseException as error:
                os.write(fds[1], f"X{type(error).__name__}: {error}".encode())
            os._exit(70)
        self.live[pid] = (slot, request["memory_mb"], self._kernel_kills())
        return {"id": pid}

    def _first_process(self, user: int, fds: list[int], request: dict[str, Any]) -> None:
        isolation = self.isolation
        die_with_parent()
        self.control.close()
        os.close(self.owner)
        for group in (isolation.memory, isolation.pids):
            for fd in group.fds.values() if group else ():
                os.close(fd)
        isolation.enter_session(user)
        program = os.fork()
        if program == 0:
            become_program(isolation, self.notebook, self.serve, user, fds, request)
        for fd in fds:
            os.close(fd)
        while True:
            pid, status = os.wait()
            if pid == program:
                os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))

    def _kill(self, pid: int, patience: float = 0.0) -> dict[str, Any]:
        """Kill a session with all it started, and wait until it is gone.

        Args:
            pid: its first process.
            patience: seconds to let a session that is ending by itself say how it ended.
        """
        if pid not in self.live:
            return {"error": f"no session {pid}"}
        done, status = os.waitpid(pid, os.WNOHANG)
        until = time.monotonic() + patience
        while not done and time.monotonic() < until:
            time.sleep(0.002)
            done, status = os.waitpid(pid, os.WNOHANG)
        doomed = _descendants(pid) if self.isolation.strategy == "none" else []
        if not done:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        while self.isolation.strategy == "none" and (doomed := doomed + self._strays()):
            for stray in doomed:
                try:
                    os.kill(stray, signal.SIGKILL)
                    os.waitpid(stray, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass
            doomed = []
        _, _, kills = self.live.pop(pid)
        self._cap([])
        return {"status": os.waitstatus_to_exitcode(status), "memory": self._kernel_kills() > kills}

    def _peak_kb(self, pid: int) -> int:
        """Most memory that a process still alive in a session has held, beyond what every fork starts with."""
        peaks = [0]
        for member in _descendants(pid):
            try:
                status = Path(f"/proc/{member}/status").read_text()
            except OSError:
                continue
            peaks += [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
        return max(max(peaks) - self.idle_kb, 0)

    def _strays(self) -> list[int]:
        """Without a process-id namespace: what a session left to us when its first process died."""
        return [pid for pid, parent in _parents().items() if parent == os.getpid() and pid not in self.live]


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    return found


def _descendants(root: int) -> list[int]:
    parents, found = _parents(), [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def main() -> None:
    """Take the descriptor of the control socket, the strategy and the visible folders from the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    del sys.path[0]  # where we were found
    for name in [name for name in sys.modules if name.split(".")[0] == "reflectioncoder"]:
        del sys.modules[name]  # what runs here is not for programs to import
    try:
        owner = os.pidfd_open(settings["owner"])
        if os.getppid() != settings["owner"]:
            return
        sys.path[:] = [path for path in sys.path if path] + settings["path"]
        sys.argv = [""]
        shell = make_shell()
        notebook = Notebook(shell)
        notebook.warm_up()
        serve = as_ipython(notebook)  # reads our own source, which is out of sight afterwards
        sys.path.insert(0, "")
        isolation = Isolation(settings["strategy"], settings["visible"])
    except Exception as error:
        text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
        control.send(json.dumps({"error": text}).encode())
        return
    server = Server(control, owner, isolation, notebook, serve)
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"level": isolation.level, "layers": isolation.layers()}).encode())
    try:
        server.loop()
    finally:
        server.stop()
        os._exit(0)
