"""Control groups (cgroups), version 1 or 2: one for the warm process, and beside it one for each session's memory.

A session's limit never changes while it runs, whatever its neighbours do. The groups of sessions are used again,
because making and removing one costs more than moving a process.
"""

import os
from pathlib import Path


def _own_groups(controller: str) -> list[Path]:
    """Directories in which this process may be able to create a cgroup (v1: below its own, v2: beside it)."""
    found = []
    for entry in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = entry.split(":", 2)
        if controller in names.split(","):
            found.append(Path("/sys/fs/cgroup") / controller / path.lstrip("/"))
        elif not names:
            own = Path("/sys/fs/cgroup") / path.lstrip("/")
            found += [own, own.parent]
    return found


_LIMITS = {"memory": ("memory.limit_in_bytes", "memory.max"), "pids": ("pids.max",)}


class ControlGroup:
    """A cgroup of one controller that holds the warm process and what it starts, except for processes that join others.

    The control files are opened before the root file system is replaced and later used through their descriptors.

    Args:
        controller: "memory" or "pids".
        joined: the group that this process has joined before. In version 2 it may have this controller, too.

    Raises:
        OSError: no cgroup of this controller can be created.
    """

    def __init__(self, controller: str, joined: "ControlGroup | None" = None) -> None:
        self.fds: dict[str, int] = {}
        self._free: list[SessionGroup] = []
        self._made = 0
        if joined is not None and (joined.path / _LIMITS[controller][-1]).exists():
            self._open(joined.path, controller, _LIMITS[controller][-1])
            return
        for parent in _own_groups(controller):
            self._sweep(parent)
            group = parent / f"reflectioncoder-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            limit = next((name for name in _LIMITS[controller] if (group / name).exists()), None)
            try:
                if limit is None:
                    raise OSError("controller not delegated")
                self._open(group, controller, limit)
                (group / "cgroup.procs").write_text("0")
                return
            except OSError:
                self._close()
                group.rmdir()
        raise OSError(f"cannot create a control group for {controller}")

    def _open(self, group: Path, controller: str, limit: str) -> None:
        self.path, self._limit = group, limit
        self._events = "memory.oom_control" if "limit_in_bytes" in limit else "memory.events"
        if controller == "pids":
            self.fds["limit"] = os.open(group / limit, os.O_WRONLY)
        self.fds["out"] = os.open(group.parent / "cgroup.procs", os.O_WRONLY)
        self.fds["parent"] = os.open(group.parent, os.O_RDONLY | os.O_DIRECTORY)

    @staticmethod
    def _sweep(parent: Path) -> None:
        """Remove empty groups left behind by a warm process that was killed."""
        for stale in parent.glob("reflectioncoder-*"):
            if not Path("/proc", stale.name.split("-")[1]).exists():
                try:
                    stale.rmdir()
                except OSError:
                    pass  # owned by another user or still in use: ignore

    def _close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def set_limit(self, value: int) -> None:
        """Set the number of processes, of the controller "pids"."""
        os.pwrite(self.fds["limit"], str(value).encode(), 0)

    def session(self, limit: int, processes: int) -> "SessionGroup":
        """Return an empty group for a session, which its processes join; give it back by `end`.

        Args:
            limit: memory in bytes.
            processes: number of processes, which only version 2 limits here.

        Raises:
            OSError: a group cannot be made.
        """
        while self._free:
            group = self._free.pop()
            try:
                group.set_limit(limit)
                return group
            except OSError:  # memory of the last session, such as its files, is still there
                group.remove()
        self._made += 1
        name = f"{self.path.name}-{self._made}"
        group = SessionGroup(self.fds["parent"], name, self._limit, self._events, processes)
        group.set_limit(limit)
        return group

    def end(self, group: "SessionGroup") -> None:
        """Take back the group of a session whose processes have all ended."""
        self._free.append(group)

    def leave(self) -> None:
        """Move this process back to the parent group, and remove the groups; all sessions have ended."""
        for group in self._free:
            group.remove()
        try:
            os.write(self.fds["out"], b"0")
            os.rmdir(self.path.name, dir_fd=self.fds["parent"])
        except OSError:
            pass  # the next start removes it
        self._close()


class SessionGroup:
    """The memory control group of one session at a time.

    Args:
        parent: descriptor of the directory to create it in.
        name: name of the group.
        limit, events: names of its control files.
        processes: limit on its processes, if it has this controller.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: int, name: str, limit: str, events: str, processes: int) -> None:
        self._parent, self._name = parent, name
        self._value = 0
        os.mkdir(name, dir_fd=parent)
        self._limit = self._events = self._members = -1
        try:
            self._limit = os.open(f"{name}/{limit}", os.O_WRONLY, dir_fd=parent)
            self._events = os.open(f"{name}/{events}", os.O_RDONLY, dir_fd=parent)
            self._members = os.open(f"{name}/cgroup.procs", os.O_WRONLY, dir_fd=parent)
            directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
            if "pids.max" in os.listdir(directory):
                most = os.open("pids.max", os.O_WRONLY, dir_fd=directory)
                os.write(most, str(processes).encode())
                os.close(most)
            os.close(directory)
        except OSError:
            self.remove()
            raise

    def set_limit(self, value: int) -> None:
        """Set the limit in bytes."""
        if value != self._value:
            os.pwrite(self._limit, str(value).encode(), 0)
            self._value = value

    def join(self) -> None:
        """Move this process, and so all its future descendants, into the group."""
        os.write(self._members, b"0")

    def kills(self) -> int:
        """Return how many processes the kernel has killed in the group for exceeding the limit, of all its sessions."""
        for line in os.pread(self._events, 4096, 0).decode().splitlines():
            name, value = line.split()
            if name == "oom_kill":
                return int(value)
        return 0

    def remove(self) -> None:
        """Close and remove the group."""
        for fd in (self._limit, self._events, self._members):
            if fd >= 0:
                os.close(fd)
        try:
            os.rmdir(self._name, dir_fd=self._parent)
        except OSError:
            pass  # the next start removes it
