"""The results of a loop: what each round made, scored and cost, and how the loop ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np

from reflectioncoder.config.improve import STOPPING, ImproveConfig
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.improve.plan import LoopRound, RoundsPlan
from reflectioncoder.improve.stopping import standing
from reflectioncoder.steps.outcomes import Difference, RunOutcome, Shares, difference, run_outcome
from reflectioncoder.steps.records import StepRecord
from reflectioncoder.steps.statistics import MeanWithInterval, mean_interval

FIRST = "round 0"
PASSED_REASONS = ("passed_at_once", "single_round")  # in the funnel: attempts that left nothing to reflect on
NO_NUMBERS = ("problems", "sequences", "skipped_rows")


@dataclass(frozen=True)
class RoundResult:
    """What one round made, scored and cost.

    Args:
        number: its number; round 0 is the first model as it is.
        model: directory or name of its model.
        state: `done`, `failed`, `empty` if no attempt became a sequence, or `open` if it was not finished.
        failed: the step that failed, with the last line of its log; empty for none.
        log: path of that log.
        funnel: counts of its build by reason; empty in round 0.
        tokens: tokens through the model in its training; None without training.
        seconds: wall-clock seconds of its steps.
        scores: pass@1 by name of the score.
        differences: the paired differences to round 0, by name of the score.
        has_weights: whether the weights of its model are kept.
    """

    number: int
    model: str
    state: str
    failed: str = ""
    log: str = ""
    funnel: Mapping[str, int] = field(default_factory=dict)
    tokens: float | None = None
    seconds: float = 0.0
    scores: Mapping[str, MeanWithInterval] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    has_weights: bool = True

    @property
    def attempts(self) -> int | None:
        """Number of attempts; None in round 0, or if the build is not finished."""
        return self.funnel.get("problems")

    @property
    def sequences(self) -> int | None:
        """Number of sequences won from them."""
        return self.funnel.get("sequences")

    @property
    def passed(self) -> int | None:
        """Number of attempts that passed at once."""
        return sum(self.funnel.get(name, 0) for name in PASSED_REASONS) if self.funnel else None


@dataclass(frozen=True)
class ImproveResults:
    """All results of a loop.

    Args:
        title: its title.
        rounds: the rounds that were begun.
        best: the round with the best stopping score.
        ended: how the loop ended, in one sentence; empty if it has not ended.
        failed: whether a step failed, or the first round made no sequence.
        scores: names of the scores; the first is that which stops the loop.
        counted: number of problems of that score which count in it.
        left_out: number of its problems which do not, because a reported score has them.
    """

    title: str
    rounds: tuple[RoundResult, ...]
    best: int
    ended: str
    failed: bool
    scores: tuple[str, ...]
    counted: int
    left_out: int


def made_nothing(funnel: Mapping[str, int]) -> bool:
    """Whether a build is finished without a sequence."""
    return bool(funnel) and not funnel.get("sequences") and not funnel.get("unfinished")


def read_funnel(plan: RoundsPlan, one: LoopRound) -> dict[str, int]:
    """The funnel of a round's build; empty if there is none, or if it is not finished."""
    if not one.builds:
        return {}
    try:
        found = parse_json((plan.output(one.builds[0]) / "funnel.json").read_text(encoding="utf-8"))
        return {str(name): int(count) for name, count in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def improve_results(
    config: ImproveConfig, plan: RoundsPlan, records: Mapping[str, StepRecord], left_out: frozenset[str]
) -> ImproveResults:
    """Compute the table of a loop from the files of its finished steps.

    Args:
        config: the loop.
        plan: its rounds so far.
        records: how their steps ended.
        left_out: problems of the stopping score that do not count in it.

    Raises:
        UserError: the files of a finished step cannot be read.
    """
    outcomes = [run_outcome(plan, one, records) for one in plan.runs]
    shares = [_counted(outcome, left_out) for outcome in outcomes]
    rounds = []
    for one, outcome, own in zip(plan.runs, outcomes, shares, strict=True):
        funnel = read_funnel(plan, one)
        state = "empty" if made_nothing(funnel) else outcome.state
        trained = records.get(one.train)
        rounds.append(
            RoundResult(
                one.number,
                plan.model(one.number, config.start),
                state,
                outcome.failed if state == "failed" else "",
                outcome.log if state == "failed" else "",
                funnel,
                outcome.tokens,
                round(math.fsum(outcome.seconds.values()), 1),
                {name: mean_interval(np.array([list(by_problem.values())]), 0.0) for name, by_problem in own.items()},
                {
                    name: difference(FIRST, {0: by_problem}, {0: shares[0][name]})
                    for name, by_problem in own.items()
                    if one.number and name in shares[0]
                },
                not (trained and trained.model_deleted),
            )
        )
    scored = [one.scores[STOPPING].mean for one in takewhile(lambda one: STOPPING in one.scores, rounds)]
    now = standing(scored, config.patience, config.min_gain) if scored else None
    ended, failed = how_it_ended(config, rounds)
    return ImproveResults(
        config.title or Path(config.output).name,
        tuple(rounds),
        now.best if now else 0,
        ended,
        failed,
        (STOPPING, *config.scores),
        len(shares[0].get(STOPPING, ())),
        len(left_out),
    )


def how_it_ended(config: ImproveConfig, rounds: list[RoundResult]) -> tuple[str, bool]:
    """How a loop ended, in one sentence ("" if it goes on), and whether that is a failure."""
    last = rounds[-1]
    broken = next((one for one in rounds if one.state == "failed"), None)
    if broken is not None:
        return f"Round {broken.number} failed: {broken.failed}.", True
    if last.state == "empty":
        reasons = sorted(((n, name) for name, n in last.funnel.items() if name not in NO_NUMBERS), reverse=True)
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for n, name in reasons[:3])
        text = f"Round {last.number} made no sequence from {last.attempts} attempts ({counts}), so the loop ends."
        return text, last.number == 1
    if any(one.state != "done" for one in rounds):
        return "", False
    unscored = next((one for one in rounds if STOPPING not in one.scores), None)
    if unscored is not None:
        return f"Round {unscored.number} has no stopping score: none of its problems could be run here.", True
    now = standing([one.scores[STOPPING].mean for one in rounds], config.patience, config.min_gain)
    if now.stops:
        least = f" of {config.min_gain:g} points or more" if config.min_gain else ""
        waited = f"{now.waited} rounds in a row" if now.waited > 1 else "1 round"
        return f"Ended after round {last.number}: {waited} without a gain{least}.", False
    if last.number >= config.rounds:
        return f"Ended after round {last.number}, the most that `rounds` allows.", False
    return "", False


def _counted(outcome: RunOutcome, left_out: frozenset[str]) -> dict[str, Shares]:
    """The scores of a round, without the problems that do not count in the stopping score."""
    found = dict(outcome.scores)
    if STOPPING in found:
        found[STOPPING] = {name: share for name, share in found[STOPPING].items() if name not in left_out}
    return {name: by_problem for name, by_problem in found.items() if by_problem}
