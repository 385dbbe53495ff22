"""The Trainer's arguments for a run."""

from __future__ import annotations

import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import choose_device
from reflectioncoder.train import trackers
from reflectioncoder.train.ranks.sharding import Engine

# The Trainer's names for these settings.
OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "lion_8bit": "lion_8bit",
}


def trainer_arguments(config: TrainConfig, engine: Engine) -> TrainingArguments:
    """Return the Trainer's arguments except the number of steps; with several ranks, initialise their process group."""
    transformers_logging.disable_progress_bar()
    schedule = "constant_with_warmup" if config.scheduler == "constant" else config.scheduler
    arguments = TrainingArguments(
        output_dir=config.output,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        weight_decay=config.weight_decay,
        # finish_gradients clips, because it has the master gradients; DeepSpeed clips itself.
        max_grad_norm=config.max_grad_norm if engine == "deepspeed" else 0.0,
        bf16=engine == "deepspeed" and config.precision == "bfloat16",
        seed=config.seed,
        ddp_timeout=config.rank_timeout,
        use_cpu=training_device(config).type == "cpu",
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if config.save_steps > 0 else "no",
        save_steps=max(config.save_steps, 1),
        save_total_limit=None,  # `forget_old` deletes old checkpoints, and no other program's
        report_to=trackers.choose_trackers(config.report_to) or "none",
        optim=OPTIMIZERS[config.optimizer],
        eval_strategy="steps" if config.eval_steps else "no",
        eval_steps=config.eval_steps or None,
        metric_for_best_model="eval_loss" if config.eval_steps else None,
        greater_is_better=False if config.eval_steps else None,
        load_best_model_at_end=config.keep_best,
        restore_callback_states_from_checkpoint=True,  # keeps the count of evaluations without improvement
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # with several visible GPUs the Trainer would use DataParallel
    return arguments


def check_optimizer(config: TrainConfig, device: torch.device) -> None:
    """Raise UserError if the optimizer does not run on a device."""
    if "8bit" in config.optimizer and device.type != "cuda":
        raise UserError(f"optimizer = {config.optimizer}: needs a CUDA GPU and bitsandbytes; use adamw or adafactor")


def training_device(config: TrainConfig) -> torch.device:
    """The device of a run. Raises UserError if it cannot be trained on, or is not there."""
    device = choose_device(config.device)
    if device.type not in ("cpu", "cuda") or device.index:
        raise UserError(f"device '{config.device}': take cpu or cuda; choose a GPU with CUDA_VISIBLE_DEVICES")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{config.device}': this machine or this PyTorch has no CUDA; take cpu")
    return device
