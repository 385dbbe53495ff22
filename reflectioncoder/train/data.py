"""The dialogues of a run, read from the files in its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import PLAIN_TYPES, REFLECTION_TYPE, Dialogue
from reflectioncoder.dialogues.training_files import read_training
from reflectioncoder.errors import UserError
from reflectioncoder.files.folders import files_of
from reflectioncoder.files.json_text import ReadLimits
from reflectioncoder.files.jsonl import write_lines

SKIPPED = "skipped_rows.txt"  # in the output: the rows that were left out, with reasons


def read_dialogues(
    config: TrainConfig, sources: Sequence[str], say: Callable[[str], None]
) -> tuple[list[Dialogue], list[str]]:
    """Read the dialogues of files, folders and data sets.

    Args:
        config: configuration of the run.
        sources: `config.data` or `config.eval_data`.
        say: receives one-line messages: the files of each folder, and types that are not known.

    Returns:
        the dialogues, and one line per row that was left out, with the reason.

    Raises:
        UserError: a source cannot be read, or has a bad row and `skip_bad` is not set.
    """
    limits = ReadLimits(config.max_row_mb, config.max_file_mb)
    dialogues: list[Dialogue] = []
    skipped: list[str] = []
    for source in sources:
        if not Path(source).is_file():
            say(f"data {source}: {', '.join(path.name for path in files_of(source, config.split))}")
        dialogues += read_training(source, skipped if config.skip_bad else None, config.fields, config.split, limits)
    if skipped:
        say(f"left out {len(skipped)} rows that cannot be read, listed in {Path(config.output) / SKIPPED}")
    others = Counter(item.type for item in dialogues if item.type not in (REFLECTION_TYPE, *PLAIN_TYPES))
    for kind, count in others.most_common():
        say(f"{count} samples of type '{kind}' are trained on as plain instruction data")
    return dialogues, skipped


def note_skipped(output: Path, skipped: Sequence[str]) -> None:
    """List the rows that were left out in the output directory, if there are any."""
    if skipped:
        write_lines(output / SKIPPED, skipped)


def check_reflections(config: TrainConfig, reflections: Sequence[int], left: Sequence[int]) -> None:
    """Check that a run of the reflection objective has a reflection sequence to train on.

    Args:
        config: configuration of the run.
        reflections: lengths of all reflection sequences, in tokens.
        left: lengths of those that are trained on.

    Raises:
        UserError: there is none left.
    """
    if config.objective == "instruction" or left or not reflections:
        return
    if min(reflections) > config.max_length:
        raise UserError(
            f"data {', '.join(config.data)}: all {len(reflections)} reflection sequences are longer than max_length = "
            f"{config.max_length} tokens (the shortest has {min(reflections)}); raise max_length, or set objective = "
            '"instruction"'
        )
    raise UserError(
        f"eval_share = {config.eval_share}: holds out every reflection sequence that fits max_length; lower it"
    )
