"""The Trainer of masked self-distillation: one batch is one optimizer step with its own, exact normalisation.

One item of the data loader is this rank's share of a whole global batch, cut into micro-batches whose losses add up to
the batch's loss. So accumulation, schedules, clipping and resume see optimizer steps only, and nothing rescales the
loss.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments

from reflectioncoder.checkpoints import Progress
from reflectioncoder.config import TrainConfig
from reflectioncoder.errors import UserError
from reflectioncoder.loss import micro_batch_loss
from reflectioncoder.optimizer import MasterAdamW
from reflectioncoder.steps import Step, Steps


class ReflectionTrainer(Trainer):
    """A Trainer of which one batch is one optimizer step with its own, exact normalisation.

    Args:
        model: with `attention.use_varlen_attention` applied.
        args: gradient accumulation 1 and no clipping (`max_grad_norm` of the config is applied here).
        steps: the run; its world says how many ranks share it.
        config: of the run.
        first: steps already taken, with their tokens and seconds (a resumed run).
    """

    def __init__(
        self, model: PreTrainedModel, args: TrainingArguments, steps: Steps, config: TrainConfig, first: Progress
    ) -> None:
        super().__init__(model=model, args=args)
        self.network = model  # `model` is what an engine may have wrapped
        self.steps = steps
        self.world = steps.world
        self.config = config
        self.tokens = first.tokens
        self.seconds_before = first.seconds
        self.started = time.monotonic()
        self.terms: dict[str, float] = {}
        # Says that nothing is left to prepare, so that accelerate puts no DistributedDataParallel around the model:
        # its buckets would take the model's size again, and it cannot see the optimizer's float32 gradients.
        model._is_accelerate_prepared = True  # type: ignore[assignment]

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
            totals += torch.stack([part.detach().double() for part in terms])
        inner: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        self.world.total(totals)
        self.world.total_gradients(inner.parameters())
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
            self.world.wait()  # a checkpoint is whole when every rank has written its part
            if self.world.first:
                Progress(self.state.global_step, self.tokens, self.seconds).save(folder)
        except (OSError, SafetensorError) as error:
            self._give_up(folder, error)
        except RuntimeError as error:
            if self.world.size > 1:
                raise  # another rank may be gone
            self._give_up(folder, error)

    def _give_up(self, folder: Path, error: Exception) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"cannot write {folder}: {str(error).splitlines()[0]}; earlier checkpoints are intact, go on with --resume"
        ) from None


def _only_item(items: list[Step]) -> dict[str, Step]:
    return {"step": items[0]}
