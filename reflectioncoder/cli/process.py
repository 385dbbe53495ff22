"""Settings of the whole process."""

from __future__ import annotations

import os
import sys

# On CPU, first-touch memory takes much of the time of training if glibc returns freed pages to the system between steps
# (docs/performance.md).
MALLOC_TUNABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


_may_restart = False


def allow_restart(allowed: bool) -> None:
    """Say whether the process is ours to restart: not if a program called `main` with words of its own."""
    global _may_restart
    _may_restart = allowed


def keep_freed_memory() -> None:
    """Restart the process on Linux with allocator settings that keep freed pages, if that is allowed.

    The settings are environment variables, which glibc reads only when a process starts.
    """
    if not _may_restart or sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    os.environ.update(MALLOC_TUNABLES)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
