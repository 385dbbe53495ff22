"""What a study reads from outside: digests of input files, and the checks that need the file system."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from reflectioncoder.errors import UserError
from reflectioncoder.files.owned import LOCK
from reflectioncoder.models.model_files import check_model_files
from reflectioncoder.study.plan import FILE_NAME, StudyPlan

PIECES, PIECE = 64, 1 << 16  # pieces of a large file that are hashed, and bytes of each
HASHED_WHOLE = PIECES * PIECE  # smaller files are hashed whole


def file_digests() -> Callable[[str], str]:
    """Return a function that digests the file or folder at a path, each once; "" if there is none.

    Of files above 4 MiB it reads the size and 64 pieces spread over the file: training changes every matrix of a model,
    and appending to data changes the size. Hidden files of a folder are left out.
    """

    @cache
    def digest(text: str) -> str:
        path = Path(text)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            below = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != LOCK)
            files = [file for file in below if not any(part[0] == "." for part in file.relative_to(path).parts)]
        else:
            return ""
        found = hashlib.sha256()
        for file in files:
            size = file.stat().st_size
            found.update(f"{file.relative_to(path)}:{size}:".encode("utf-8", "surrogateescape"))
            with file.open("rb") as data:
                for piece in range(PIECES) if size > HASHED_WHOLE else (0,):
                    data.seek(size * piece // PIECES)
                    found.update(data.read(PIECE if size > HASHED_WHOLE else size))
        return found.hexdigest()[:16]

    return digest


def check_study_inputs(plan: StudyPlan) -> None:
    """Check before anything runs that the models and files which a study names are there.

    Raises:
        UserError: a model's files are missing or incomplete, or a file of data does not exist; the message names the
            variant.
    """
    own = f"{plan.root}/"
    for run in plan.runs:
        for key in run.steps:
            step = plan.steps[key]
            where = f"variant '{run.variant}', {step.verb}: "
            for model in _models(step.settings, step.verb):
                if not model.startswith(own):
                    try:
                        check_model_files(model)
                    except UserError as error:
                        raise UserError(f"{where}{error}") from None
            for name in _data(step.settings, step.verb):
                if not name.startswith(own) and FILE_NAME.search(Path(name).name) and not Path(name).exists():
                    raise UserError(f"{where}file {name}: No such file or directory")


def _models(settings: object, verb: str) -> list[str]:
    if verb == "build":
        return [name for name in [getattr(getattr(settings, "native", None), "model", "")] if name]
    if verb == "train" or (verb == "generate" and getattr(settings, "backend", "") != "server"):
        return [getattr(settings, "model", "")]
    return []


def _data(settings: object, verb: str) -> list[str]:
    if verb == "train":
        return [*getattr(settings, "data", ()), *getattr(settings, "eval_data", ())]
    return [getattr(settings, "problems", "")] if verb == "build" else [getattr(settings, "task", "")]
