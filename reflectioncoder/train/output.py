"""The output folder of a training run: whether a run may write to it, what it replaces, and when.

Only files that this program wrote are ever replaced or deleted. A model that is trained again stays in place until the
new one is complete; the records and checkpoints of the run before are kept in `previous/` until then.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reflectioncoder.config import toml as settings
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import (
    READY,
    FileFacts,
    Marker,
    clean_up,
    complete_replacement,
    read_marker,
    refuse_foreign,
    refuse_inputs,
    remove_tree,
    replace_files,
    same_place,
    what_changed,
    write_marker,
)
from reflectioncoder.files.whole import usual_modes
from reflectioncoder.models.model_files import ADAPTER, ADAPTER_CONFIG, base_of
from reflectioncoder.models.saved_files import complete_configuration
from reflectioncoder.models.tokenizer import write_tokenizer
from reflectioncoder.train.checkpoints import (
    EVALUATIONS,
    LOG,
    TrainProgress,
    checkpoints,
    how_to_go_on,
    newest_checkpoint,
    numbered,
)

MODEL = "model.safetensors"
INDEX = f"{MODEL}.index.json"
RESULT_FILE = "result.json"
INFLUENCE = "influence.jsonl"
RECORDS = ("config.toml", "config.versions.json", LOG, EVALUATIONS, RESULT_FILE, INFLUENCE)
# Files that change how a directory is loaded. Beside a new model, another program's would falsify it.
LOADED = (
    MODEL, INDEX, ADAPTER, ADAPTER_CONFIG, "adapter_model.bin", "config.json", "generation_config.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
SHARD_NAME = re.compile(r"model-\d+-of-\d+\.safetensors")
PREVIOUS = "previous"
MODEL_STAGING = ".model.part"
CHECKPOINT_STAGING = ".checkpoint.part"


@dataclass(frozen=True)
class FoundOutput:
    """What an output folder holds.

    Args:
        state: `free` (nothing of ours, or a run without a checkpoint), `unfinished` or `finished`.
        marker: this program's marker; for a folder of an earlier version it is made up. None without any run.
    """

    state: Literal["free", "unfinished", "finished"]
    marker: Marker | None

    @property
    def has_model(self) -> bool:
        """Whether a model of this program is in place, of the last run or of one before."""
        return self.marker is not None and any(name in (MODEL, INDEX, ADAPTER) for name in self.marker.files)


def look_at(output: Path) -> FoundOutput:
    """Find out what an output folder holds; reads digests, but not the large files.

    Raises:
        UserError: the folder belongs to another command.
    """
    marker = read_marker(output / READY) or read_marker(output)
    if marker is not None and marker.command != "train":
        raise UserError(f"{output}: holds the output of {marker.command}; choose another output")
    if marker is None:
        marker = _earlier_version(output)
    if marker is not None and marker.state == "finished":
        return FoundOutput("finished", marker)
    return FoundOutput("unfinished" if marker and newest_checkpoint(output) else "free", marker)


def _earlier_version(output: Path) -> Marker | None:
    """A marker for a run of a version that wrote none: its configuration file tells it from other programs' output."""
    if not settings.was_saved(TrainConfig, output):
        return None
    names = [name for name in _loaded_files(output) if (output / name).is_file()]
    if not any((output / name).is_file() for name in (MODEL, INDEX, ADAPTER)):
        return Marker("train")
    return Marker("train", "finished", {name: FileFacts((output / name).stat().st_size, "") for name in names})


def _loaded_files(output: Path) -> list[str]:
    return [*LOADED, *sorted(path.name for path in output.glob("model-*") if SHARD_NAME.fullmatch(path.name))]


def check_output(config: TrainConfig) -> None:
    """Make sure that a run may write to a folder.

    Raises:
        UserError: it holds a finished model or an unfinished run and the settings do not say what to do with it, or
            files of other programs that the run would have to replace.
    """
    output = Path(config.output)
    found = look_at(output)
    if found.state == "finished":
        if config.resume and not config.overwrite:
            raise UserError(f"{output}: the run is finished, there is nothing to resume; set overwrite to train again")
        if not config.overwrite:
            raise UserError(f"{output}: holds a finished model; choose another output, or set overwrite")
    elif not (config.resume or config.overwrite):
        if found.state == "unfinished" and (unfinished := newest_checkpoint(output)):
            raise UserError(
                f"{output}: holds {unfinished.name} of an unfinished run; add --resume to continue, or --overwrite "
                "to start again"
            )
        if found.has_model:
            raise UserError(f"{output}: holds the model of an earlier run; choose another output, or set overwrite")
    _check_foreign(output, found.marker)


def check_inputs(config: TrainConfig) -> None:
    """Raise UserError if the output is also an input of the run, or is not a folder."""
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output is the folder of the trained model")
    model: str | None = config.model
    while model is not None and Path(model).exists():
        if same_place(model, output):
            raise UserError(f"model {model}: is also the output, which would replace it; choose another output")
        inside = [parent for parent in Path(model).resolve().parents if same_place(parent, output)]
        if inside and Path(model).resolve().relative_to(inside[0]).parts[0].startswith(("checkpoint-", PREVIOUS)):
            raise UserError(f"model {model}: the output {output} would delete it; choose another output")
        model = base_of(Path(model))
    files = [output / name for name in (*RECORDS, *LOADED)]
    refuse_inputs(files, {"data": config.data, "eval_data": config.eval_data, "sharding": (config.sharding,)})


def _check_foreign(output: Path, marker: Marker | None) -> None:
    owned = marker.files if marker else {}
    names = [*_loaded_files(output), *(() if marker else RECORDS)]
    refuse_foreign(output, (name for name in names if name not in owned), "train")
    changed = what_changed(output, {name: facts for name, facts in owned.items() if (output / name).exists()})
    if changed:
        raise UserError(f"{output}: {changed}: changed after the run; move it away, or choose another output")


def check_places(config: TrainConfig, steps: int) -> None:
    """Raise UserError if another program's checkpoint is where one of this run, of `steps` steps, would be written."""
    output = Path(config.output)
    ours = set(checkpoints(output))
    for folder in numbered(output):
        step = int(folder.name.split("-")[-1])
        planned = config.save_steps > 0 and (step % config.save_steps == 0 or step == steps) and step <= steps
        if planned and folder.is_dir() and folder not in ours and any(folder.iterdir()):
            raise UserError(f"{folder}: was not written by reflectioncoder train; move it, or choose another output")


def start_output(output: Path, config: TrainConfig, checkpoint: Path | None, first: TrainProgress) -> None:
    """Save the configuration, and set aside what does not belong to this run.

    A resumed run keeps its complete checkpoints and its log up to the checkpoint. A new run moves the records and
    checkpoints of the run before to `previous/`, and leaves its model in place until `finish_output`.

    Args:
        output: output directory, which `check_output` has accepted.
        config: configuration of the run.
        checkpoint: checkpoint that the run resumes from; None for a new run.
        first: progress of that checkpoint.

    Raises:
        UserError: the directory cannot be written.
    """
    try:
        clean_up(output)
        for name in (MODEL_STAGING, CHECKPOINT_STAGING):
            shutil.rmtree(output / name, ignore_errors=True)
        if checkpoint is None:
            found = look_at(output)
            if found.state != "free":
                _set_aside(output)
            write_marker(output, Marker("train", "running", found.marker.files if found.marker else {}))
        elif read_marker(output) is None:  # a run of an earlier version
            write_marker(output, Marker("train"))
        settings.save(config, output)
        for path in (output / LOG, output / EVALUATIONS):
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() and checkpoint else ""
            lines = [line for line in text.split("\n") if _step(line) <= first.step]
            if lines or path.name == LOG or path.is_file():
                write_lines(path, lines)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from None


def _step(line: str) -> float:
    """The step of a line of a log. A kill may leave an incomplete line, which belongs to no step."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


def write_influence(output: Path, samples: Sequence[Encoded], tokens: int) -> None:
    """Write the measured influence of the blocks of every sample, one line each, after one with the tokens it took."""
    lines = [json.dumps({"sample": sample.sample_id, "influence": sample.influence}) for sample in samples]
    write_lines(output / INFLUENCE, [json.dumps({"tokens": tokens}), *lines])


def read_influence(output: Path, samples: Sequence[Encoded]) -> tuple[list[tuple[float, ...]], int] | None:
    """Read what `write_influence` wrote for these samples; None if it is missing or incomplete."""
    try:
        first, *lines = map(json.loads, (output / INFLUENCE).read_text(encoding="utf-8").splitlines())
        values = {line["sample"]: tuple(map(float, line["influence"])) for line in lines}
        return [values[sample.sample_id] for sample in samples], int(first["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _set_aside(output: Path) -> None:
    """Move the records and checkpoints of the run before to a folder `previous`."""
    number, folder = 1, output / PREVIOUS
    while folder.exists():
        number += 1
        folder = output / f"{PREVIOUS}-{number}"
    write_marker(folder, Marker("train"))
    for path in (*checkpoints(output), *(output / name for name in RECORDS)):
        if path.exists():
            path.replace(folder / path.name)


def finish_output(output: Path) -> None:
    """Delete what the finished model replaces: the checkpoints of its run, and what was set aside for it."""
    for folder in (*checkpoints(output), *(path for path in output.glob(f"{PREVIOUS}*") if read_marker(path))):
        remove_tree(folder)
    clean_up(output)


def complete_output(output: Path, say: Callable[[str], None]) -> None:
    """Complete a finished run that was killed while its model was moved into place.

    Raises:
        UserError: the directory cannot be written.
    """
    try:
        if complete_replacement(output, finish_output):
            say(f"{output}: the run had been killed while its model was moved into place; this is now complete")
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from None


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    command: str = "train",
    others: Mapping[str, str] | None = None,
) -> None:
    """Save a model so that `from_pretrained` and `apply_chat_template` work with it.

    It replaces a model that the same command saved there. Until the new files are complete the old ones stay, and the
    weights are moved into place last, so a directory with weights holds a finished model.

    Args:
        model: a model, or a PEFT model, of which only the adapter is saved.
        tokenizer: the model's tokenizer, saved in the same directory.
        output: directory to write to.
        command: the command that owns the directory.
        others: texts of further files, by name.

    Raises:
        UserError: the directory cannot be written.
    """
    staging = output / MODEL_STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        write_model(model, tokenizer, staging)
        for name, text in (others or {}).items():
            (staging / name).write_text(text, encoding="utf-8")
        usual_modes(staging)
        replace_files(output, staging, command, finish_output)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(f"cannot write {output}: {first_line(error)}; {how_to_go_on(output)}") from None


def write_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model, or the adapter of a PEFT model, and its tokenizer to a folder."""
    if isinstance(model, PreTrainedModel):
        # The attention function for packed rows is registered in this process only.
        model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
        model.save_pretrained(folder)
    else:  # the adapter holds the rows of the special tokens, so the embedding tables need not be saved
        model.save_pretrained(folder, save_embedding_layers=False)
    write_tokenizer(tokenizer, folder)
    complete_configuration(folder)
