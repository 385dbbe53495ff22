"""What steps read from outside: digests of input files, and the checks that need the file system."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.owned import LOCK
from reflectioncoder.models.model_files import check_model_files
from reflectioncoder.steps.plan import FILE_NAME, Step, StepPlan

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


def check_step_inputs(plan: StepPlan) -> None:
    """Check before anything runs that the models and files which steps read are there.

    Raises:
        UserError: a model's files are missing or incomplete, or a file of data does not exist; the message names the
            chain of steps.
    """
    own = f"{plan.root}/"
    for run in plan.runs:
        for key in run.steps:
            step = plan.steps[key]
            where = f"{run.where}, {step.verb}: "
            for model in _models(step):
                if not model.startswith(own):
                    try:
                        check_model_files(model)
                    except UserError as error:
                        raise UserError(f"{where}{error}") from None
            for name in _data(step):
                if not name.startswith(own) and FILE_NAME.search(Path(name).name) and not Path(name).exists():
                    raise UserError(f"{where}file {name}: No such file or directory")


def _models(step: Step) -> list[str]:
    """The models that a step loads on this machine."""
    if not step.on_device:
        return []
    if step.decoding is not None:
        return [step.decoding.model]
    if step.verb != "build":
        return [step.settings.model]
    own: Any = getattr(step.settings, step.settings.sampler, None)  # the settings of `native` or `attempts`
    return [own.model] if getattr(own, "model", "") and own.backend != "server" else []


def _data(step: Step) -> list[str]:
    settings = step.settings
    if step.verb == "train":
        return [*settings.data, *settings.eval_data]
    return [settings.problems] if step.verb == "build" else [settings.task] if step.verb == "generate" else []
