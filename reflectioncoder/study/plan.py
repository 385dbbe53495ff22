"""The steps of a study: the chains of its variants and seeds, which share equal steps (`steps/plan.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from reflectioncoder.config.study import StudyConfig, run_settings, variant_of
from reflectioncoder.errors import UserError
from reflectioncoder.steps.plan import STEP_FOLDERS, StepPlan, StepPlanner, StepRun


@dataclass(frozen=True)
class StudyRun(StepRun):
    """The steps of one variant with one seed.

    Args:
        name: both of them, for messages.
        builds, train, scores: see `StepRun`.
        variant: name of the variant.
        seed: the seed.
    """

    variant: str
    seed: int

    @property
    def where(self) -> str:
        """The variant, whose settings are the same for all seeds."""
        return f"variant '{self.variant}'"


@dataclass(frozen=True)
class StudyPlan(StepPlan):
    """All steps of a study, and its runs: all variants of the first seed, then those of the second, and so on, so that
    a study that is stopped early has comparable runs.

    Args:
        root, steps: see `StepPlan`.
        runs: all runs.
    """

    runs: tuple[StudyRun, ...]


def steps_root(config: StudyConfig) -> Path:
    """The folder of the steps' folders, which several studies may share."""
    return Path(config.steps or f"{config.output}/{STEP_FOLDERS}")


def make_plan(config: StudyConfig, digest: Callable[[str], str]) -> StudyPlan:
    """Plan all steps.

    Args:
        config: the study.
        digest: returns a digest of the file or folder at a path, and "" if there is none.

    Raises:
        UserError: variants that wait for each other.
    """
    planner = _Planner(config, digest)
    runs = tuple(planner.run(name, seed) for seed in config.seeds for name in config.variants)
    return StudyPlan(planner.steps.root, planner.steps.steps, runs)


class _Planner:
    def __init__(self, config: StudyConfig, digest: Callable[[str], str]) -> None:
        self.config = config
        self.steps = StepPlanner(steps_root(config), digest)
        self.settings = cache(partial(run_settings, config))
        self.trained: dict[tuple[str, int], str] = {}
        self.under_way: list[str] = []

    def run(self, variant: str, seed: int) -> StudyRun:
        settings = self.settings(variant, seed)
        builds = tuple(self.build(variant, seed, name) for name in settings.builds)
        train = self.train(variant, seed) if settings.train else ""
        find, texts = partial(self.needed, variant, seed), {"seed": str(seed)}
        scores = {}
        for score in settings.scores:
            decoding = score.generate
            if train:
                decoding = dataclasses.replace(decoding, model=f"{{models.{variant}}}")
            scores[score.name] = self.steps.add_score(decoding, score.evaluate, find, texts)
        return StudyRun(f"{variant}, seed {seed}", builds, train, scores, variant, seed)

    def build(self, variant: str, seed: int, name: str) -> str:
        find = partial(self.needed, variant, seed)
        return self.steps.add("build", self.settings(variant, seed).builds[name], find, {"seed": str(seed)})

    def train(self, variant: str, seed: int) -> str:
        """The key of a variant's training. Raises UserError if it waits for itself."""
        if (variant, seed) in self.trained:
            return self.trained[variant, seed]
        if variant in self.under_way:
            circle = " -> ".join([*self.under_way[self.under_way.index(variant) :], variant])
            raise UserError(f"variants wait for each other: {circle}")
        self.under_way.append(variant)
        other = variant_of(self.config, variant).tokens_of
        limit = self.train(other, seed) if other else ""
        settings, find = self.settings(variant, seed).train, partial(self.needed, variant, seed)
        key = self.steps.add("train", settings, find, {"seed": str(seed)}, limit)
        self.under_way.pop()
        self.trained[variant, seed] = key
        return key

    def needed(self, variant: str, seed: int, name: str) -> str:
        kind, _, rest = name.partition(".")
        if kind == "models":
            return self.train(rest, seed)
        return self.build(variant, seed, rest)
