"""The warm process: a fork server that imports IPython once and forks a session per program.

`interpreter/warm_process.py` starts it with a clean environment. It needs only the standard library and IPython. There
are four kinds of processes:

- The server (trusted).
- The spawner, which makes first processes (trusted, `spawner.py`).
- One first process per session (trusted). It is pid 1 of the session's namespace, so killing it kills the session.
- The program's process (untrusted): a fork of the server that joins the session's namespaces (`session.py`).
"""

import gc
import importlib
import json
import os
import re
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.sandbox import __path__
from reflectioncoder.sandbox.cgroups import SessionGroup
from reflectioncoder.sandbox.finding import find_only
from reflectioncoder.sandbox.kernel import CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, die_with_parent, setns
from reflectioncoder.sandbox.layers import IsolationLayers
from reflectioncoder.sandbox.root import OWN_FOLDER, View, leave_own_folder
from reflectioncoder.sandbox.spawner import NAMESPACES, Spawner
from reflectioncoder.sandbox.usage import usage_of


@dataclass(frozen=True)
class Live:
    """A running session.

    Args:
        user: session number, which determines the user id.
        group: its memory control group, if there is one.
        kills: how many processes the kernel had killed in the group before the session started.
        watch: socket of `counting.keep_below`, where there is no group; -1 without one.
        first: process id of the first process; None without a process-id namespace.
        first_fd: pidfd of the first process; -1 without one.
        program_fd: pidfd of the program's process.
    """

    user: int
    group: SessionGroup | None
    kills: int
    watch: int
    first: int | None
    first_fd: int
    program_fd: int


class ForkServer:
    """Serves the parent process's requests (`new`, `memory`, `usage`, `kill`) one at a time; ends when that ends.

    Args:
        control: socket to the parent process.
        owner: pidfd of the parent process.
        isolation: the layers in force.
        spawner: makes first processes; None without a process-id namespace.
        become_program: turns a fork into the program's process, given user number, descriptors and request.
    """

    def __init__(
        self,
        control: socket.socket,
        owner: int,
        isolation: IsolationLayers,
        spawner: Spawner | None,
        become_program: Callable[[int, list[int], dict[str, Any]], None],
    ) -> None:
        self.control, self.owner, self.isolation, self.spawner = control, owner, isolation, spawner
        self.become_program = become_program
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if spawner else -1
        self.idle_kb = _status_kb("self", "RssAnon:")  # resident size that each fork starts with
        self.live: dict[int, Live] = {}  # key: pid of the program's process
        self.poller = select.poll()

    def loop(self) -> None:
        """Serve until the parent process closes its socket or ends."""
        self.poller.register(self.control, select.POLLIN)
        self.poller.register(self.owner, select.POLLIN)
        while True:
            ready = {fd for fd, _ in self.poller.poll()}
            if self.owner in ready:
                return
            for live in [live for live in self.live.values() if live.program_fd in ready]:
                self._program_ended(live)
            if self.control.fileno() not in ready:
                continue
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

    def _program_ended(self, live: Live) -> None:
        """Kill what a program has left running, so that its pipes close; `_kill` collects its exit status later."""
        self.poller.unregister(live.program_fd)
        if live.first is not None:
            _end(live.first_fd)

    def _answer(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if request["do"] == "new":
            return self._new(fds, request)
        if request["do"] == "memory":
            live = self.live[request["id"]]
            return {"kills": live.group.kills() - live.kills if live.group else 0}
        if request["do"] == "usage" and request["id"] in self.live:
            return {"usage": usage_of(self._members(request["id"]))}
        peak = self._peak_kb(request["id"]) if request["peak"] else 0
        return {**self._kill(request["id"], request["patience"]), "peak_kb": peak}

    def stop(self) -> None:
        """Kill every session and leave the control groups."""
        for pid in list(self.live):
            self._kill(pid)
        for group in (self.isolation.memory, self.isolation.pids):
            if group:
                group.leave()

    def _new(self, fds: list[int], request: dict[str, Any]) -> dict[str, Any]:
        self.isolation.cap_processes(len(self.live) + 1)
        group = self.isolation.memory_group(request["memory_mb"])
        kills = group.kills() if group else 0
        first, user, namespaces = self.spawner.first_process() if self.spawner else (None, 0, [])
        watch = namespaces.pop() if len(namespaces) > len(NAMESPACES) else -1
        try:
            first_fd = os.pidfd_open(first) if first is not None else -1
            if watch >= 0:
                base = self.isolation.base_bytes
                os.write(watch, b"%d %d" % (self.isolation.session_bytes(request["memory_mb"]) - base, base))
            if namespaces:
                setns(namespaces[0], CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                self._become(user, fds, namespaces, request, group)
        finally:
            if namespaces:
                setns(self.own_pids, CLONE_NEWPID)
            for fd in namespaces:
                os.close(fd)
        program_fd = os.pidfd_open(pid)
        self.poller.register(program_fd, select.POLLIN)
        self.live[pid] = Live(user, group, kills, watch, first, first_fd, program_fd)
        return {"id": pid}

    def _become(
        self, user: int, fds: list[int], namespaces: list[int], request: dict[str, Any], group: SessionGroup | None
    ) -> None:
        try:
            die_with_parent()
            if group:
                group.join()
            for fd, kind in zip(namespaces[1:], (CLONE_NEWNS, CLONE_NEWIPC), strict=False):
                setns(fd, kind)
            self.become_program(user, fds, request)
        except BaseException as error:
            os.write(fds[1], f"X{type(error).__name__}: {error}".encode())
        os._exit(70)

    def _kill(self, pid: int, patience: float = 0.0) -> dict[str, Any]:
        """Kill a session and everything it started, and wait until all of it has ended.

        Args:
            pid: process id of the program's process.
            patience: seconds to wait for the program's process to end by itself, so that its exit status is known.

        Returns:
            `status`: exit status, or minus the signal number; `memory`: whether the kernel killed a process for lack
            of memory. For an unknown session only `error`.
        """
        live = self.live.get(pid)
        if live is None:
            return {"error": f"no session {pid}"}
        done, status = os.waitpid(pid, os.WNOHANG)
        until = time.monotonic() + patience
        while not done and time.monotonic() < until:
            time.sleep(0.002)
            done, status = os.waitpid(pid, os.WNOHANG)
        if live.first is None:
            doomed = _descendants(pid)
            if not done:
                os.kill(pid, signal.SIGKILL)
        else:
            doomed = []
            _end(live.first_fd)
        if not done:
            _, status = os.waitpid(pid, 0)
        del self.live[pid]
        with suppress(KeyError):
            self.poller.unregister(live.program_fd)
        os.close(live.program_fd)
        if live.first is None:
            self._end_strays(doomed)
        else:
            _wait_for(live.first_fd)  # once it has ended, its namespace is empty
            os.close(live.first_fd)
        memory = False
        if live.watch >= 0:
            with suppress(OSError), socket.socket(fileno=live.watch) as watch:
                memory = watch.recv(1, socket.MSG_DONTWAIT) == b"M"
        if live.group is not None and self.isolation.memory is not None:
            memory = live.group.kills() > live.kills
            self.isolation.memory.end(live.group)
        self.isolation.cap_processes(len(self.live))
        return {"status": os.waitstatus_to_exitcode(status), "memory": memory}

    def _end_strays(self, doomed: list[int]) -> None:
        """Kill what a session left running, daemonised processes included; used without a process-id namespace."""
        while doomed := doomed + [
            pid for pid, parent in _parents().items() if parent == os.getpid() and pid not in self.live
        ]:
            for stray in doomed:
                try:
                    os.kill(stray, signal.SIGKILL)
                    os.waitpid(stray, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass
            doomed = []

    def _members(self, pid: int) -> list[int]:
        """Return a session's processes: the program's, the first process, and the descendants of both."""
        first = self.live[pid].first
        return [pid, *_descendants(pid), *((first, *_descendants(first)) if first is not None else ())]

    def _peak_kb(self, pid: int) -> int:
        """Return the highest peak memory among a session's live processes, beyond that of a fresh fork, in KiB."""
        peaks = [_status_kb(member, "VmHWM:") for member in [pid, *_descendants(pid)]]
        return max(max(peaks) - self.idle_kb, 0)


def _wait_for(process: int) -> None:
    poller = select.poll()  # not `select`, which takes no descriptor above 1,023
    poller.register(process, select.POLLIN)
    poller.poll()


def _end(process: int) -> None:
    with suppress(ProcessLookupError):  # it has already ended
        signal.pidfd_send_signal(process, signal.SIGKILL)


def _status_kb(pid: int | str, name: str) -> int:
    """Return a field of /proc/PID/status in KiB; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


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
    """Run the warm process; the command line holds the control socket's descriptor and the settings as JSON."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    control = socket.socket(fileno=os.dup(int(sys.argv[1])))  # a low number, away from those of `session.py`
    os.close(int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    try:
        owner = os.pidfd_open(settings["owner"])
        if os.getppid() != settings["owner"]:
            return
        view = View(**settings["view"])
        find_only(settings["path"], view.packages if settings["strategy"] == "none" else None)
        sys.argv = [""]
        isolation = IsolationLayers(settings["strategy"], view, settings["groups"])
        private = [control.fileno(), owner, *isolation.private()]
        spawner = Spawner(isolation, private) if isolation.strategy != "none" else None
        if spawner:
            __path__[:] = [OWN_FOLDER]
        become_program = _warm_up(isolation, private, settings["preload"])
        if spawner:
            leave_own_folder()
            spawner.begin()
        sys.path.insert(0, "")
        isolation.prepare()
        server = ForkServer(control, owner, isolation, spawner, become_program)
    except Exception as error:
        text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
        control.send(json.dumps({"error": text}).encode())
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "reflectioncoder"]:
        del sys.modules[name]  # programs do not see modules of this package
    for path in [path for path in sys.path_importer_cache if path == OWN_FOLDER or "reflectioncoder" in path]:
        del sys.path_importer_cache[path]
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"level": isolation.level, "layers": isolation.layers()}).encode())
    try:
        server.loop()
    finally:
        server.stop()
        os._exit(0)


def _warm_up(
    isolation: IsolationLayers, private: list[int], preload: list[str]
) -> Callable[[int, list[int], dict[str, Any]], None]:
    """Import IPython and the preloaded modules; done after the fork of the spawner, which must stay small."""
    from reflectioncoder.sandbox.own import OF_SESSIONS, import_own, own_namespace

    for name in OF_SESSIONS:
        import_own(name)
    from reflectioncoder.sandbox.notebook import Notebook, make_shell
    from reflectioncoder.sandbox.session import as_ipython, become_program, prepare_streams

    notebook = Notebook(make_shell())
    notebook.warm_up()
    serve = as_ipython(notebook)
    notebook.own = own_namespace(notebook.shell.user_ns)
    for name in preload:
        importlib.import_module(name)
    prepare_streams(notebook)

    def become(user: int, fds: list[int], request: dict[str, Any]) -> None:
        for fd in private:
            os.close(fd)
        become_program(isolation, notebook, serve, user, fds, request)

    return become
