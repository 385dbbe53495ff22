"""Control groups, version 1 or 2: one cap for everything that a warm process and its sessions use together."""

import os
from pathlib import Path


def _own_groups(controller: str) -> list[Path]:
    """Folders in which this process may be able to make a control group (v1: below its own, v2: beside it)."""
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
    """One controller's cap over the warm process and everything it starts.

    Files are opened before the root is replaced and used through their descriptors afterwards.
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
        raise OSError(f"no control group for {controller} can be made here")

    @staticmethod
    def _sweep(parent: Path) -> None:
        """Remove empty groups that a killed process of ours left behind."""
        for stale in parent.glob("reflectioncoder-*"):
            if not Path("/proc", stale.name.rsplit("-", 1)[1]).exists():
                try:
                    stale.rmdir()
                except OSError:
                    pass  # not ours, or still in use: not worth failing for

    def _close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def set_limit(self, value: int) -> None:
        """Set the cap (bytes or processes)."""
        os.pwrite(self.fds["limit"], str(value).encode(), 0)

    def kills(self) -> int:
        """How many processes the kernel has killed for exceeding the memory cap."""
        for line in os.pread(self.fds["events"], 4096, 0).decode().splitlines():
            name, value = line.split()
            if name == "oom_kill":
                return int(value)
        return 0

    def leave(self) -> None:
        """Go back to where we came from and remove the group."""
        try:
            os.write(self.fds["out"], b"0")
            os.rmdir(self.name, dir_fd=self.fds["parent"])
        except OSError:
            pass  # the next start sweeps it up
        self._close()
