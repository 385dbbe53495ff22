"""A small process that forks the trusted first process of each session, with its namespaces and mounts.

It is itself forked before IPython is imported, because the cost of a fork grows with the memory of the process. It
always prepares one first process ahead, on another core, while a program runs.
"""

import os
import signal
import socket
from contextlib import suppress

from reflectioncoder.sandbox.counting import keep_below
from reflectioncoder.sandbox.kernel import CLONE_NEWPID, die_with_parent, setns, unshare
from reflectioncoder.sandbox.layers import IsolationLayers

NAMESPACES = ("pid", "mnt", "ipc")
_USERS = 1 << 14  # user ids per warm process; they are reused after that many sessions


class Spawner:
    """The warm process's handle on the spawner.

    Args:
        isolation: the layers in force.
        private: descriptors of the warm process that sessions must not inherit.

    Raises:
        OSError: no process can be forked.
    """

    def __init__(self, isolation: IsolationLayers, private: list[int]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            try:
                die_with_parent()
                self._socket.close()
                for fd in private:
                    os.close(fd)
                _serve(theirs, isolation)
            finally:
                os._exit(0)
        theirs.close()
        self._socket.settimeout(60)

    def begin(self) -> None:
        """Let it prepare the first processes: from now on the mounts of the warm process do not change."""
        self._socket.send(b"!")

    def first_process(self) -> tuple[int, int, list[int]]:
        """Return the first process of a new session.

        Returns:
            its process id, the session's user number, and descriptors of its `NAMESPACES`, which the caller closes.
            Without a memory control group one more follows: the socket of `counting.keep_below`.

        Raises:
            OSError: the first process could not be created.
        """
        self._socket.send(b"!")
        message, fds, _, _ = socket.recv_fds(self._socket, 1000, len(NAMESPACES) + 1)
        if not message.startswith(b"="):
            raise OSError(message[1:].decode("utf-8", "replace") or "the process that starts sessions is gone")
        pid, user = message[1:].split()
        return int(pid), int(user), fds


def _serve(control: socket.socket, isolation: IsolationLayers) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps ended children
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    made = 0
    if not control.recv(1):
        return
    while True:
        user = (isolation.outer_pid % _USERS) * _USERS + made % _USERS
        made += 1
        message, fds = _make(isolation, user, own, control)
        if not control.recv(1):
            return
        socket.send_fds(control, [message], fds)
        for fd in fds:
            os.close(fd)


def _make(isolation: IsolationLayers, user: int, own: int, control: socket.socket) -> tuple[bytes, list[int]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            try:
                unshare(CLONE_NEWPID)
                pid = os.fork()
                if pid == 0:
                    control.close()
                    ours.close()
                    os.close(own)
                    _first_process(isolation, user, theirs)
                setns(own, CLONE_NEWPID)  # otherwise the next unshare is refused
            except OSError as error:
                return f"X{error}".encode(), []
        message, fds, _, _ = socket.recv_fds(ours, 1000, len(NAMESPACES) + 1)
    if message != b"R":
        return message or b"Xa session's first process ended at once", []
    return f"={pid} {user}".encode(), fds


def _first_process(isolation: IsolationLayers, user: int, told: socket.socket) -> None:
    try:
        die_with_parent()
        watcher, processes = None, isolation.enter_session(user)
        fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
        if processes is not None:
            watched, watcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            fds.append(watched.detach())
        socket.send_fds(told, [b"R"], fds)
        for fd in fds:
            os.close(fd)
        told.close()
    except OSError as error:
        told.send(f"X{error}".encode())
        os._exit(70)
    # It reaps what the program leaves to it, so that the kernel adds the processor time of all of that to its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if watcher is not None and processes is not None:
        keep_below(watcher, processes, isolation.owner_in_proc(user), _reap)
    while True:
        signal.sigwait({signal.SIGCHLD})
        _reap()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
