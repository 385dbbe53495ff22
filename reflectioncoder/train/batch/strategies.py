"""Masking strategies: which blocks or tokens of the first round the student sees (section 3.2; tables 2, 3 and 8).

A strategy is a function and a line in `STRATEGIES`; `--masking.strategy` takes every name there. Add yours to it, or
from outside the package with `STRATEGIES.add`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from reflectioncoder.config.train import MaskingConfig
from reflectioncoder.dialogues.dialogue import BLOCK_TYPES
from reflectioncoder.errors import UserError
from reflectioncoder.registry import Registry

MIXED = ("block", "sequential", "random")
# Floating-point error can put `rate * n` slightly above the exact integer (0.28 * 25 > 7).
ROUNDING = 1e-9


@dataclass(frozen=True)
class Draw:
    """What the random choices of a strategy may depend on, so that a resumed run makes the same ones.

    Args:
        step: optimizer steps already taken.
        sample_id: of the sample.
        seed: of the run.
        influence: measured influence of each block, in nats, for strategies with `measured`; empty before it is
            measured, as in a dry run.
    """

    step: int
    sample_id: str
    seed: int
    influence: tuple[float, ...] = ()

    def rng(self) -> random.Random:
        """A generator for this sample at this step."""
        return random.Random(f"{self.seed}:{self.step}:{self.sample_id}")


# Block types of the n units, mask rate in [0, 1], settings, draw -> n flags, True where a unit stays visible.
KeepUnits = Callable[[Sequence[str], float, MaskingConfig, Draw], list[bool]]


@dataclass(frozen=True)
class Strategy:
    """A masking strategy.

    Args:
        keep: gets the block type (`text`, `code` or `execution`) of each unit of the first assistant message, in order,
            the mask rate in [0, 1], the settings and the draw; returns one flag for each unit, True where it stays
            visible.
        unit: what is hidden or kept as a whole: a `block`, or a single `token`. Tokens between blocks have the type "".
        measured: whether the influence of each block is measured before the first step and given in the draw.
    """

    keep: KeepUnits
    unit: Literal["block", "token"] = "block"
    measured: bool = False


def hidden_count(n: int, rate: float, semantics: str = "paper") -> int:
    """How many of `n` blocks or tokens are hidden at a mask rate: ceil(rate * n).

    Args:
        n: number of blocks or tokens.
        rate: mask rate in [0, 1].
        semantics: `release` rounds the product of floating-point numbers up as it is, so 0.07 * 100 gives 8.

    Raises:
        ValueError: `rate` outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"mask rate {rate} is not in [0, 1]")
    return min(n, math.ceil(rate * n - (ROUNDING if semantics == "paper" else 0.0)))


def block_mask(types: Sequence[str], rate: float, order: Sequence[str], semantics: str = "paper") -> list[bool]:
    """Which blocks stay visible under the block strategy.

    Args:
        types: types of the n blocks of the first assistant message, in order.
        rate: mask rate in [0, 1].
        order: the three block types; the first is hidden above rate 0, the second above 1/3, the third above 2/3
            (`release`: always, from 0.33 on, from 0.67 on).
        semantics: `paper` or `release`.

    Returns:
        n flags, True where the block stays visible.

    Raises:
        UserError: `order` is not an order of the three block types.
        ValueError: `rate` outside [0, 1].
    """
    check_order(order)
    hidden_count(0, rate)
    if semantics == "release":
        hidden = {name for name, start in zip(order, (0.0, 0.33, 0.67), strict=True) if rate >= start}
    else:
        hidden = {name for k, name in enumerate(order) if rate > k / 3}
    return [name not in hidden for name in types]


def check_order(order: Sequence[str]) -> None:
    """Raises UserError unless `order` holds each block type once."""
    if sorted(order) != sorted(BLOCK_TYPES):
        raise UserError(f"masking.order: {','.join(order)} is not an order of {','.join(BLOCK_TYPES)}")


def sequential_mask(n: int, rate: float, semantics: str = "paper") -> list[bool]:
    """Which of `n` blocks or tokens stay visible when the leftmost ceil(rate * n) are hidden."""
    hidden = hidden_count(n, rate, semantics)
    return [i >= hidden for i in range(n)]


def random_mask(n: int, rate: float, rng: random.Random, semantics: str = "paper") -> list[bool]:
    """Which of `n` blocks or tokens stay visible when ceil(rate * n), chosen at random, are hidden."""
    hidden = set(rng.sample(range(n), hidden_count(n, rate, semantics)))
    return [i not in hidden for i in range(n)]


def keep_by_block_type(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """The paper's own strategy: hide all executions first, then all analyses, then all code."""
    return block_mask(types, rate, config.order, config.semantics)


def keep_sequential(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """Hide from left to right."""
    return sequential_mask(len(types), rate, config.semantics)


def keep_random(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """Hide a random choice, drawn afresh for each sample and step."""
    return random_mask(len(types), rate, draw.rng(), config.semantics)


def keep_mixed(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """Use one of the three block strategies, drawn by `mixed_strategy`."""
    return STRATEGIES[mixed_strategy(config, draw)].keep(types, rate, config, draw)


def mixed_strategy(config: MaskingConfig, draw: Draw) -> str:
    """The strategy that `mix` uses: drawn once for each step, or under `release` for each step and sample."""
    per_sample = f":{draw.sample_id}" if config.semantics == "release" else ""
    return random.Random(f"{draw.seed}:{draw.step}{per_sample}:mix").choice(MIXED)


def keep_by_influence(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """Hide the ceil(rate * n) blocks with the least influence on the final answer; of equal ones, the leftmost."""
    influence = draw.influence or (0.0,) * len(types)
    order = sorted(range(len(types)), key=lambda block: (influence[block], block))
    hidden = set(order[: hidden_count(len(types), rate, config.semantics)])
    return [block not in hidden for block in range(len(types))]


def keep_nothing(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """Hide everything from the first step on: vanilla distillation (equation 1)."""
    return [False] * len(types)


def keep_everything(types: Sequence[str], rate: float, config: MaskingConfig, draw: Draw) -> list[bool]:
    """Hide nothing but the first user message, and under `release` not even that (`visible_ranges`)."""
    return [True] * len(types)


STRATEGIES = Registry(
    "masking strategy",
    {
        "block": Strategy(keep_by_block_type),
        "sequential": Strategy(keep_sequential),
        "random": Strategy(keep_random),
        "mix": Strategy(keep_mixed),
        "random_token": Strategy(keep_random, unit="token"),
        "sequential_token": Strategy(keep_sequential, unit="token"),
        "all": Strategy(keep_nothing),
        "none": Strategy(keep_everything),
        "influence": Strategy(keep_by_influence, measured=True),
        # add yours here
    },
)
