"""Fine-tuning by masked self-distillation (section 3.2): `train(config)` and the Trainer behind it.

One item of the data loader is one whole global batch, cut into micro-batches whose losses add up to the batch's
loss. So accumulation, schedules, clipping and resume see optimizer steps only, and nothing rescales the loss.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.tokenization_utils_base import AddedToken
from transformers.utils import logging as transformers_logging

from reflectioncoder.attention import has_rotary_positions, use_varlen_attention
from reflectioncoder.batching import (
    MicroBatch,
    build_rows,
    cost,
    last_round,
    loss_weights,
    pack,
    plan_steps,
    split_by_cost,
)
from reflectioncoder.checkpoints import (
    LOG,
    MODEL,
    PROGRESS,
    LogFile,
    Progress,
    check_same_run,
    checkpoints,
    how_to_go_on,
    newest_checkpoint,
    save_model,
    start_output,
)
from reflectioncoder.config import TrainConfig
from reflectioncoder.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.instruct import read_training
from reflectioncoder.loss import micro_batch_loss
from reflectioncoder.masking import check_order, mask_rate
from reflectioncoder.models import choose_device, load_model_and_tokenizer, load_tokenizer
from reflectioncoder.optimizer import MasterAdamW
from reflectioncoder.probe import check_model
from reflectioncoder.template import SPECIAL_TOKENS, Encoded, add_special_tokens, encode


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    Args:
        output: directory of the trained model.
        steps: optimizer steps of the whole run.
        tokens: tokens through the model, teacher and student rows both counted, over the whole run.
        seconds: time in the training loop, over the whole run.
        samples: samples used, up-sampling not counted.
        dropped: samples left out because they were longer than `max_length`.
        loss: of the last step.
    """

    output: str
    steps: int
    tokens: int
    seconds: float
    samples: int
    dropped: int
    loss: float


@dataclass(frozen=True)
class Step:
    """One global batch: its micro-batches, whose losses add up to its loss, and the mask rate it was made with."""

    micro_batches: list[MicroBatch]
    mask_rate: float

    @property
    def tokens(self) -> int:
        """Tokens through the model."""
        return sum(batch.tokens for batch in self.micro_batches)


class Steps(Dataset[Step]):
    """The optimizer steps of a run: item s is what step s trains on, a function of samples, config and s alone.

    Args:
        samples: encoded samples.
        repeats: how often an epoch has each.
        config: of the run.
    """

    def __init__(self, samples: Sequence[Encoded], repeats: Sequence[int], config: TrainConfig) -> None:
        self.samples = samples
        self.config = config
        self.plan = plan_steps(
            repeats,
            lambda i, step, max_steps: cost(samples[i], config.masking, step, max_steps, config.seed),
            batch_size=config.batch_size,
            epochs=config.epochs,
            max_steps=config.max_steps,
            max_tokens=config.max_tokens,
            seed=config.seed,
        )

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> Step:
        config, max_steps = self.config, len(self.plan)
        rows = [
            build_rows(self.samples[i], config.masking, config.positions, step, max_steps, config.seed)
            for i in self.plan[step]
        ]
        weights = loss_weights(rows, config.loss)
        groups = split_by_cost([sample.tokens for sample in rows], config.micro_tokens)
        batches = [pack([(rows[i], weights[i]) for i in group]) for group in groups]
        return Step(batches, mask_rate(step, max_steps, config.masking.semantics))


class ReflectionTrainer(Trainer):
    """A Trainer of which one batch is one optimizer step with its own, exact normalisation.

    Args:
        model: with `attention.use_varlen_attention` applied.
        args: gradient accumulation 1 and no clipping (`max_grad_norm` of the config is applied here).
        steps: the run.
        config: of the run.
        first: steps already taken, with their tokens and seconds (a resumed run).
    """

    def __init__(
        self, model: PreTrainedModel, args: TrainingArguments, steps: Steps, config: TrainConfig, first: Progress
    ) -> None:
        super().__init__(model=model, args=args)
        self.network = model  # `model` is what an engine may have wrapped
        self.steps = steps
        self.config = config
        self.tokens = first.tokens
        self.seconds_before = first.seconds
        self.started = time.monotonic()
        self.terms: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Time in the training loop so far, of all runs that led here."""
        return self.seconds_before + time.monotonic() - self.started

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Steps in order, one an item; a resumed run skips those already taken without making them."""
        return DataLoader(self.steps, batch_size=1, shuffle=False, collate_fn=_only_item)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with float32 master weights; weight decay on matrices only."""
        if self.optimizer is None:
            trained = [p for p in self.network.parameters() if p.requires_grad]
            groups = [
                {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.config.weight_decay},
                {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            ]
            self.optimizer = MasterAdamW(
                [group for group in groups if group["params"]], lr=self.config.learning_rate, fused=True
            )
        return self.optimizer

    def training_step(  # type: ignore[override]
        self, model: torch.nn.Module, inputs: dict[str, Step], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of a whole global batch; returns its loss."""
        model.train()
        step = inputs["step"]
        device = self.args.device
        totals = torch.zeros(4, dtype=torch.float64, device=device)
        for micro_batch in step.micro_batches:
            terms = micro_batch_loss(self.network, micro_batch.to(device))
            terms.loss.backward()
            parts = [terms.loss.detach(), terms.teacher_ce, terms.student_ce, terms.kl]
            totals += torch.stack([part.double() for part in parts])
        inner: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        limit = self.config.max_grad_norm if self.config.max_grad_norm > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(inner.parameters(), limit)
        loss, teacher_ce, student_ce, kl = totals.tolist()
        if not math.isfinite(loss):
            raise UserError(
                f"step {self.state.global_step}: the loss is {loss}; lower learning_rate or use precision float32"
            )
        self.tokens += step.tokens
        self.terms = {
            "loss": loss,
            "teacher_ce": teacher_ce,
            "student_ce": student_ce,
            "kl": kl,
            "mask_rate": step.mask_rate,
            "learning_rate": float(inner.param_groups[0]["lr"]),
            "grad_norm": norm.item(),
        }
        return totals[0].float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms to what every logger gets."""
        if "loss" in logs:
            logs = {**logs, **self.terms, "tokens": self.tokens, "seconds": self.seconds}
        super().log(logs, start_time)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        folder = Path(self.config.output) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            Progress(self.state.global_step, self.tokens, self.seconds).save(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"cannot write {folder}: {str(error).splitlines()[0]}; earlier checkpoints are intact, "
                "go on with --resume"
            ) from None


def train(
    config: TrainConfig, say: Callable[[str], None] | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> TrainResult:
    """Fine-tune a model as `config` says and leave it in `config.output`.

    Args:
        config: of the run.
        say: takes one-line messages; standard error by default.
        callbacks: further callbacks of the Trainer.

    Raises:
        UserError: bad configuration or data, an output that would be overwritten, a disk that is full, Ctrl-C.
    """
    say = say or _to_stderr
    output = Path(config.output)
    _check(config, output)
    checkpoint = newest_checkpoint(output) if config.resume else None
    if checkpoint is not None:
        check_same_run(config, output)
        first = Progress(**json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))
        say(f"going on from {checkpoint}")
    else:
        first = Progress()
    dialogues = [dialogue for path in config.data for dialogue in read_training(path)]
    model, tokenizer = load_model_and_tokenizer(config.model, config.precision, str(_device(config)))
    add_special_tokens(model, tokenizer)
    if config.positions == "keep" and config.objective == "reflection" and not has_rotary_positions(model):
        raise UserError(
            f"model {config.model}: has no rotary positions, so student tokens cannot keep their places; "
            'set positions = "rebase"'
        )
    samples, repeats, dropped = prepare(dialogues, tokenizer, config)
    say(_summary(samples, dropped, config))
    use_varlen_attention(model, max(map(len, samples)))
    check_model(model)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        # Newer releases of transformers gave it another name.
        enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    steps = Steps(samples, repeats, config)
    start_output(output, config, checkpoint, first)
    trainer = ReflectionTrainer(model, _arguments(config, len(steps)), steps, config, first)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    for added in (LogFile(output / LOG, first, say), *callbacks):
        trainer.add_callback(added)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise UserError(
            f"interrupted after step {trainer.state.global_step} of {len(steps)}; {how_to_go_on(output)}"
        ) from None
    seconds = trainer.seconds
    model.config.use_cache = True
    save_model(model, tokenizer, output)
    for folder in checkpoints(output):
        shutil.rmtree(folder, ignore_errors=True)
    result = TrainResult(
        str(output), len(steps), trainer.tokens, seconds, len(samples), dropped, trainer.terms.get("loss", math.nan)
    )
    (output / "result.json").write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", encoding="utf-8")
    return result


def describe_plan(config: TrainConfig) -> str:
    """What a run would do, in one line, without loading the model. Raises UserError as `train`."""
    _check(config, Path(config.output))
    dialogues = [dialogue for path in config.data for dialogue in read_training(path)]
    tokenizer = load_tokenizer(config.model)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    samples, repeats, dropped = prepare(dialogues, tokenizer, config)
    steps = Steps(samples, repeats, config)
    tokens = sum(
        cost(samples[i], config.masking, step, len(steps), config.seed)
        for step, batch in enumerate(steps.plan)
        for i in batch
    )
    return (
        f"would train {config.model} ({config.objective}) on {_summary(samples, dropped, config)}: "
        f"{len(steps)} steps, {tokens:,} tokens through the model, into {config.output}"
    )


def prepare(
    dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> tuple[list[Encoded], list[int], int]:
    """Encode the samples of a run; those longer than `max_length` are left out.

    Returns:
        The samples, named by their place in the data; how often an epoch has each (reflection data is up-sampled,
        whatever the objective, so that objectives see the same samples); and how many were left out.

    Raises:
        UserError: nothing is left.
    """
    if not dialogues:
        raise UserError(f"data {', '.join(config.data)}: there are no samples")
    samples = []
    for number, dialogue in enumerate(dialogues):
        encoded = encode(dialogue, tokenizer, sample_id=str(number))
        samples.append(last_round(encoded) if config.objective == "instruction" else encoded)
    fits = [len(sample) <= config.max_length for sample in samples]
    kept = [sample for sample, fit in zip(samples, fits, strict=True) if fit]
    repeats = [
        config.upsample if dialogue.is_reflection else 1 for dialogue, fit in zip(dialogues, fits, strict=True) if fit
    ]
    if not kept:
        shortest = min(len(sample) for sample in samples)
        raise UserError(
            f"data {', '.join(config.data)}: all {len(samples)} samples are longer than max_length = "
            f"{config.max_length} tokens (the shortest has {shortest}); raise max_length"
        )
    return kept, repeats, len(samples) - len(kept)


def _only_item(items: list[Step]) -> dict[str, Step]:
    return {"step": items[0]}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _device(config: TrainConfig) -> torch.device:
    device = choose_device(config.device)
    if device.type not in ("cpu", "cuda") or device.index:
        raise UserError(f"device '{config.device}': take cpu or cuda; choose a GPU with CUDA_VISIBLE_DEVICES")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{config.device}': this machine or this PyTorch has no CUDA; take cpu")
    return device


def _check(config: TrainConfig, output: Path) -> None:
    """Everything that can be told to be wrong before anything is loaded."""
    if not config.data:
        raise UserError("data: name at least one file of dialogues")
    check_order(config.masking.order)
    for name in ("batch_size", "micro_tokens", "max_length", "upsample"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} = {getattr(config, name)}: must be at least 1")
    for name in ("max_steps", "max_tokens"):
        if getattr(config, name) == 0 or getattr(config, name) < -1:
            raise UserError(f"{name} = {getattr(config, name)}: must be positive, or -1 for none")
    if config.epochs <= 0:
        raise UserError(f"epochs = {config.epochs}: must be positive")
    if (output / MODEL).exists() or (output / f"{MODEL}.index.json").exists():
        if config.resume and not config.overwrite:
            raise UserError(f"{output}: the run is finished, there is nothing to resume; set overwrite to train anew")
        if not config.overwrite:
            raise UserError(f"{output}: holds a finished model; choose another output, or set overwrite")


def _summary(samples: Sequence[Encoded], dropped: int, config: TrainConfig) -> str:
    reflections = sum(sample.is_reflection for sample in samples)
    text = f"{len(samples)} samples ({reflections} reflection, {len(samples) - reflections} plain)"
    return text + (f"; dropped {dropped} longer than {config.max_length} tokens" if dropped else "")


def _arguments(config: TrainConfig, max_steps: int) -> TrainingArguments:
    transformers_logging.disable_progress_bar()
    schedule = "constant_with_warmup" if config.scheduler == "constant" else config.scheduler
    arguments = TrainingArguments(
        output_dir=config.output,
        max_steps=max_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=math.ceil(config.warmup_ratio * max_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=0.0,  # clipped in training_step, where the master gradients are known
        seed=config.seed,
        use_cpu=_device(config).type == "cpu",
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if config.save_steps > 0 else "no",
        save_steps=max(config.save_steps, 1),
        save_total_limit=2,
        report_to=config.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs would mean DataParallel
    return arguments
