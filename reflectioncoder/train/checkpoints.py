"""Files that a training run writes: log, checkpoints and the model.

A run can be killed at any moment and loses at most the steps since its last checkpoint. A checkpoint is complete only
when its last file, `progress.json`, is written. The weights of a finished model are also moved into place last.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from reflectioncoder.config import toml as settings
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.whole import write_whole
from reflectioncoder.progress import Meter

LOG = "log.jsonl"
EVALUATIONS = "eval.jsonl"
PROGRESS = "progress.json"  # written last: a checkpoint with this file is complete
MODEL = "model.safetensors"
# Files that describe the weights. A new run deletes them, because they would not match its weights.
BESIDE_WEIGHTS = (
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
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
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    engine: str = "none"
    data: str = ""

    def save(self, folder: Path) -> None:
        """Mark a checkpoint as complete."""
        write_whole(folder / PROGRESS, lambda out: out.write(json.dumps(dataclasses.asdict(self)) + "\n"))


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
    whole = [folder for folder in checkpoints(output) if (folder / PROGRESS).is_file()]
    return whole[-1] if whole else None


def checkpoints(output: Path) -> list[Path]:
    found = [path for path in output.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))


def how_to_go_on(output: Path) -> str:
    checkpoint = newest_checkpoint(output)
    return f"continue from {checkpoint.name} with --resume" if checkpoint else "no checkpoint was written yet"


def check_same_run(config: TrainConfig, output: Path) -> None:
    """Raise UserError if a setting that affects the result differs from the run that is resumed."""
    before = settings.load(TrainConfig, output / "config.toml")
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in FREE_ON_RESUME]
    changed = [
        f"{name} was {getattr(before, name)!r} and is now {getattr(config, name)!r}"
        for name in names
        if getattr(before, name) != getattr(config, name)
    ]
    if changed:
        raise UserError(f"{output}: cannot resume, {'; '.join(changed)}")


def start_output(output: Path, config: TrainConfig, checkpoint: Path | None, first: TrainProgress) -> None:
    """Save the config, and delete what does not belong to this run.

    A resumed run keeps its complete checkpoints and its log up to the checkpoint. A new run keeps nothing.

    Args:
        output: output directory.
        config: configuration of the run.
        checkpoint: checkpoint that the run resumes from; None for a new run.
        first: progress of that checkpoint.

    Raises:
        UserError: the directory cannot be written.
    """
    settings.save(config, output)
    try:
        for folder in checkpoints(output):
            if checkpoint is None or not (folder / PROGRESS).is_file():
                shutil.rmtree(folder)
        if checkpoint is None:
            for pattern in ("*.safetensors", f"{MODEL}.index.json", *BESIDE_WEIGHTS, "result.json"):
                for path in output.glob(pattern):
                    path.unlink()
        for path in (output / LOG, output / EVALUATIONS):
            text = path.read_text(encoding="utf-8") if path.is_file() and checkpoint is not None else ""
            # A kill may leave an incomplete line. Steps after the checkpoint will be logged again.
            lines = [line for line in text.split("\n")[:-1] if json.loads(line)["step"] <= first.step]
            if lines or path.name == LOG or path.is_file():
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from None


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Save a model so that `from_pretrained` and `apply_chat_template` work with it.

    The weights are moved into place last, so a directory with weights holds a finished model.

    Args:
        model: a model, or a PEFT model, of which only the adapter is saved.
        tokenizer: the model's tokenizer, saved in the same directory.
        output: directory to write to.

    Raises:
        UserError: the directory cannot be written.
    """
    staging = output / ".model.part"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(model, PreTrainedModel):
            # The attention function for packed rows is registered in this process only.
            model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
            model.save_pretrained(staging)
        else:  # the adapter holds the rows of the special tokens, so the embedding tables need not be saved
            model.save_pretrained(staging, save_embedding_layers=False)
        tokenizer.save_pretrained(staging)
        for path in sorted(staging.iterdir(), key=lambda path: path.suffix == ".safetensors"):
            path.replace(output / path.name)
        staging.rmdir()
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(f"cannot write {output}: {first_line(error)}; {how_to_go_on(output)}") from None
