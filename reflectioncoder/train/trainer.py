"""The Trainer for masked self-distillation: each batch is one optimizer step, normalised exactly by its own counts.

One item of the data loader is this rank's share of a global batch, split into micro-batches whose losses sum to the
loss of the batch. So accumulation, schedules, clipping and resuming all work in optimizer steps, and the loss is never
rescaled.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import RankError, UserError, first_line, out_of_memory
from reflectioncoder.files.owned import remove_tree
from reflectioncoder.models.saved_files import complete_configuration
from reflectioncoder.models.tokenizer import write_tokenizer
from reflectioncoder.train.batch.curriculum import Curriculum
from reflectioncoder.train.batch.masking import mask_rate
from reflectioncoder.train.batch.packing import MicroBatch
from reflectioncoder.train.batch.steps import Ahead, Numbers, TrainStep, TrainSteps
from reflectioncoder.train.checkpoints import (
    EVALUATIONS,
    TrainProgress,
    append_line,
    checkpoints,
    forget_old,
    newest_checkpoint,
    seal,
)
from reflectioncoder.train.compute.average import MovingAverage
from reflectioncoder.train.compute.divergence import Distance
from reflectioncoder.train.compute.flops import Needed, peak_flops
from reflectioncoder.train.compute.loss import LossTerms, micro_batch_loss, through
from reflectioncoder.train.compute.master_weights import MasterAdamW, with_masters
from reflectioncoder.train.held_out import metrics
from reflectioncoder.train.lora import set_precision
from reflectioncoder.train.on_policy import OnPolicy
from reflectioncoder.train.output import CHECKPOINT_STAGING
from reflectioncoder.train.ranks.sharding import Engine, attach
from reflectioncoder.train.ranks.world import lost_contact
from reflectioncoder.train.trackers import stage


class ReflectionTrainer(Trainer):
    """A Trainer whose batches are whole optimizer steps.

    Args:
        model: model with `packed_attention.use_varlen_attention` applied; possibly a PEFT model from
            `lora.add_adapters`.
        args: arguments with gradient accumulation 1 and, except with DeepSpeed, no clipping (`finish_gradients` applies
            the config's `max_grad_norm`).
        steps: the steps of the run, and the ranks that share them (`steps.world`).
        config: configuration of the run.
        first: progress of a resumed run (steps, tokens, seconds), and the digest of the samples.
        tokenizer: tokenizer to save with every checkpoint.
        engine: sharding engine.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        steps: TrainSteps,
        config: TrainConfig,
        first: TrainProgress,
        tokenizer: PreTrainedTokenizerBase,
        engine: Engine = "none",
    ) -> None:
        self.engine = engine
        self.config = config
        # `evaluate` uses `held_out`; the Trainer only requires that there is an evaluation data set.
        super().__init__(model=model, args=args, eval_dataset=steps if config.eval_steps else None)
        self.tokenizer = tokenizer
        # The plain network; `model` may be a PEFT model around it, and an engine may wrap that.
        self.network: Any = model.get_base_model() if config.lora.r else model
        self.distance = Distance(config.loss.divergence, config.loss.temperature)
        self.average = MovingAverage(self.network, config.loss.decay) if config.loss.teacher == "average" else None
        self.steps = steps
        self.world = steps.world
        self.curriculum = Curriculum(first.stage, tuple(first.recent))
        self.teacher_tokens, self.decoded_tokens = first.teacher_tokens, first.decoded_tokens
        self.own_answers: OnPolicy | None = None
        self.tokens = first.tokens
        self.data = first.data
        self.seconds_before = first.seconds
        self.started = time.monotonic()
        self.terms: dict[str, float] = {}
        self.curves: dict[str, float] = {}
        self.needed = Needed(self.network)
        self.operations = 0  # floating-point operations, on all ranks, of the steps since this process started
        self.logged = (first.tokens, self.operations, first.seconds)
        self.held_out: list[MicroBatch] = []
        self.passing = 0  # tokens of the latest pass
        self.saving = False
        if engine == "none":
            # Mark the model as prepared, so that accelerate does not wrap it in DistributedDataParallel. That would use
            # the model's size again for its buckets, and does not handle the optimizer's float32 gradients.
            model._is_accelerate_prepared = True

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator and set up its sharding engine."""
        super().create_accelerator_and_postprocess()
        attach(self, self.engine, self.config.precision)

    @property
    def seconds(self) -> float:
        """Time in the training loop so far, including the earlier parts of a resumed run."""
        return self.seconds_before + time.monotonic() - self.started

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of steps in order, one per item; a resumed run skips earlier steps without building them."""
        items: Any = Numbers(self.steps) if self.steps.adaptive else Ahead(self.steps)
        return DataLoader(items, batch_size=1, shuffle=False, collate_fn=_only_item)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1], where its end is given in tokens that cannot be planned."""
        return min(1.0, self.tokens / self.config.max_tokens)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule of the learning rate; a run of unplanned tokens follows the tokens that it has spent."""
        if not self.steps.by_tokens or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        shape = partial(rate_at, scheduler=self.config.scheduler, warmup=self.config.warmup_ratio)
        chosen: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, lambda _: shape(self.progress))
        return self.lr_scheduler

    def make(self, step: int) -> TrainStep:
        """Build a step that depends on the steps before it."""
        if self.own_answers is not None:
            return self.own_answers.make(step)
        masking = self.config.masking
        floor = self.progress if self.steps.by_tokens else mask_rate(step, len(self.steps), masking.semantics)
        return self.steps.make(step, lambda: None, self.curriculum.rate(floor, masking))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer, with float32 master weights unless an engine keeps them.

        Weight decay applies to matrices only.
        """
        if self.optimizer is None:
            trained = [p for p in self.network.parameters() if p.requires_grad]
            groups = [
                {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.config.weight_decay},
                {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            ]
            kind, options = self._optimizer_kind()
            self.optimizer = kind([group for group in groups if group["params"]], **options)
        return self.optimizer

    def _optimizer_kind(self) -> tuple[Any, dict[str, Any]]:
        if self.config.optimizer == "adamw":
            kind = MasterAdamW if self.engine == "none" else torch.optim.AdamW
            return kind, {"lr": self.config.learning_rate, "fused": True}
        found, options = Trainer.get_optimizer_cls_and_kwargs(self.args, self.network)
        return found if self.engine != "none" else with_masters(found), options

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run the remaining steps; there are none if early stopping ended the run at this checkpoint."""
        stoppers = [found for found in self.callback_handler.callbacks if isinstance(found, EarlyStoppingCallback)]
        if any(stopper.early_stopping_patience_counter >= stopper.early_stopping_patience for stopper in stoppers):
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(  # type: ignore[override]
        self, model: torch.nn.Module, inputs: dict[str, TrainStep | int], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run the forward and backward passes of a global batch, and return its loss (a scalar `[]`)."""
        model.train()
        if self.average is not None:
            self.average.update()  # by the weights of the step before; at the first step it equals the weights
        item = inputs["step"]
        step = self.make(item) if isinstance(item, int) else item
        device = self.args.device
        totals = torch.zeros(4, dtype=torch.float64, device=device)
        for number, micro_batch in enumerate(step.micro_batches):
            terms = self.forward(micro_batch.to(device))
            self.backward(terms.loss, number == len(step.micro_batches) - 1)
            totals += torch.stack([part.detach().double() for part in terms])
        norm = self.finish_gradients()
        self.world.total(totals)
        loss, teacher_ce, student_ce, kl = totals.tolist()
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):  # the weights are still those of the previous step, except with DeepSpeed
                newest = newest_checkpoint(Path(self.config.output))
                raise UserError(
                    f"step {self.state.global_step}: the {name} is {value}; start again with a lower learning_rate or "
                    "precision float32" + (f" ({newest.name} is intact)" if newest else "")
                )
        self.teacher_tokens += step.teacher_tokens
        self.decoded_tokens += step.decoded_tokens
        if self.steps.adaptive:
            self.curriculum = self.curriculum.after(kl if step.visible else None, step.mask_rate, self.config.masking)
        self.tokens += step.tokens
        self.operations += self.needed(step.tokens - step.again, step.scored, step.squares)
        self.curves = {**step.visible, f"kl_stage_{stage(step.mask_rate)}": kl} if step.visible else {}
        self.terms = {
            "loss": loss,
            "teacher_ce": teacher_ce,
            "student_ce": student_ce,
            "kl": kl,
            "mask_rate": step.mask_rate,
            "learning_rate": self._get_learning_rate(),
            "grad_norm": norm,
        }
        return totals[0].float()

    def forward(self, batch: MicroBatch) -> LossTerms:
        """Compute the loss of a micro-batch through the sharding engine, which gathers the weights."""
        self.passing = batch.tokens
        loss_of = partial(micro_batch_loss, self.network, distance=self.distance, average=self.average)
        if self.engine == "none":
            return loss_of(batch)
        root = self.accelerator.unwrap_model(self.model_wrapped) if self.engine == "deepspeed" else self.model_wrapped
        return through(root, loss_of, batch, caller=self.model_wrapped)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a micro-batch's gradients.

        Engines average gradients over the ranks, but this loss needs their sum, so it is multiplied by the ranks.

        Args:
            loss: loss of the micro-batch, a scalar `[]`.
            last: whether this is the last micro-batch of the step.
        """
        if self.engine == "none":
            loss.backward()
            return
        # DeepSpeed runs its optimizer step inside the last backward pass.
        self.accelerator.gradient_state._set_sync_gradients(last)
        self.accelerator.backward(loss * self.world.size)

    def finish_gradients(self) -> float:
        """Sum the gradients of all ranks and clip them. Returns their norm before clipping."""
        if self.engine == "deepspeed":  # already done, as set in its configuration
            wrapped: Any = self.model_wrapped
            return float(wrapped.get_global_grad_norm())
        inner: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
        if self.engine == "none":
            self.world.total_gradients(parameters)
        limit = self.config.max_grad_norm if self.config.max_grad_norm > 0 else math.inf
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return float(norm.full_tensor() if self.engine == "fsdp2" else norm)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # type: ignore[override]
        """Compute the loss of the held-out samples (`held_out.py`), for early stopping and the best checkpoint."""
        self.model_wrapped.eval()
        totals = torch.zeros(4, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for micro_batch in self.held_out:
                terms = self.forward(micro_batch.to(self.args.device))
                totals += torch.stack([part.double() for part in terms])
        found = metrics(*self.world.total(totals).tolist())
        if self.world.first:
            line = {"step": self.state.global_step, **found}
            append_line(Path(self.config.output) / EVALUATIONS, json.dumps(line))
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms and the speed to the logs of every tracker."""
        if "loss" in logs:
            seconds = self.seconds
            passed = max(seconds - self.logged[2], 1e-9)
            more = {"tokens_per_second": (self.tokens - self.logged[0]) / passed}
            peak = peak_flops(self.args.device)
            if peak is not None:
                more["mfu"] = (self.operations - self.logged[1]) / passed / (peak * self.world.size)
            self.logged = (self.tokens, self.operations, seconds)
            logs = {**logs, **self.terms, **self.curves, **more, "tokens": self.tokens, "seconds": seconds}
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights. Other ranks wait at a gloo barrier with a long timeout."""
        super().save_model(output_dir, _internal_call)
        self.world.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if self.average is not None:
                self.average.load(Path(resume_from_checkpoint))
        if self.config.lora.r:
            set_precision(self.network, self.config)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of weights that a checkpoint lacks, but for the output head of a model that ties it."""
        tied = set(getattr(self.network, "all_tied_weights_keys", None) or ())
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _get_output_dir(self, trial: Any = None) -> str:
        """Return the folder of the checkpoints; while one is written, a folder beside them."""
        output = Path(self.config.output)
        return str(output / CHECKPOINT_STAGING if self.saving else output)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """Write a checkpoint beside its place, and rename it when every rank has written its part."""
        output, name = Path(self.config.output), f"checkpoint-{self.state.global_step}"
        folder, staging = output / name, output / CHECKPOINT_STAGING
        self.saving = True
        try:
            super()._save_checkpoint(model, trial)
            if self.world.first:
                self.network.config.save_pretrained(staging / name)
                if self.network.generation_config is not None:
                    self.network.generation_config.save_pretrained(staging / name)
                write_tokenizer(self.tokenizer, staging / name)
                complete_configuration(staging / name)
                if self.average is not None:
                    self.average.save(staging / name)
            if self.state.best_global_step:  # the Trainer looks for it in the folder it writes to
                self.state.best_model_checkpoint = str(output / f"checkpoint-{self.state.best_global_step}")
            self.world.wait()
            if self.world.first:
                self.state.save_to_json(str(staging / name / "trainer_state.json"))
                progress = TrainProgress(
                    self.state.global_step, self.tokens, self.seconds, self.engine, self.data,
                    self.curriculum.stage, self.curriculum.recent, self.teacher_tokens, self.decoded_tokens,
                )  # fmt: skip
                seal(staging / name, progress)
                if folder in checkpoints(output):
                    remove_tree(folder)
                (staging / name).rename(folder)
                forget_old(output, self.state.best_model_checkpoint)
            self.world.wait()
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            if lost_contact(error):
                raise
            raise RankError(
                f"cannot write {folder}: {first_line(error)}; earlier checkpoints are intact, continue with --resume"
            ) from None
        finally:
            self.saving = False
            if self.world.first:
                shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def readable(checkpoint: str | None) -> Iterator[None]:
    """Context manager that turns the errors of a damaged checkpoint into a UserError."""
    try:
        yield
    except Exception as error:  # damaged files raise errors of many kinds: of zip, of pickle, of their own checks
        if isinstance(error, UserError) or lost_contact(error) or out_of_memory(error):
            raise
        raise UserError(
            f"{checkpoint}: cannot be read ({first_line(error)}); restore it, or remove it and resume"
        ) from None


def rate_at(progress: float, scheduler: str, warmup: float) -> float:
    """The learning rate as a share of its peak, at a share of the run in [0, 1]."""
    if progress < warmup:
        return progress / warmup
    left = (1 - progress) / max(1 - warmup, 1e-9)
    return {"cosine": (1 - math.cos(math.pi * left)) / 2, "linear": left}.get(scheduler, 1.0)


class TokenLimit(TrainerCallback):
    """Ends a run whose tokens cannot be planned at the first step that reaches `max_tokens`.

    Args:
        trainer: the trainer of the run.
    """

    def __init__(self, trainer: ReflectionTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if the tokens are spent."""
        if self.trainer.tokens >= self.trainer.config.max_tokens:
            control.should_training_stop = True


def _only_item(items: list[Any]) -> dict[str, Any]:
    return {"step": items[0]}
