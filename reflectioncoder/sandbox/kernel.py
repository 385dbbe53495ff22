"""Linux system calls that Python lacks: namespaces, mounts, prctl. Each raises an OSError that names the call."""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000

libc = ctypes.CDLL(None, use_errno=True)


def check_call(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move this process to new namespaces; `os.unshare` exists only from Python 3.12 on."""
    check_call(libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace that the descriptor `fd` refers to; `kind` is its CLONE_NEW... flag."""
    check_call(libc.setns(fd, kind), "setns")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends for any reason."""
    check_call(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PDEATHSIG)")


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that daemonised processes can be found and killed."""
    check_call(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(CHILD_SUBREAPER)")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    check_call(libc.mount(source.encode(), target.encode(), kind_bytes, flags, data.encode()), f"mount {target}")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def lock(target: str, flags: int, recursive: bool) -> None:
    """Add flags to a mount. Submounts are included only where mount_setattr exists (Linux 5.12), not by a remount."""
    attributes = _MountAttr(attr_set=flags)
    depth = AT_RECURSIVE if recursive else 0
    size = ctypes.sizeof(attributes)
    if libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), depth, ctypes.byref(attributes), size) != 0:
        mount("", target, None, MS_REMOUNT | MS_BIND | flags)
