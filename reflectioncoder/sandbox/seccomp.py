"""A seccomp filter: system calls that no scored program needs fail with an error number.

The filter is a deny list, because programs in many languages run under it. It lists the calls that could undo other
layers of isolation, and the parts of the kernel with the most known vulnerabilities. The classic BPF program is written
by hand; it takes forty lines and saves the base installation a compiled library.
"""

import ctypes
import errno
import platform
import struct

from reflectioncoder.sandbox.kernel import check_call, libc

# name: number on x86-64, number on ARM64 (None: does not exist)
_REFUSED: dict[str, tuple[int, int | None]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "open_tree": (428, 428), "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_MEMORY_FILES = {"memfd_create": (319, 279), "memfd_secret": (447, 447)}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _PRCTL = (56, 220), 435, (41, 198), (53, 199), (157, 167)
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW… flag except NEWTIME, which clone does not accept
_X32 = 0x40000000
_PR_SET_DUMPABLE, _PR_SET_SECCOMP = 4, 22
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; _ARGUMENT is the low half of argument 0


def _rows(machine: str, unix_sockets: bool, memory_files: bool) -> list[tuple[int, int, int, int]]:
    """Return the BPF instructions as (operation, jump if true, jump if false, operand)."""
    architecture, column = _ARCHITECTURES[machine]
    families = (_AF_UNIX, _AF_INET, _AF_INET6) if unix_sockets else (_AF_INET, _AF_INET6)
    rows = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]

    def refuse_here(code: int) -> tuple[int, int, int, int]:
        return (_RETURN, 0, 0, _ERRNO | code)

    if machine == "x86_64":  # the x32 ABI offers the same calls under other numbers
        rows += [(_JUMP_AT_LEAST, 0, 1, _X32), refuse_here(errno.ENOSYS)]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            rows += [(_JUMP_EQUAL, 0, 1, number), refuse_here(errno.EPERM)]
    for numbers in () if memory_files else _MEMORY_FILES.values():  # libraries fall back to files in /tmp
        rows += [(_JUMP_EQUAL, 0, 1, numbers[column]), refuse_here(errno.ENOSYS)]
    # clone3 passes its flags in memory, which a filter cannot read; libraries fall back to clone
    rows += [(_JUMP_EQUAL, 0, 1, _CLONE3), refuse_here(errno.ENOSYS)]
    rows += [
        (_JUMP_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _ARGUMENT),
        (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        refuse_here(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    rows += [
        (_JUMP_EQUAL, 0, 4, _PRCTL[column]),
        (_LOAD, 0, 0, _ARGUMENT),
        (_JUMP_EQUAL, 0, 1, _PR_SET_DUMPABLE),
        refuse_here(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    # some socket families, such as vsock, are not confined to a network namespace
    for number, allowed in ((_SOCKET[column], families), (_SOCKETPAIR[column], (_AF_UNIX,))):
        rows += [(_JUMP_EQUAL, 0, len(allowed) + 3, number), (_LOAD, 0, 0, _ARGUMENT)]
        rows += [(_JUMP_EQUAL, len(allowed) - place, 0, family) for place, family in enumerate(allowed)]
        rows += [refuse_here(errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    return [*rows, (_RETURN, 0, 0, _ALLOW)]


def available() -> bool:
    """Whether the filter supports this machine's architecture and the kernel supports seccomp filters."""
    if platform.machine() not in _ARCHITECTURES:
        return False
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail", encoding="ascii") as file:
            return "errno" in file.read().split()
    except OSError:
        return False


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rows", ctypes.c_void_p)]


class SystemCallFilter:
    """The seccomp filter, assembled once and installed by each session.

    Args:
        unix_sockets: whether `socket` may create Unix sockets; `socketpair` always may.
        memory_files: whether programs may create files that belong to no file system.
    """

    def __init__(self, unix_sockets: bool, memory_files: bool) -> None:
        rows = _rows(platform.machine(), unix_sockets, memory_files)
        self._bytes = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
        self._program = _Program(len(rows), ctypes.addressof(self._bytes))

    def install(self) -> None:
        """Install the filter for this process and its descendants; requires no_new_privs. Raises OSError."""
        check_call(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(self._program), 0, 0), "prctl(SECCOMP)")


def hide_memory() -> None:
    """Forbid processes of the same user to access this process's memory; /proc/self/mem is closed as well."""
    check_call(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")
