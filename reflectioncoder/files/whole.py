"""Atomic writes of files and folders: written to a temporary place beside the target, then renamed."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from reflectioncoder.errors import UserError
from reflectioncoder.files.cache import cache_folder

NEW = "new"  # name of the file or folder that `replace_with` moves into place
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
PART = ".part"  # ends the name of a file that is being written
T = TypeVar("T")


def file_mode() -> int:
    """Return the mode of a new file under the umask of this process; temporary files are created with mode 600."""
    try:  # reading the umask with os.umask would change it for all threads
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 0o666 & ~int(status.partition("Umask:")[2].split()[0], 8)
    except (OSError, ValueError, IndexError):
        return 0o644


def usual_modes(folder: Path) -> None:
    """Give a folder and everything below it the modes that new files and folders have under this process's umask."""
    mode = file_mode()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)


def write_whole(path: Path, write: Callable[[IO[str]], T]) -> T:
    """Write a text file atomically: a temporary file beside it replaces it after an fsync.

    Args:
        path: path of the file; missing parent folders are created.
        write: writes the text to the open file (UTF-8).

    Returns:
        the return value of `write`.

    Raises:
        OSError: the file cannot be written (disk full, no permission); the old file stays unchanged.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=PART, delete=False
        ) as out:
            temporary = Path(out.name)
            made = write(out)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(file_mode())
        temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return made


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two files or folders in one step of the kernel; False if it or the file system cannot.

    A folder cannot be renamed onto another, and a kill between two renames would leave none at its place.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def replace_with(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file or folder by a new one.

    Args:
        path: path of the file or folder; need not exist.
        write: creates the new one, named `NEW`, in the temporary folder that it is given.

    Raises:
        UserError: the new one cannot be written; the old one stays unchanged.
    """
    try:
        with _folder_beside(path) as staging:
            write(staging)
            usual_modes(staging / NEW)
            if not (path.is_dir() and _exchange(staging / NEW, path)):
                if path.is_dir():
                    path.rename(staging / "old")
                os.replace(staging / NEW, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def make_once(name: str, write: Callable[[Path], object], whole: Callable[[Path], bool] = Path.is_dir) -> Path:
    """Return a folder of the cache; create it if it does not exist.

    Args:
        name: path below the cache folder. It must identify everything that determines the contents.
        write: fills the empty folder that it is given.
        whole: whether a folder exists and is complete.

    Raises:
        UserError: the folder cannot be written.
    """
    target = cache_folder() / name
    if whole(target):
        return target
    try:
        with _folder_beside(target) as staging:
            write(staging)
            usual_modes(staging)
            try:
                staging.rename(target)
            except OSError:  # another process finished first
                if not whole(target):
                    raise
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; set REFLECTIONCODER_CACHE elsewhere"
        ) from None
    return target


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Create a temporary folder beside `path`, and delete it afterwards unless it was moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
