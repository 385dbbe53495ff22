"""Control groups (cgroups), version 1 or 2: one limit for a warm process and all its sessions together."""

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


class ControlGroup:
    """A cgroup of one controller that holds the warm process and everything it starts.

    The control files are opened before the root file system is replaced and later used through their descriptors.

    Args:
        controller: "memory" or "pids".

    Raises:
        OSError: no cgroup of this controller can be created.
    """

    def __init__(self, controller: str) -> None:
        self.fds: dict[str, int] = {}
        limit_names = {"memory": ("memory.limit_in_bytes", "memory.max"), "pids": ("pids.max",)}[controller]
        for parent in _own_groups(controller):
            self._sweep(parent)
            group = parent / f"reflectioncoder-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            limit = next((name for name in limit_names if (group / name).exists()), None)
            try:
                if limit is None:
                    raise OSError("controller not delegated")
                self.fds["limit"] = os.open(group / limit, os.O_WRONLY)
                events = group / ("memory.oom_control" if "limit_in_bytes" in limit else "memory.events")
                if controller == "memory":
                    self.fds["events"] = os.open(events, os.O_RDONLY)
                self.fds["out"] = os.open(parent / "cgroup.procs", os.O_WRONLY)
                self.fds["parent"] = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
                (group / "cgroup.procs").write_text("0")
                self.name = group.name
                return
            except OSError:
                self._close()
                group.rmdir()
        raise OSError(f"cannot create a control group for {controller}")

    @staticmethod
    def _sweep(parent: Path) -> None:
        """Remove empty groups left behind by a warm process that was killed."""
        for stale in parent.glob("reflectioncoder-*"):
            if not Path("/proc", stale.name.rsplit("-", 1)[1]).exists():
                try:
                    stale.rmdir()
                except OSError:
                    pass  # owned by another user or still in use: ignore

    def _close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def set_limit(self, value: int) -> None:
        """Set the limit: bytes for "memory", number of processes for "pids"."""
        os.pwrite(self.fds["limit"], str(value).encode(), 0)

    def kills(self) -> int:
        """Return how many processes the kernel has killed for exceeding the memory limit."""
        for line in os.pread(self.fds["events"], 4096, 0).decode().splitlines():
            name, value = line.split()
            if name == "oom_kill":
                return int(value)
        return 0

    def leave(self) -> None:
        """Move this process back to the parent group and remove the group."""
        try:
            os.write(self.fds["out"], b"0")
            os.rmdir(self.name, dir_fd=self.fds["parent"])
        except OSError:
            pass  # the next start removes it
        self._close()
