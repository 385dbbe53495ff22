"""Landlock rules: a program may read its root file system and write below its working directory, nothing else.

The private root enforces the same with mounts; Landlock is a second, independent layer. It also blocks what mounts
cannot: abstract Unix sockets between sessions that share a network namespace (from Linux 6.12 on), and kernel settings
below /proc.
"""

import ctypes
import os

from reflectioncoder.sandbox.kernel import check_call, libc

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on x86-64 and ARM64
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # by ABI: 2 added refer, 3 added truncate
_TRUNCATE = 1 << 14
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Return the Landlock ABI version of the kernel; 0 if it has none."""
    return max(int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)), 0)


def confines_abstract_sockets() -> bool:
    """Whether `PathRules` also block abstract Unix sockets between sessions (ABI 6)."""
    return version() >= 6


class PathRules:
    """Rules that allow reading and executing everywhere, but writing only below one directory and to harmless devices.

    The rules are built once and applied by each session.

    Args:
        writable: path of the directory. It is opened by `apply`, because each session mounts its own.
    """

    def __init__(self, writable: str) -> None:
        abi = version()
        rights = _FILE_RIGHTS[min(abi, 3)]
        self._ruleset = _Ruleset(rights, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= 6 else 0)
        self._size = ctypes.c_size_t(24 if abi >= 6 else 8)  # older kernels expect a shorter struct
        device = (_WRITE_FILE | _READ_FILE | _TRUNCATE) & rights
        allowed = [("/", _EXECUTE | _READ_FILE | _READ_DIR), (writable, rights)]
        allowed += [(name, device) for name in ("/dev/null", "/dev/zero", "/dev/full") if os.path.exists(name)]
        self._allowed = [(name, _Beneath(granted, -1)) for name, granted in allowed]

    def apply(self) -> None:
        """Enforce the rules on this process and its descendants; requires no_new_privs. Raises OSError."""
        handle = libc.syscall(_CREATE, ctypes.byref(self._ruleset), self._size, 0)
        check_call(0 if handle >= 0 else -1, "landlock_create_ruleset")
        for path, beneath in self._allowed:
            beneath.parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            check_call(libc.syscall(_ADD, handle, _PATH_BENEATH, ctypes.byref(beneath), 0), "landlock_add_rule")
            os.close(beneath.parent)
        check_call(libc.syscall(_RESTRICT, handle, 0), "landlock_restrict_self")
        os.close(handle)
