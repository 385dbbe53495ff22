"""The layers of isolation around a warm process and its sessions, outermost first.

The warm process gets control groups, namespaces and a private root. Each session adds a process-id namespace, mounts
and a user id of its own. The program's process adds resource limits and drops every privilege. The module uses only the
standard library, because the warm process must start fast and stay small. Not protected against: kernel bugs in the
system calls that programs may still make.
"""

import ctypes
import os
import resource
from pathlib import Path
from typing import Any

from reflectioncoder.sandbox import landlock, seccomp
from reflectioncoder.sandbox.cgroups import ControlGroup, SessionGroup
from reflectioncoder.sandbox.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    PR_CAPBSET_DROP,
    PR_SET_NO_NEW_PRIVS,
    adopt_orphans,
    check_call,
    die_with_parent,
    libc,
    lock,
    mount,
    unshare,
)
from reflectioncoder.sandbox.root import View, private_root

FIRST_SESSION_UID = 700_000  # far above the ids of users and services
TMPFS_MB = 64
PROCESSES_PER_SESSION = 64
SPARE_MB = 32


class IsolationLayers:
    """The layers in force around the warm process, and what each session adds.

    Args:
        strategy: `root` (uses root privileges), `user` (uses a user namespace) or `none` (resource limits and separate
            processes only).
        view: what stays readable inside the private root.
        groups: whether to use control groups if there are any.

    Raises:
        OSError: the kernel refuses a layer that the strategy requires.
    """

    def __init__(self, strategy: str, view: View, groups: bool = True) -> None:
        self.strategy = strategy
        self.memory: ControlGroup | None = None
        self.pids: ControlGroup | None = None
        self.base_bytes = 0
        self.outer_pid, self._outer_uid = os.getpid(), os.getuid()
        self._below_tmp: list[tuple[str, str]] = []
        boxed = strategy != "none"
        with_landlock = boxed and landlock.version() > 0
        self.rules: landlock.PathRules | None = None
        self.filter: seccomp.SystemCallFilter | None = None
        filtered = boxed and seccomp.available()
        if strategy != "none":
            if groups:
                self._join_groups()
            if filtered:
                sockets, counted = landlock.confines_abstract_sockets(), self.memory is not None
                self.filter = seccomp.SystemCallFilter(unix_sockets=sockets, memory_files=counted)
            uid, gid = os.getuid(), os.getgid()
            if strategy == "user":
                unshare(CLONE_NEWUSER)
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
                Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
            else:
                try:  # programs set theirs to 1000, so the kernel kills them first even if lowering ours is refused
                    Path("/proc/self/oom_score_adj").write_text("-1000")
                except OSError:
                    pass
            self._become_first_process()
            unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
            self._below_tmp = private_root(view)
            # the warm process may import from below /tmp, and some libraries need a temporary directory on import
            mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m")
            self._show_below_tmp()
        else:
            adopt_orphans()
        if os.geteuid() == 0 or strategy == "user":
            capability = 0  # nothing has to gain capabilities by exec from here on
            while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
                capability += 1
        check_call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")
        if with_landlock:
            self.rules = landlock.PathRules("/tmp")

    def prepare(self) -> None:
        """Measure the warm process and prepare what each session needs; call this after all imports."""
        self.base_bytes = _memory_pages(1) * resource.getpagesize()
        limits = {
            resource.RLIMIT_FSIZE: TMPFS_MB * 2**20,
            resource.RLIMIT_NOFILE: 256,
            resource.RLIMIT_CORE: 0,
        }
        if self.strategy != "none":  # otherwise the count would include the user's own processes
            limits[resource.RLIMIT_NPROC] = PROCESSES_PER_SESSION
        hard = {kind: resource.getrlimit(kind)[1] for kind in limits}
        self._limits = [
            (kind, value if hard[kind] == resource.RLIM_INFINITY else min(value, hard[kind]))
            for kind, value in limits.items()
        ]
        self._address_space = _memory_pages(0) * resource.getpagesize()
        self._capabilities_header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        self._no_capabilities = (ctypes.c_uint32 * 6)()

    def _join_groups(self) -> None:
        try:
            self.memory = ControlGroup("memory")
            self.pids = ControlGroup("pids", self.memory)
        except OSError:
            pass  # `layers` reports it as missing, and the level becomes "reduced"

    def _become_first_process(self) -> None:
        """Continue in a child process that is pid 1 of a new process-id namespace; the original only waits for it.

        There are two reasons. From a user namespace, `setns` can return only to a process-id namespace that belongs to
        it. And when the warm process ends for any reason, the kernel kills every session with it.
        """
        unshare(CLONE_NEWPID)
        inner = os.fork()
        if inner == 0:
            die_with_parent()
            return
        for group in (self.memory, self.pids):
            if group:
                os.write(group.fds["out"], b"0")
        os.closerange(3, 256)
        _, status = os.waitpid(inner, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 255)

    def private(self) -> list[int]:
        """Return the descriptors that sessions must not inherit."""
        return [fd for group in (self.memory, self.pids) if group for fd in group.fds.values()]

    @property
    def level(self) -> str:
        """The isolation level: `full`, `reduced` or `none`."""
        if self.strategy == "none":
            return "none"
        return "full" if self.strategy == "root" and self.memory and self.pids and self.filter else "reduced"

    def layers(self) -> dict[str, bool]:
        """Return each layer by name and whether it is in force."""
        boxed = self.strategy != "none"
        return {
            "network namespace": boxed,
            "process-id namespace": boxed,
            "private read-only root": boxed,
            "user id of its own": self.strategy == "root",
            "memory control group": self.memory is not None,
            "process-count control group": self.pids is not None,
            "resource limits": True,
            "no new privileges": True,
            "seccomp filter": self.filter is not None,
            "Landlock": self.rules is not None,
        }

    def cap_processes(self, sessions: int) -> None:
        """Set the limit on all processes, for a number of live sessions."""
        if self.pids:
            self.pids.set_limit(8 + (PROCESSES_PER_SESSION + 4) * sessions)

    def session_bytes(self, memory_mb: int) -> int:
        """Limit on the memory of all processes of a session together, in bytes.

        Args:
            memory_mb: what one process may allocate, in MiB.
        """
        return self.base_bytes + (memory_mb + TMPFS_MB + 2 * SPARE_MB) * 2**20

    def memory_group(self, memory_mb: int) -> SessionGroup | None:
        """Return a memory control group for a session; None without control groups. Raises OSError."""
        if self.memory is None:
            return None
        return self.memory.session(self.session_bytes(memory_mb), PROCESSES_PER_SESSION + 4)

    def owner(self, slot: int) -> int:
        """User id of the programs of session number `slot`."""
        return FIRST_SESSION_UID + slot if self.strategy == "root" else 1000

    def owner_in_proc(self, slot: int) -> int:
        """User id that owns the files in /proc of a program that does not hide its memory; -1 if that of any does.

        A program that hides it belongs to root, which is the same user if root has made the user namespace.
        """
        return -1 if self.strategy == "user" and self._outer_uid == 0 else self.owner(slot)

    def enter_session(self, slot: int) -> int | None:
        """Mount a private /tmp and /proc; called in the trusted first process of session number `slot`.

        Returns:
            descriptor of a /proc that shows all processes of the session, if its memory has to be counted.
        """
        unshare(CLONE_NEWNS | CLONE_NEWIPC)
        owner, processes = self.owner(slot), None
        options = f"size={TMPFS_MB}m,nr_inodes=4096,mode=700,uid={owner},gid={owner}"
        mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
        self._show_below_tmp()
        if self.memory is None:  # programs hide from each other, and from the first process unless it is root
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
            processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            check_call(libc.umount2(b"/proc", MNT_DETACH), "umount /proc")
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2")
        if self.strategy == "user":  # if root made the namespace, the program's real user id owns these settings
            mount("/proc/sys", "/proc/sys", None, MS_BIND)
            lock("/proc/sys", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, recursive=False)
            if os.path.exists("/proc/sysrq-trigger"):
                mount("/dev/null", "/proc/sysrq-trigger", None, MS_BIND)
        return processes

    def _show_below_tmp(self) -> None:
        for source, target in self._below_tmp:
            if os.path.isdir(source):
                os.makedirs(target, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                Path(target).touch()
            mount(source, target, None, MS_BIND | MS_REC)

    def become_untrusted(self, slot: int, memory_mb: int | None, seconds: float) -> None:
        """Set the resource limits and drop every privilege; called in the process that will run the program.

        Each session runs this, and each memory page it touches is copied, so `prepare` does as much as possible ahead.

        Args:
            slot: session number, which determines the user id.
            memory_mb: address space in MiB that the process may use beyond its present size; None for no limit.
            seconds: time limit of a cell, which the parent process enforces. CPU time is limited to 20 times that plus
                60 s, in case a process outlives it.
        """
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
        for kind, value in self._limits:
            resource.setrlimit(kind, (value, value))
        limit_to(resource.RLIMIT_CPU, int(20 * seconds) + 60)
        if memory_mb is not None:
            limit_to(resource.RLIMIT_AS, self._address_space + memory_mb * 2**20)
        if self.strategy == "root":
            uid = self.owner(slot)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        check_call(libc.capset(self._capabilities_header, self._no_capabilities), "capset")
        die_with_parent()  # changing the user id has cleared it
        seccomp.hide_memory()
        if self.rules:
            self.rules.apply()
        if self.filter:
            self.filter.install()


def limit_to(kind: int, value: int) -> None:
    """Set the soft and hard limit of a resource, at most to its present hard limit."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _memory_pages(column: int) -> int:
    """Return a column of /proc/self/statm in pages: 0 is the address space, 1 the resident memory."""
    fields: Any = Path("/proc/self/statm").read_text().split()
    return int(fields[column])
