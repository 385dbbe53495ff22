"""The log and the checkpoints of a training run.

A run can be killed at any moment and loses at most the steps since its last checkpoint. A checkpoint is written beside
its place and renamed when it is complete. Before a run is resumed from it, its files are compared with the sizes and
digests in its manifest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reflectioncoder.config import toml as settings
from reflectioncoder.config.places import same_value
from reflectioncoder.config.toml import from_table
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.owned import (
    Marker,
    facts_of,
    files_below,
    read_marker,
    remove_tree,
    what_changed,
    write_marker,
)
from reflectioncoder.files.whole import usual_modes, write_whole
from reflectioncoder.progress import Meter

LOG = "log.jsonl"
EVALUATIONS = "eval.jsonl"
PROGRESS = "progress.json"  # written last: a checkpoint with this file is complete
MANIFEST = "manifest.json"  # sizes and digests of a checkpoint's files
# Settings that may change when a run is resumed, because they do not affect the result.
FREE_ON_RESUME = (
    "output",
    "resume",
    "overwrite",
    "save_steps",
    "logging_steps",
    "device",
    "micro_tokens",
    "report_to",
    "gradient_checkpointing",
    "selective_checkpointing",
    "torch_compile",
    "rank_timeout",
    "tokens_per_second",
    "trust_remote_code",
)
NARRATION_SECONDS = 30.0


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a run.

    Args:
        step: optimizer steps taken.
        tokens: tokens through the model so far.
        seconds: time in the training loop so far.
        engine: sharding engine.
        data: digest of the samples (`steps.data_digest`); empty if an older version wrote the checkpoint.
        stage: stages of a mask rate driven by the measured KL that are completed (`curriculum.Curriculum`).
        recent: the latest divergences measured at its stage.
        teacher_tokens, decoded_tokens: parts of `tokens`, for the objective `on_policy`.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    engine: str = "none"
    data: str = ""
    stage: int = 0
    recent: tuple[float, ...] = ()
    teacher_tokens: int = 0
    decoded_tokens: int = 0

    def save(self, folder: Path) -> None:
        """Mark a checkpoint as complete."""
        found = dataclasses.asdict(self)
        for name in ("stage", "recent", "teacher_tokens", "decoded_tokens"):
            if not found[name]:  # as versions without them wrote it
                del found[name]
        write_whole(folder / PROGRESS, lambda out: out.write(json.dumps(found) + "\n"))


class LogFile(TrainerCallback):
    """Writes one line per logged step to `log.jsonl`, and shows progress: as lines, or as a bar on a terminal.

    Args:
        path: file to append to.
        first: progress at the start of this process.
        say: receives the lines.
    """

    def __init__(self, path: Path, first: TrainProgress, say: Callable[[str], None]) -> None:
        self.path = path
        self.last = first
        self.say = say
        self.said = -math.inf
        self.meter = Meter("training")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Append a line to the log, and show progress."""
        if logs and "eval_loss" in logs:
            self.say(
                f"step {state.global_step}/{state.max_steps}  held-out loss {logs['eval_loss']:.4f}  "
                f"perplexity {logs['eval_perplexity']:.3f}"
            )
        if not logs or "teacher_ce" not in logs:
            return
        tokens, seconds = int(logs["tokens"]), float(logs["seconds"])
        names = ("loss", "teacher_ce", "student_ce", "kl", "mask_rate", "learning_rate", "grad_norm")
        speed = (tokens - self.last.tokens) / max(seconds - self.last.seconds, 1e-9)
        line = {"step": state.global_step, **{name: logs[name] for name in names}}
        line |= {"tokens": tokens, "tokens_per_second": round(speed, 1), "seconds": round(seconds, 3)}
        self.last = TrainProgress(state.global_step, tokens, seconds)
        append_line(self.path, json.dumps(line))
        if sys.stderr.isatty():
            self.meter.update(state.global_step, state.max_steps, f"loss {line['loss']:.4f}, {speed:.0f} tokens/s")
        elif time.monotonic() - self.said >= NARRATION_SECONDS or state.global_step == state.max_steps:
            self.said = time.monotonic()
            terms = ""
            if line["student_ce"] > 0:  # a step with plain samples only has no teacher and student terms
                terms = f"  teacher {line['teacher_ce']:.4f}  student {line['student_ce']:.4f}  kl {line['kl']:.4f}"
                terms += f"  mask {line['mask_rate']:.2f}"
            self.say(
                f"step {state.global_step}/{state.max_steps}  loss {line['loss']:.4f}{terms}  {speed:.0f} tokens/s"
            )

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the progress bar."""
        self.meter.close()


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and flush it, so that a kill loses nothing. Raises UserError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; {how_to_go_on(path.parent)}") from None


def newest_checkpoint(output: Path) -> Path | None:
    """Return the newest complete checkpoint in an output directory, or None."""
    whole = checkpoints(output)
    return whole[-1] if whole else None


def checkpoints(output: Path) -> list[Path]:
    """Return this program's complete checkpoints in an output directory, the oldest first.

    `progress.json` tells them from checkpoints of other trainers.
    """
    return [folder for folder in numbered(output) if (folder / PROGRESS).is_file()]


def numbered(output: Path) -> list[Path]:
    """Return the folders `checkpoint-N`, whoever wrote them, in order of N."""
    found = [path for path in output.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))


def read_progress(folder: Path) -> TrainProgress:
    """Read the progress of a run at a checkpoint. Raises UserError if it is missing or damaged."""
    try:
        found = parse_json((folder / PROGRESS).read_bytes())
        return from_table(TrainProgress, found)
    except FileNotFoundError:
        raise UserError(f"{PROGRESS} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{PROGRESS} cannot be read") from None


def what_is_wrong(folder: Path) -> str:
    """Say why a run cannot be resumed from a checkpoint: what is missing or damaged; empty if it is whole."""
    try:
        progress = read_progress(folder)
    except UserError as error:
        return str(error)
    manifest = read_marker(folder, MANIFEST)
    if manifest is not None:
        return what_changed(folder, manifest.files)
    if (folder / MANIFEST).exists():
        return f"{MANIFEST} cannot be read"
    missing = next((f"{name} is missing" for name in _usual(progress.engine) if not any(folder.glob(name))), "")
    return missing or _wrong_state(folder / "trainer_state.json", progress.step)


def _wrong_state(path: Path, step: int) -> str:
    try:
        state = TrainerState.load_from_json(str(path))
        if not isinstance(state.global_step, int) or not isinstance(state.log_history, list):
            raise ValueError("not the state of a run")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{path.name} cannot be read ({first_line(error)})"
    return "" if state.global_step == step else f"{path.name} is of step {state.global_step}, not {step}"


def _usual(engine: str) -> tuple[str, ...]:
    """Patterns of files that every checkpoint has; earlier versions wrote no manifest."""
    state = ("trainer_state.json", "rng_state*.pth", "scheduler.pt")
    if engine == "deepspeed":
        return ("latest", "global_step*", *state[:2])
    if engine == "fsdp2":
        return ("pytorch_model_fsdp_0/*", "optimizer_0/*", *state)
    return ("*model*.safetensors", "optimizer.pt", *state)


def check_checkpoints(output: Path, say: Callable[[str], None]) -> None:
    """Make sure that the newest checkpoint, from which a run would be resumed, is whole.

    Raises:
        UserError: it is damaged or incomplete; the message names the newest checkpoint that is whole.
    """
    found = numbered(output)
    ours = [folder for folder in found if (folder / PROGRESS).is_file() or (folder / MANIFEST).is_file()]
    last = int(ours[-1].name.split("-")[-1]) if ours else -1
    for folder in found:
        if folder not in ours and int(folder.name.split("-")[-1]) > last:
            say(f"{folder}: has no {PROGRESS}, so it is incomplete or another program's, and is not used")
    if ours and (wrong := what_is_wrong(ours[-1])):
        before = next((folder.name for folder in ours[-2::-1] if not what_is_wrong(folder)), "")
        advice = (
            f"{before} is whole: remove {ours[-1].name} and run again with --resume to continue from it"
            if before
            else "no other checkpoint is whole; restore it, or start again with --overwrite"
        )
        raise UserError(f"{ours[-1]}: cannot resume from it, {wrong}; {advice}")
    if found and not ours:
        raise UserError(
            f"{output}: {found[-1].name} is not a complete checkpoint (no {PROGRESS}); start again with --overwrite, "
            "or choose another output"
        )


def seal(folder: Path, progress: TrainProgress) -> None:
    """Complete a checkpoint: record sizes and digests of its files, and then the progress of the run."""
    usual_modes(folder)
    write_marker(folder, Marker("train", "finished", facts_of(folder, files_below(folder))), MANIFEST)
    progress.save(folder)


def forget_old(output: Path, best: str | None, keep: int = 2) -> None:
    """Delete this program's checkpoints but the newest `keep` and the best one."""
    for folder in checkpoints(output)[:-keep]:
        if best is None or folder.name != Path(best).name:
            remove_tree(folder)


def how_to_go_on(output: Path) -> str:
    checkpoint = newest_checkpoint(output)
    return f"continue from {checkpoint.name} with --resume" if checkpoint else "no checkpoint was written yet"


def check_same_data(config: TrainConfig, first: TrainProgress, data: str) -> None:
    """Raise UserError if a run that is resumed began with other samples.

    Args:
        config: configuration of the run.
        first: progress of the checkpoint; that of a new run fits all samples.
        data: digest of the samples, see `steps.data_digest`.
    """
    if first.data not in ("", data):
        raise UserError(
            f"{config.output}: cannot resume, the samples in {', '.join((*config.data, *config.eval_data))} are not "
            "those that the run began with; put the data (and the tokenizer) back, or choose another output"
        )


def check_same_run(config: TrainConfig, output: Path) -> None:
    """Raise UserError if a setting that affects the result differs from the run that is resumed."""
    before = settings.load(TrainConfig, output / "config.toml")
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in FREE_ON_RESUME]
    changed = [
        f"{name} was {getattr(before, name)!r} and is now {getattr(config, name)!r}"
        for name in names
        if not same_value(name, getattr(before, name), getattr(config, name))
    ]
    if changed:
        raise UserError(f"{output}: cannot resume, {'; '.join(changed)}")
