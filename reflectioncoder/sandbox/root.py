"""Builds a private, read-only root file system: system programs and libraries, Python's directories, nothing else."""

import os
from pathlib import Path

from reflectioncoder.sandbox.kernel import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    check_call,
    libc,
    lock,
    mount,
)

NEW_ROOT = "/sys"  # exists on every machine, and programs do not need it


def private_root(visible: list[str]) -> list[tuple[str, str]]:
    """Replace the root by a read-only tmpfs that contains bind mounts of the system's and the given directories only.

    Args:
        visible: directories to show besides the system's.

    Returns:
        (present path, wanted path) of each visible directory below /tmp. Each session mounts its own /tmp and then
        binds these directories into it.

    Raises:
        OSError: a mount is refused.
    """
    below_tmp: list[tuple[str, str]] = []
    mount("", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID, "size=1m,mode=755")
    shown: list[str] = []
    for path in [
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/etc/alternatives",
        "/etc/fonts",
        *sorted(set(visible), key=len),
    ]:
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
        mount(path, target, None, MS_BIND | MS_REC)
        lock(target, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=True)
        shown.append(path)
    for folder in ("proc", "tmp", "dev", "etc"):
        os.makedirs(f"{NEW_ROOT}/{folder}", exist_ok=True)
    for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/etc/ld.so.cache"):
        if os.path.exists(path):
            Path(NEW_ROOT + path).touch()
            mount(path, NEW_ROOT + path, None, MS_BIND)
    for name, link in (("shm", "/tmp"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")):
        os.symlink(link, f"{NEW_ROOT}/dev/{name}")
    Path(f"{NEW_ROOT}/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    Path(f"{NEW_ROOT}/etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    try:
        mount("proc", f"{NEW_ROOT}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:  # a user namespace may mount a new /proc only if an existing one is fully visible
        mount("/proc", f"{NEW_ROOT}/proc", None, MS_BIND | MS_REC)
    lock(NEW_ROOT, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=False)
    os.chdir(NEW_ROOT)
    check_call(libc.pivot_root(b".", b"."), "pivot_root")
    check_call(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    return below_tmp
