"""Lets a model attempt the problems of a build, through any decoding back end; every attempt goes to the ledger.

Prompts, decoding and the reading of answers are those of `generate`, so an attempt is what an evaluation would score.
An attempt is a step of its problem in the ledger, written as soon as it is finished, and is never made again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.construct.conversation.samples import sample_of
from reflectioncoder.construct.conversation.scheduler import ATTEMPT
from reflectioncoder.construct.ledger.ledger import Ledger
from reflectioncoder.errors import IncompleteError, UserError
from reflectioncoder.generate.completions import Completion
from reflectioncoder.generate.registry import BACKENDS
from reflectioncoder.problems.problem import Problem
from reflectioncoder.progress import Meter
from reflectioncoder.tasks.problem_sets import ProblemTask

SHARED = (
    "backend", "prompt_style", "samples", "temperature", "top_p", "max_new_tokens", "batch_size", "precision", "device",
    "trust_remote_code", "vllm",
)  # fmt: skip


@dataclass(frozen=True)
class Attempts:
    """The attempts at the problems of a build.

    Args:
        attempts: by id of the problem (with the number of the sample if there are several).
        ready: ids of the problems that have an attempt, or that need none because they have no tests.
        failed: why some problems have no attempt; empty if none are for this reason.
    """

    attempts: Mapping[str, Completion]
    ready: frozenset[str]
    failed: str = ""


def make_attempts(config: BuildConfig, problems: Sequence[Problem], ledger: Ledger) -> Attempts:
    """Make the attempts that are not in the ledger yet, and return all of them.

    Args:
        config: configuration of the build.
        problems: its problems that are not finished; with several samples, each sample with an id of its own.
        ledger: ledger of the build.

    Raises:
        UserError: the model cannot be loaded, or is another one than that of the attempts in the ledger.
    """
    begun = ledger.last_kinds()
    tested = [problem for problem in problems if problem.tests]
    found = {problem.id: _recorded(ledger, problem.id) for problem in tested if problem.id in begun}
    missing = {_key(config, problem.id): problem.id for problem in tested if problem.id not in found}
    untested = {problem.id for problem in problems if not problem.tests}
    failed = ""
    if missing:
        settings = generate_settings(config)
        backend = BACKENDS.choose(settings.backend)(settings, task_of(config, tested), None, None)
        if ledger.note("attempted by") not in (None, backend.fingerprint):
            raise UserError(f"{ledger.path}: its attempts were made by another model; choose another output directory")
        ledger.note("attempted by", backend.fingerprint)
        with Meter("attempting", len(missing)) as meter:

            def keep(completion: Completion, tokens: int) -> None:
                id = missing[completion.task_id, completion.sample]
                found[id] = completion
                ledger.add_event(id, 0, ATTEMPT, dataclasses.asdict(completion), 1, (0, tokens))
                meter.advance()

            try:
                backend.load()
                backend.complete(list(missing), keep)
            except IncompleteError as error:
                failed = str(error).partition(": start again")[0]
    return Attempts(found, frozenset(untested | found.keys()), failed)


def _recorded(ledger: Ledger, id: str) -> Completion:
    _, value = ledger.events(id)[0]
    return Completion(**value)


def _key(config: BuildConfig, id: str) -> tuple[str, int]:
    """Return the problem and the sample, from 0, that an id of the build stands for."""
    if config.attempts.samples == 1:
        return id, 0
    problem, number = sample_of(id)
    return problem, number - 1


def task_of(config: BuildConfig, problems: Iterable[Problem]) -> ProblemTask:
    """Return the task whose prompts are the problems, each once however many samples there are."""
    once = {_key(config, problem.id)[0]: problem for problem in problems}
    renamed = [dataclasses.replace(problem, id=id) for id, problem in once.items()]
    return ProblemTask("attempts", renamed, config.attempts.max_new_tokens)


def generate_settings(config: BuildConfig) -> GenerateConfig:
    """Return the settings with which a back end decodes the attempts."""
    chosen = {name: getattr(config.attempts, name) for name in SHARED}
    # a server's back end keeps its usage beside its output, which here is the ledger
    output = str(Path(config.output) / "ledger.sqlite")
    return GenerateConfig(model=config.attempts.model, output=output, seed=config.seed, chat=config.chat, **chosen)
