"""The problems of a loop: none is trained on and scored, and none decides where the loop stops and is reported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reflectioncoder.config.improve import STOPPING, ImproveConfig, round_settings
from reflectioncoder.config.tables import ScoreSettings
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import ReadLimits
from reflectioncoder.problems.load import load_problems
from reflectioncoder.tasks.base import Prompt
from reflectioncoder.tasks.registry import get_task, task_options


def not_counted(config: ImproveConfig) -> frozenset[str]:
    """The problems of the stopping score that do not count in it, because a reported score has them, too.

    Two problems are the same if their tasks and ids are, or their instructions. Training problems from files are
    compared as well; procedural ones have no composition in common with held-out ones.

    Raises:
        UserError: a task's problems cannot be read, a held-out problem is among the training problems, or no problem of
            the stopping score is left.
    """
    scores = {score.name: score for score in round_settings(config, 1).scores}
    prompts = {name: get_task(one.generate.task, task_options(one.generate)).prompts() for name, one in scores.items()}
    _refuse_training_problems(config, prompts)
    stopping = scores.pop(STOPPING)
    found: set[str] = set()
    for name, score in scores.items():
        shared = _shared(stopping, prompts[STOPPING], score, prompts[name])
        if len(shared) == len(prompts[STOPPING]):
            raise UserError(
                f"[scores.{name}]: has all {len(shared)} problems of the score that stops the loop ([generate]), so the"
                " choice of the round would flatter it; give it another task or another seed"
            )
        found |= shared
    if len(found) == len(prompts[STOPPING]):
        raise UserError("[generate]: all its problems are in the reported scores; give it another task or another seed")
    return frozenset(found)


def _shared(one: ScoreSettings, mine: Iterable[Prompt], other: ScoreSettings, theirs: Iterable[Prompt]) -> set[str]:
    """Ids of the problems of one score that another score has, too."""
    texts = {_plain(prompt.instruction) for prompt in theirs}
    ids = {prompt.task_id for prompt in theirs} if one.generate.task == other.generate.task else set()
    return {prompt.task_id for prompt in mine if prompt.task_id in ids or _plain(prompt.instruction) in texts}


def _refuse_training_problems(config: ImproveConfig, prompts: dict[str, list[Prompt]]) -> None:
    build = round_settings(config, 1).build
    if build is None or not Path(build.problems).exists():
        return
    limits = ReadLimits(build.max_row_mb, build.max_file_mb)
    skipped: list[str] | None = [] if build.skip_bad else None
    problems = load_problems(build.problems, build.fields, build.split, build.count, skipped, [], limits)
    trained = {_plain(problem.instruction) for problem in problems}
    for name, held_out in prompts.items():
        count = sum(_plain(prompt.instruction) in trained for prompt in held_out)
        if count:
            where = "[generate]" if name == STOPPING else f"[scores.{name}]"
            raise UserError(
                f"{where}: {count} of its {len(held_out)} held-out problems are among the training problems of [build]"
                f" ({build.problems}); hold out others"
            )


def _plain(text: str) -> str:
    return " ".join(text.split())
