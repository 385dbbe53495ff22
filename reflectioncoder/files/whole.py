"""Files and folders that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from reflectioncoder.errors import UserError
from reflectioncoder.files.cache import cache_folder

NEW = "new"  # what `replace_with` moves into place
T = TypeVar("T")


def write_whole(path: Path, write: Callable[[IO[str]], T]) -> T:
    """Write a text file through a temporary one beside it that replaces it once it is on the disk.

    Args:
        path: of the file; its folder is made.
        write: writes the text, as UTF-8.

    Returns:
        what `write` returns.

    Raises:
        OSError: the file cannot be written (a full disk, no permission); the old one is left as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as out:
            temporary = Path(out.name)
            made = write(out)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return made


def replace_with(path: Path, write: Callable[[Path], object]) -> None:
    """Put a new file or folder in the place of what was there.

    Args:
        path: of the file or folder.
        write: makes the new one as `NEW` in the temporary folder that it is given.

    Raises:
        UserError: it cannot be written; the old one is left as it was.
    """
    try:
        with _folder_beside(path) as staging:
            write(staging)
            if path.is_dir():
                path.rename(staging / "old")
            os.replace(staging / NEW, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def make_once(name: str, write: Callable[[Path], object], whole: Callable[[Path], bool] = Path.is_dir) -> Path:
    """A folder of the cache, made if it is not there yet.

    Args:
        name: below the cache folder, with everything in it that decides the contents.
        write: fills the empty folder that it is given.
        whole: whether a folder is there and complete.

    Raises:
        UserError: it cannot be written.
    """
    target = cache_folder() / name
    if whole(target):
        return target
    try:
        with _folder_beside(target) as staging:
            write(staging)
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
    """A temporary folder beside `path`, gone afterwards unless it was moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
