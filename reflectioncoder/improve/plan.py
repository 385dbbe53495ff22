"""The steps of a loop: one chain for each round, whose builds and trainings read the outputs of the rounds before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.config.improve import ROUND_BUILD, ROUND_MODEL, ImproveConfig, round_settings
from reflectioncoder.steps.plan import STEP_FOLDERS, StepPlan, StepPlanner, StepRun


@dataclass(frozen=True)
class LoopRound(StepRun):
    """The steps of one round; round 0 scores the first model as it is.

    Args:
        name: its name in messages.
        builds: the key of its attempts; none in round 0.
        train: the key of its training; empty in round 0.
        scores: see `StepRun`.
        number: its number.
    """

    number: int


@dataclass(frozen=True)
class RoundsPlan(StepPlan):
    """All steps of some rounds.

    Args:
        root, steps: see `StepPlan`.
        runs: the rounds from 0 on.
    """

    runs: tuple[LoopRound, ...]

    def model(self, number: int, start: str) -> str:
        """The model after a round: the directory of its training, or `start` for round 0."""
        key = self.runs[number].train
        return str(self.output(key)) if key else start


def plan_rounds(config: ImproveConfig, last: int, digest: Callable[[str], str]) -> RoundsPlan:
    """Plan the rounds up to `last`. The plan of fewer rounds is a part of that of more.

    Args:
        config: the loop.
        last: number of the last round.
        digest: returns a digest of the file or folder at a path, and "" if there is none.
    """
    steps = StepPlanner(Path(config.output) / STEP_FOLDERS, digest)
    builds: list[str] = []
    models = [""]  # keys of the trainings; the first model needs none
    rounds = []
    for number in range(last + 1):
        settings = round_settings(config, number)
        if settings.build is not None and settings.train is not None:
            model = models[-1]
            texts = {} if model else {"model": config.start}
            builds.append(steps.add("build", settings.build, {"model": model}.__getitem__, texts))
            first = 0 if config.keep_data else number - 1
            data = tuple(
                text.replace(ROUND_BUILD, f"{{build.{one}}}") if ROUND_BUILD in text else text
                for text in settings.train.data
                for one in (range(first, number) if ROUND_BUILD in text else (0,))
            )
            trained = models[-1] if config.train_from == "last" else ""
            texts = {} if trained else {"model": config.start}
            found = {"model": trained, **{f"build.{one}": key for one, key in enumerate(builds)}}
            train = dataclasses.replace(settings.train, model=ROUND_MODEL, data=data)
            models.append(steps.add("train", train, found.__getitem__, texts))
        model = models[-1]
        texts = {} if model else {"model": config.start}
        scores = {
            score.name: steps.add_score(score.generate, score.evaluate, {"model": model}.__getitem__, texts)
            for score in settings.scores
        }
        own = (builds[-1],) if number else ()
        rounds.append(LoopRound(f"round {number}", own, model if number else "", scores, number))
    return RoundsPlan(steps.root, steps.steps, tuple(rounds))
