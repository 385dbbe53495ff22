"""Builds a private, read-only root file system: system programs and libraries, the standard library, named packages."""

import os
import shutil
from dataclasses import dataclass, field
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
OWN_FOLDER = "/.own"  # where the warm process reads our own code until `leave_own_folder`
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/fonts")
_SMALL = 1 << 20  # bytes up to which a file is copied instead of mounted
_METADATA = ("METADATA", "PKG-INFO", "entry_points.txt", "top_level.txt")


@dataclass(frozen=True)
class View:
    """What programs see of the machine's files.

    Args:
        visible: directories and files that are shown besides those of `SYSTEM`, directories with all they contain.
        hidden: directories below shown ones that programs see empty, except for what is shown inside.
        packages: directories of packages (`site-packages`), and the names in them that programs see.
        own: directory of our own code, which only the warm process sees.
    """

    visible: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    packages: dict[str, list[str]] = field(default_factory=dict)
    own: str = ""


class _Root:
    """The new root while it is being built. Paths are those that programs will see."""

    def __init__(self, view: View) -> None:
        self.below_tmp: list[tuple[str, str]] = []
        self._shown: list[str] = []
        self._hidden: list[str] = []
        self._emptied: list[str] = []
        for path in [*SYSTEM, *sorted({*view.visible}, key=len)]:
            if not any(_within(path, hidden) for hidden in view.hidden):
                self.show(path)
        for path in sorted({*view.hidden, *view.packages}, key=len):
            self.hide(path)
        for folder, names in view.packages.items():
            self.show_packages(folder, names)
        for path in view.visible:
            self.show(path)
        for target in self._emptied:
            lock(target, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=False)

    def _covered(self, path: str) -> bool:
        """Whether a path is inside something shown, and not inside something hidden there."""
        inner = max((seen for seen in self._shown if _within(path, seen)), key=len, default="")
        return bool(inner) and not any(_within(path, hidden) and len(hidden) > len(inner) for hidden in self._hidden)

    def _place(self, path: str) -> str:
        """Where to build what programs see at a path; each session binds what is below /tmp into its own /tmp."""
        if not path.startswith("/tmp/"):
            return NEW_ROOT + path
        for source, wanted in self.below_tmp:
            if _within(path, wanted):
                return NEW_ROOT + source + path[len(wanted) :]
        self.below_tmp.append((f"/.below_tmp/{len(self.below_tmp)}", path))
        return NEW_ROOT + self.below_tmp[-1][0]

    def show(self, path: str) -> None:
        real = os.path.realpath(path)
        if not os.path.exists(path):
            return
        if real != path and not self._covered(path):  # such as /bin -> usr/bin
            self.show(real)
            self._link(path, real)
            return
        if self._covered(path):
            return
        target = self._place(path)
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
            mount(path, target, None, MS_BIND | MS_REC)
            lock(target, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=True)
        elif os.path.getsize(path) <= _SMALL:
            _copy(path, target)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).touch()
            mount(path, target, None, MS_BIND)
            lock(target, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=False)
        self._shown.append(path)

    def hide(self, path: str) -> None:
        path = os.path.realpath(path)
        if not self._covered(path) or not os.path.isdir(path):
            return
        target = self._place(path)
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "size=8m,mode=755")
        self._hidden.append(path)
        self._emptied.append(target)

    def show_packages(self, folder: str, names: list[str]) -> None:
        real = os.path.realpath(folder)
        place = self._place(real)
        for name in names:
            source, target = f"{real}/{name}", f"{place}/{name}"
            if name.endswith((".dist-info", ".egg-info")):
                for part in _METADATA:
                    _copy(f"{source}/{part}", f"{target}/{part}")
            elif os.path.isdir(source):
                os.makedirs(target, exist_ok=True)
                mount(source, target, None, MS_BIND | MS_REC)
                lock(target, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=True)
            else:
                _copy(source, target)
        self._shown += [f"{real}/{name}" for name in names]
        if real != folder:
            self._link(folder, real)

    def _link(self, path: str, real: str) -> None:
        link = self._place(path)
        if not os.path.lexists(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(real, link)  # what is below /tmp is then bound through the link


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _copy(source: str, target: str) -> None:
    """Copy a small file with its times, by which Python recognises the cached bytecode of a module."""
    if os.path.isfile(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(source, target)


def private_root(view: View) -> list[tuple[str, str]]:
    """Replace the root by a read-only tmpfs that contains bind mounts of what the view shows.

    Args:
        view: what programs see.

    Returns:
        (present path, wanted path) of what is shown below /tmp. Each session mounts its own /tmp and then binds these
        into it.

    Raises:
        OSError: a mount is refused.
    """
    mount("", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID, "size=16m,mode=755")
    below_tmp = _Root(view).below_tmp
    if view.own:
        os.makedirs(NEW_ROOT + OWN_FOLDER)
        mount(view.own, NEW_ROOT + OWN_FOLDER, None, MS_BIND)
        lock(NEW_ROOT + OWN_FOLDER, MS_RDONLY | MS_NOSUID | MS_NODEV, recursive=False)
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


def leave_own_folder() -> None:
    """Remove our own code from the root; called in the warm process after its last import. Raises OSError."""
    check_call(libc.umount2(OWN_FOLDER.encode(), MNT_DETACH), f"umount {OWN_FOLDER}")
