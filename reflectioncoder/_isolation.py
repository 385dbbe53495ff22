"""Linux isolation of the interpreter's warm process: namespaces, private root, control groups, privileges.

Only the standard library, because the file runs inside the warm process, which must start fast and hold little.
What it does *not* protect against today: kernel bugs reachable through ordinary system calls (there is no seccomp
filter yet), and programs of two sessions of the same warm process that seek each other out over abstract sockets.
"""

import ctypes
import os
import resource
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
NEW_ROOT = "/sys"  # a folder that every machine has and that holds nothing a program needs
FIRST_SESSION_UID = 700_000  # far from the ids of people and services
TMPFS_MB = 64
PROCESSES_PER_SESSION = 64
SPARE_MB = 32

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """`os.unshare`, which Python has only from 3.12 on."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd` (here: only to come back to our own)."""
    _check(_libc.setns(fd, kind), "setns")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PDEATHSIG)")


def adopt_orphans() -> None:
    """Daemonised grandchildren become our children, so that they can be found and killed."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(CHILD_SUBREAPER)")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    _check(_libc.mount(source.encode(), target.encode(), kind_bytes, flags, data.encode()), f"mount {target}")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _lock(target: str, flags: int, recursive: bool) -> None:
    """Add mount flags; mount_setattr (Linux 5.12) reaches submounts too, a plain remount only the top."""
    attributes = _MountAttr(attr_set=flags)
    depth = AT_RECURSIVE if recursive else 0
    size = ctypes.sizeof(attributes)
    if _libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), depth, ctypes.byref(attributes), size) != 0:
        _mount("", target, None, MS_REMOUNT | MS_BIND | flags)


def _private_root(visible: list[str], keep_proc: bool) -> list[tuple[str, str]]:
    """Replace the root by a read-only tmpfs into which only the interpreter's own folders are bound.

    Returns:
        (where it is, where it belongs) for each folder below /tmp, which every session covers with its own.
    """
    below_tmp: list[tuple[str, str]] = []
    _mount("", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID, "size=1m,mode=755")
    shown: list[str] = []
    for path in ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", *sorted(set(visible), key=len)]:
        if not os.path.isdir(path) or any(path == seen or path.startswith(seen + "/") for seen in shown):
            continue
        target = NEW_ROOT + path
        if path.startswith("/tmp/"):
            below_tmp.append((f"/.below_tmp/{len(below_tmp)}", path))
            target = NEW_ROOT + below_tmp[-1][0]
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path) and path.count("/") == 1:  # /bin -> usr/bin
            os.symlink(os.readlink(path), target)
            continue
        os.makedirs(target, exist_ok=True)
        _mount(path, target, None, MS_BIND | MS_REC)
        _lock(target, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=True)
        shown.append(path)
    for folder in ("proc", "tmp", "dev", "etc"):
        os.makedirs(f"{NEW_ROOT}/{folder}", exist_ok=True)
    for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/etc/ld.so.cache"):
        if os.path.exists(path):
            Path(NEW_ROOT + path).touch()
            _mount(path, NEW_ROOT + path, None, MS_BIND)
    for name, link in (("shm", "/tmp"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")):
        os.symlink(link, f"{NEW_ROOT}/dev/{name}")
    Path(f"{NEW_ROOT}/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    Path(f"{NEW_ROOT}/etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    if keep_proc:  # in a user namespace a new /proc may only be mounted where an old one is in sight
        _mount("/proc", f"{NEW_ROOT}/proc", None, MS_BIND | MS_REC)
    _lock(NEW_ROOT, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=False)
    os.chdir(NEW_ROOT)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    return below_tmp


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


class Isolation:
    """The layers in force around the warm process, and what each session adds.

    Args:
        strategy: `root` (real privileges), `user` (a user namespace) or `none` (limits and processes only).
        visible: folders that stay readable inside the private root.

    Raises:
        OSError: the kernel refuses a layer that this strategy needs.
    """

    def __init__(self, strategy: str, visible: list[str]) -> None:
        self.strategy = strategy
        self.memory: ControlGroup | None = None
        self.pids: ControlGroup | None = None
        self.base_bytes = _memory_pages(1) * resource.getpagesize()
        self.outer_pid = os.getpid()
        self._below_tmp: list[tuple[str, str]] = []
        if strategy != "none":
            self._join_groups()
            uid, gid = os.getuid(), os.getgid()
            if strategy == "user":
                unshare(CLONE_NEWUSER)
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
                Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
            else:
                try:  # programs raise theirs to 1000, so they go first even where we may not lower ours
                    Path("/proc/self/oom_score_adj").write_text("-1000")
                except OSError:
                    pass
            self._become_first_process()
            unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
            self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
            self._below_tmp = _private_root(visible, keep_proc=strategy == "user")
        else:
            adopt_orphans()
        if os.geteuid() == 0 or strategy == "user":
            capability = 0  # never executed from here on: dropping the bounding set only closes doors
            while _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
                capability += 1
        _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")

    def _join_groups(self) -> None:
        try:
            self.memory = ControlGroup("memory")
            self.pids = ControlGroup("pids")
        except OSError:
            pass  # reported as a missing layer; the level is then "reduced"

    def _become_first_process(self) -> None:
        """Go on in a child that is pid 1 of a namespace we own; what stays outside only waits for it.

        A user namespace may only come back (`setns`) to a process-id namespace of its own, and the death of the warm
        process, however it comes, takes every session with it.
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

    @property
    def level(self) -> str:
        """`full`, `reduced` or `none`."""
        if self.strategy == "none":
            return "none"
        return "full" if self.strategy == "root" and self.memory and self.pids else "reduced"

    def layers(self) -> dict[str, bool]:
        """Every layer and whether it is in force."""
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
        }

    def cap(self, live_mb: list[int]) -> None:
        """Fit the control groups to the sessions alive, given each one's memory limit."""
        if self.memory:
            total = sum(mb + TMPFS_MB + SPARE_MB for mb in live_mb) + SPARE_MB
            self.memory.set_limit(2 * self.base_bytes + total * 2**20)
        if self.pids:
            self.pids.set_limit(8 + (PROCESSES_PER_SESSION + 4) * len(live_mb))

    def fork(self) -> int:
        """Fork the trusted first process of a session, in a process-id namespace of its own."""
        if self.strategy == "none":
            return os.fork()
        unshare(CLONE_NEWPID)
        pid = os.fork()
        if pid:
            setns(self._own_pids, CLONE_NEWPID)  # else the next unshare is refused
        return pid

    def enter_session(self, slot: int) -> None:
        """In the trusted first process: private /tmp and /proc."""
        if self.strategy == "none":
            return
        unshare(CLONE_NEWNS | CLONE_NEWIPC)
        owner = FIRST_SESSION_UID + slot if self.strategy == "root" else 1000
        options = f"size={TMPFS_MB}m,nr_inodes=4096,mode=700,uid={owner},gid={owner}"
        _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
        for source, target in self._below_tmp:
            os.makedirs(target)
            _mount(source, target, None, MS_BIND | MS_REC)
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        if self.strategy == "user":  # where the user is root, the kernel's settings belong to the program's real id
            _mount("/proc/sys", "/proc/sys", None, MS_BIND)
            _lock("/proc/sys", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, recursive=False)
            if os.path.exists("/proc/sysrq-trigger"):
                _mount("/dev/null", "/proc/sysrq-trigger", None, MS_BIND)

    def become_untrusted(self, slot: int, memory_mb: int, seconds: float) -> None:
        """In the process that will run the program: limits first, then give up every privilege."""
        Path("/proc/self/oom_score_adj").write_text("1000")
        limits = {
            resource.RLIMIT_AS: _memory_pages(0) * resource.getpagesize() + memory_mb * 2**20,
            resource.RLIMIT_CPU: int(20 * seconds) + 60,
            resource.RLIMIT_FSIZE: TMPFS_MB * 2**20,
            resource.RLIMIT_NOFILE: 256,
            resource.RLIMIT_CORE: 0,
        }
        if self.strategy != "none":  # elsewhere the count would include the user's own processes
            limits[resource.RLIMIT_NPROC] = PROCESSES_PER_SESSION
        for kind, value in limits.items():
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        if self.strategy == "root":
            uid = FIRST_SESSION_UID + slot
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
        die_with_parent()  # a change of user id clears it


def _memory_pages(column: int) -> int:
    """Pages of this process: column 0 of statm is the address space, 1 what is resident."""
    fields: Any = Path("/proc/self/statm").read_text().split()
    return int(fields[column])
