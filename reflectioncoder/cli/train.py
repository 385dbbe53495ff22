"""`reflectioncoder train` and `consolidate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.cli.arguments import Switches, Verb, positional
from reflectioncoder.cli.process import keep_freed_memory
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.models.model_files import check_model_files


@dataclass(frozen=True)
class ConsolidateArguments:
    """Convert a training checkpoint, sharded or not, to a plain model directory for `from_pretrained`.

    Args:
        checkpoint: directory of the checkpoint, such as runs/train/checkpoint-100, or of the run, whose newest
            checkpoint is used.
        output: directory to write; it must not contain a model.
    """

    checkpoint: str = positional()
    output: str = positional()


def run_train(config: TrainConfig, switches: Switches) -> int:
    """Train, or print a plan of the run: steps, memory and time."""
    check_model_files(config.model)  # before the seconds that torch takes
    keep_freed_memory()
    from reflectioncoder.train.train import describe_plan, train

    if switches.dry_run:
        print(describe_plan(config))
        return 0
    train(config)
    return 0


def run_consolidate(arguments: ConsolidateArguments, _: Switches) -> int:
    """Write the model directory and print its path."""
    from reflectioncoder.train.consolidate import consolidate

    consolidate(Path(arguments.checkpoint), Path(arguments.output))
    print(arguments.output)
    return 0


TRAIN = Verb(
    "fine-tune a causal language model on sequences by masked self-distillation",
    TrainConfig,
    run_train,
    configured=True,
)
CONSOLIDATE = Verb("convert a training checkpoint to a plain model directory", ConsolidateArguments, run_consolidate)
