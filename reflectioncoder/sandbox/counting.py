"""Limits the memory of a session where there are no control groups: its first process counts, and kills.

The count is taken every `SECONDS`. Each process counts with its private memory and with the shared memory that it has
mapped. A fork of the warm process does not count with what it shares with it; a process that has executed another
program is recognised by the owner of its files in /proc, which a program cannot change. Not counted is the kernel's
own memory, such as buffers of sockets and pipes. Files that belong to no file system (`memfd_create`) could not be
counted either, so the seccomp filter refuses them here.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator

SECONDS = 0.05
DOUBTFUL = 4  # shared memory that may be counted twice is not, but at most up to this many times the limit


def keep_below(control: socket.socket, processes: int, owner: int, reap: Callable[[], None]) -> None:
    """Wait for the session's memory limit, and kill the session once it uses more; never returns.

    Args:
        control: receives the limit, and the memory of the warm process, in bytes; gets a byte if the limit is exceeded.
        processes: descriptor of a /proc that shows all processes of the session.
        owner: user id of the session's programs.
        reap: collects the processes that have ended; called at each count.
    """
    asked = control.recv(100).split()
    if len(asked) != 2:
        os._exit(0)
    limit, base = map(int, asked)
    control.settimeout(SECONDS)
    while True:
        try:
            control.recv(1)
            os._exit(0)  # the session has ended
        except TimeoutError:
            reap()
        counted, most = used_bytes(processes, owner, base)
        if counted > limit or most > DOUBTFUL * limit:
            control.send(b"M")
            os.kill(-1, signal.SIGKILL)
            os._exit(0)


def used_bytes(processes: int, owner: int, base: int) -> tuple[int, int]:
    """Return the memory of a session, and an upper bound for it, in bytes.

    Args:
        processes: descriptor of a /proc that shows its processes.
        owner: user id of its programs. In /proc, the files of a fork of the warm process belong to another, because
            such a process hides its memory (`seccomp.hide_memory`).
        base: memory of the warm process, which its forks share.
    """
    files = os.statvfs("/tmp")
    in_files = (files.f_blocks - files.f_bfree) * files.f_frsize
    counted = most = in_files + _detached(processes)
    for user, private, shared in _memory(processes):
        private -= base if user != owner else 0
        counted += max(private, 0) + max(shared - in_files, 0)  # processes may map the same files
        most += max(private, 0) + shared
    return counted, most


def _memory(processes: int) -> Iterator[tuple[int, int, int]]:
    """Owner of the files in /proc, private and shared memory in bytes, of every process but the first."""
    for pid in os.listdir(processes):
        if not pid.isdigit() or pid == "1":
            continue
        try:
            user = os.stat(f"{pid}/status", dir_fd=processes).st_uid
            lines = _read(processes, f"{pid}/status").splitlines()
        except OSError:  # it has ended
            continue
        fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
        private, shared = (int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
        yield user, private, shared


def _detached(processes: int) -> int:
    """Bytes of the shared memory segments (`shmget`) that no process has mapped."""
    try:
        heading, *rows = _read(processes, "sysvipc/shm").splitlines()
    except (OSError, ValueError):
        return 0
    names = heading.split()
    attached, resident = names.index("nattch"), names.index("rss")
    return sum(int(row.split()[resident]) for row in rows if row.split()[attached] == "0")


def _read(folder: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY, dir_fd=folder)
    try:
        data = b""
        while piece := os.read(fd, 1 << 16):
            data += piece
        return data.decode("utf-8", "replace")
    finally:
        os.close(fd)
