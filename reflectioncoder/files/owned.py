"""Outputs that are not lost: a lock for each, a marker of our own files, and replacement that can be completed later.

Every command that writes an output holds its lock, so two processes never write to the same place. A folder that a
command owns has a marker, a JSON file with the sizes and SHA-256 digests of what was written. Only files that the
marker lists, or folders that have a marker, are ever replaced or removed. A folder of files is replaced in two steps:
the new files are complete and on disk before the first old one is moved, and a kill in between leaves a folder that
`complete_replacement` finishes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.whole import PART, write_whole

MARKER = ".reflectioncoder.json"
LOCK = ".reflectioncoder.lock"
READY = ".replacement"  # complete new files that are being moved into place
WEIGHTS_SUFFIX = ".safetensors"  # moved out first and in last, so that no reader combines old and new files
REMOVED = ".removed-"  # a folder that is being deleted
HALF_WRITTEN = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(PART)}")  # the names that `write_whole` uses
PIECE = 1 << 22  # bytes
HASHED_AT_ONCE = 8  # files


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256 digest of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Marker:
    """What a command wrote into a folder.

    Args:
        command: the command that owns the folder, such as "train".
        state: whether the command's result is complete.
        files: the files that were written and do not change, by relative path.
    """

    command: str
    state: Literal["running", "finished"] = "running"
    files: Mapping[str, FileFacts] = field(default_factory=dict)


def read_marker(folder: Path, name: str = MARKER) -> Marker | None:
    """Read the marker of a folder; None if there is none, or if it is not readable."""
    try:
        found = parse_json((folder / name).read_text(encoding="utf-8"))
        files = {name: FileFacts(int(facts["size"]), str(facts["sha256"])) for name, facts in found["files"].items()}
        return Marker(str(found["command"]), "finished" if found["state"] == "finished" else "running", files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_marker(folder: Path, marker: Marker, name: str = MARKER) -> None:
    """Write the marker of a folder atomically. Raises OSError if it cannot be written."""
    write_whole(folder / name, lambda out: out.write(json.dumps(asdict(marker), indent=1) + "\n"))


def facts_of(folder: Path, names: Iterable[str]) -> dict[str, FileFacts]:
    """Flush files to disk, and return their sizes and digests.

    Args:
        folder: the folder of the files.
        names: their paths, relative to the folder.

    Raises:
        OSError: a file cannot be read.
    """
    chosen = list(names)
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:  # hashing releases the interpreter lock
        return dict(zip(chosen, pool.map(lambda name: _facts(folder / name), chosen), strict=True))


def _facts(path: Path) -> FileFacts:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as data:
        os.fsync(data.fileno())
        while piece := data.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return FileFacts(size, digest.hexdigest())


def files_below(folder: Path) -> list[str]:
    """Return the relative paths of all files below a folder, sorted; marker and lock are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.name not in (MARKER, LOCK))


def what_changed(folder: Path, files: Mapping[str, FileFacts]) -> str:
    """Say what is missing or damaged; empty if every file is as it was written.

    Args:
        folder: the folder of the files.
        files: sizes and digests by relative path; an empty digest is not compared.
    """
    for name, facts in files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if size != facts.size:
            return f"{name} has {size} bytes instead of {facts.size}"
    try:
        found = facts_of(folder, [name for name, facts in files.items() if facts.sha256])
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read ({error.strerror})"
    different = next((name for name, facts in files.items() if facts.sha256 and found[name] != facts), "")
    return f"{different} does not have the content that was written" if different else ""


@contextmanager
def held(path: Path, folder: bool = True) -> Iterator[None]:
    """Hold the lock of an output, which ends with the process that holds it, however that ends.

    Args:
        path: path of a file, or of a folder, which is created.
        folder: whether it is a folder. One that is still empty at the end is deleted if this created it.

    Raises:
        UserError: another process holds it, or the lock cannot be created.
    """
    there = path.exists()
    place = path / LOCK if folder else path.with_name(f".{path.name}.lock")
    descriptor = _take(path, place)
    try:
        yield
    finally:
        # Deleted while it is locked: whoever has opened it already finds another file, or none, at its path.
        with suppress(OSError):
            place.unlink()
            if folder and not there:
                path.rmdir()
        os.close(descriptor)


def _take(path: Path, place: Path) -> int:
    """Lock the file `place`, which stands for `path`, and return its descriptor."""
    while True:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"cannot write to {place.parent}: {error.strerror or error}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(place).st_ino != os.fstat(descriptor).st_ino:  # deleted by the process that held it before
                os.close(descriptor)
                continue
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f" (process {holder})" if holder else ""
            raise UserError(
                f"{path}: another run{who} is writing to it; wait for it, stop it, or choose another output"
            ) from None
        except FileNotFoundError:
            os.close(descriptor)
        except OSError as error:  # file systems without locks
            os.close(descriptor)
            raise UserError(f"{place}: cannot lock it: {error.strerror or error}") from None


def refuse_foreign(folder: Path, names: Iterable[str], command: str) -> None:
    """Raise UserError if a folder that `command` has not used holds a file that it would write.

    Args:
        folder: the output; need not exist.
        names: names of the files.
        command: the command, for the message.
    """
    for name in names:
        if (folder / name).exists():
            raise UserError(
                f"{folder}: holds {name}, which reflectioncoder {command} did not write; choose another output"
            )


def check_writable(folder: Path) -> None:
    """Make sure, without writing anything, that a folder can be written to, or be created.

    Raises:
        UserError: it cannot.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"cannot write to {folder}: {place} is not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {folder}: no permission in {place}")


def remove_tree(folder: Path) -> None:
    """Delete a folder so that a kill leaves either all of it or nothing under its name."""
    doomed = folder.with_name(f"{REMOVED}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """Delete what killed runs left half written or half deleted in a folder, whose lock must be held."""
    for path in folder.glob(".*"):
        if path.name.startswith(REMOVED) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif HALF_WRITTEN.fullmatch(path.name) and path.is_file():
            path.unlink()


def nothing(_: Path) -> None:
    """Do nothing."""


def replace_files(folder: Path, staging: Path, command: str, then: Callable[[Path], object] = nothing) -> None:
    """Replace the files that a command wrote earlier by the files of another folder.

    Args:
        folder: the output; the files of its marker are replaced, others are left alone.
        staging: folder with the new files, below `folder`; it disappears.
        command: owner of the folder.
        then: called with the folder when the new files are in place; part of what is completed after a kill.

    Raises:
        OSError: the new files cannot be flushed or moved; `complete_replacement` continues.
    """
    write_marker(staging, Marker(command, "finished", facts_of(staging, files_below(staging))))
    _flush_folder(staging)
    shutil.rmtree(folder / READY, ignore_errors=True)
    staging.rename(folder / READY)  # from here on the replacement will be completed
    complete_replacement(folder, then)


def complete_replacement(folder: Path, then: Callable[[Path], object] = nothing) -> bool:
    """Complete a replacement that a kill interrupted.

    Args:
        folder: the output.
        then: see `replace_files`.

    Returns:
        whether there was one.

    Raises:
        OSError: a file cannot be moved.
    """
    ready = folder / READY
    new = read_marker(ready)
    if new is None:
        return False
    old = read_marker(folder) or Marker(new.command)
    retired = ready / ".old"
    retired.mkdir(exist_ok=True)
    waiting = {name for name in new.files if (ready / name).exists()}
    moved = new.files.keys() - waiting
    for name in sorted(old.files.keys() - moved, key=lambda name: not name.endswith(WEIGHTS_SUFFIX)):
        if (folder / name).exists():
            (retired / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(retired / name)
    for name in sorted(waiting, key=lambda name: (name.endswith(WEIGHTS_SUFFIX), name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (ready / name).replace(folder / name)
    _flush_folder(folder)
    write_marker(folder, new)
    then(folder)
    remove_tree(ready)
    return True


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # some file systems do not flush folders
        os.fsync(descriptor)
    os.close(descriptor)


def same_place(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths name the same file or folder, whether it exists or not; links are followed."""
    return os.path.realpath(one) == os.path.realpath(other)


def refuse_inputs(outputs: Iterable[Path], inputs: Mapping[str, Iterable[str]]) -> None:
    """Raise UserError if a file that will be written is also read.

    Args:
        outputs: paths that will be written.
        inputs: paths that are read, by the name of their setting.
    """
    written = {os.path.realpath(path) for path in outputs}
    for setting, paths in inputs.items():
        for path in paths:
            if path and os.path.realpath(path) in written:
                raise UserError(f"{setting} {path}: the output would overwrite it; choose another output")
