"""Processor time of a session's processes, from /proc; read by the trusted server, never by the program."""

import os
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class SessionUsage(NamedTuple):
    """What a session has used since its start.

    Args:
        processor: processor seconds of its processes, and of their children that have ended.
        waited: seconds that its threads were ready to run, but other work had the processors. What has ended does not
            count. 0 on kernels without CONFIG_SCHED_INFO.
        ended: page faults of children that have ended: it grows with each child, and `waited` lacks their share.
        runnable: whether a thread is running, ready to run, or waiting for the disk.
    """

    processor: float = 0.0
    waited: float = 0.0
    ended: int = 0
    runnable: bool = False


def usage_of(processes: list[int]) -> SessionUsage:
    """Add up the usage of processes; those that have ended meanwhile are skipped.

    Args:
        processes: process ids, without duplicates.
    """
    processor, waited, ended, runnable = 0.0, 0.0, 0, False
    for pid in processes:
        folder = Path(f"/proc/{pid}")
        try:
            fields = _fields(folder)
            processor += sum(map(int, fields[11:15])) / _TICKS  # utime, stime, cutime, cstime
            ended += int(fields[8])  # cminflt
            for thread in os.listdir(folder / "task"):
                waited += _waited(folder / "task" / thread)
                runnable = runnable or _fields(folder / "task" / thread)[0] in ("R", "D")
        except (OSError, ValueError, IndexError):
            continue
    return SessionUsage(processor, waited, ended, runnable)


def _fields(folder: Path) -> list[str]:
    """Return the fields of a stat file from the state on; the name before it may contain anything."""
    return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _waited(folder: Path) -> float:
    try:
        return int((folder / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
