"""Settings of `demo`."""

from __future__ import annotations

from dataclasses import dataclass

from reflectioncoder.config.pretrain import MICRO_MODEL


@dataclass(frozen=True)
class DemoConfig:
    """Show on two cores, in minutes, what the method does: a small study with a micro model made on the spot.

    Rows: the model before tuning, plain tuning, ReflectionCoder, plain tuning on the final answers of its sequences as
    well, and plain tuning with as many tokens. Any other matrix is a `study`.

    Args:
        output: directory of everything that the demo writes.
        model: the model that is tuned; `micro` is made first, unless the cache has it (see `pretrain`).
        problems: number of procedural problems to learn from; each gives a plain sample.
        sequences: how many of them, the first ones, also give two reflection sequences: one with planted bugs, and one
            that repairs the model's own wrong answer.
        passes: passes over the data.
        heldout: number of held-out problems to score.
        seeds: seeds of the training problems and of training; each makes all rows once.
        levels: difficulty levels of the problems to learn from and of the held-out ones.
        learning_rate: peak learning rate of all rows.
        jobs: runs at the same time; 0 is one per GPU, or one per core on a machine without.
    """

    output: str = "runs/demo"
    model: str = MICRO_MODEL
    problems: int = 300
    sequences: int = 75
    passes: float = 6.0
    heldout: int = 500
    seeds: tuple[int, ...] = (0,)
    levels: tuple[int, ...] = (2,)
    learning_rate: float = 1e-3
    jobs: int = 0
