"""Runs the worker processes of a build by mutation or from attempts; builds by conversation have a scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from rich.console import Console

from reflectioncoder.clients.messages import Answer
from reflectioncoder.config.build import BuildConfig, NativeConfig
from reflectioncoder.construct.attempts.answers import make_attempts
from reflectioncoder.construct.attempts.worker import TO_REPAIR, AttemptWorker
from reflectioncoder.construct.conversation.conversation import to_record
from reflectioncoder.construct.conversation.scheduler import ATTEMPT, Ended, reflect_by_chat
from reflectioncoder.construct.engines import engine
from reflectioncoder.construct.engines.processes import Handler
from reflectioncoder.construct.ledger.ledger import Entry, Ledger
from reflectioncoder.construct.mutation.worker import INFRASTRUCTURE, Reflector
from reflectioncoder.dialogues.dialogue import fenced
from reflectioncoder.problems.problem import Problem
from reflectioncoder.progress import Meter

T = TypeVar("T")


def reflect_on_bugs(config: BuildConfig, problems: Sequence[Problem], ledger: Ledger, console: Console) -> Ended:
    """Plant bugs in the solutions of all problems."""
    return _worked(Reflector, [(problem.id, problem) for problem in problems], config, ledger, console)


def reflect_on_attempts(config: BuildConfig, problems: Sequence[Problem], ledger: Ledger, console: Console) -> Ended:
    """Let the model attempt all problems, then turn its attempts into sequences and plain samples."""
    made = make_attempts(config, problems, ledger)
    conversing = {id for id, kind in ledger.last_kinds().items() if kind != ATTEMPT}
    ready = [problem for problem in problems if problem.id in made.ready]
    tasks = [(one.id, (one, made.attempts.get(one.id))) for one in ready if one.id not in conversing]
    to_repair: dict[str, str] = {}
    ended = _worked(AttemptWorker, tasks, config, ledger, console, to_repair)
    left = [(problem.id, "no attempt") for problem in problems if problem.id not in made.ready]
    ended = Ended(failed=made.failed or ended.failed, left=(*left, *ended.left))
    repaired = [problem for problem in ready if problem.id in to_repair or problem.id in conversing]
    if not repaired:
        return ended
    speaking, first, provenance = _repairing(config)
    for id, block in to_repair.items():
        ledger.add_event(id, 1, *to_record(first(block)))
    said = reflect_by_chat(speaking, repaired, ledger, console, provenance)
    return Ended(said.stopped, ended.failed or said.failed, (*ended.left, *said.left))


def _repairing(config: BuildConfig) -> tuple[BuildConfig, Callable[[str], Answer], dict[str, str]]:
    """Return the settings of the conversations that repair attempts, their first answer, and their provenance."""
    attempts = config.attempts
    model = config.chat.model if attempts.backend == "server" else attempts.model
    provenance = {"method": "attempts", "model": model, "repair": attempts.repair}
    if attempts.repair == "chat" or attempts.backend == "server":
        chat = dataclasses.replace(config, sampler="chat")
        return chat, lambda block: Answer(fenced(block)), provenance | {"repaired_by": config.chat.model}
    from reflectioncoder.construct.samplers.native import NATIVE_TURN  # seconds of imports

    shared = {name: getattr(attempts, name) for name in ("model", "precision", "device", "trust_remote_code", "vllm")}
    backend: Literal["transformers", "vllm"] = "vllm" if attempts.backend == "vllm" else "transformers"
    chosen = NativeConfig(backend=backend, batch_size=attempts.batch_size, temperature=attempts.temperature, **shared)
    native = dataclasses.replace(config, sampler="native", native=chosen)
    return native, lambda block: Answer("", block, NATIVE_TURN, "code"), provenance


def _worked(
    make: Callable[[BuildConfig], Handler[T, Entry]],
    tasks: Sequence[tuple[str, T]],
    config: BuildConfig,
    ledger: Ledger,
    console: Console,
    to_repair: dict[str, str] | None = None,
) -> Ended:
    """Run the workers until every task's entry is in the ledger, or the interpreter gave no result in two attempts.

    Args:
        make: makes the handler of a worker.
        tasks: id of each problem, and what its handler gets.
        config, ledger, console: those of the build.
        to_repair: gets the first round of each attempt that a model repairs, which is no entry yet.
    """
    with Meter("reflecting", len(tasks)) as meter, engine.workers(make, config, console) as pool:
        for attempt in (1, 2):
            again = []
            for index, entry in pool.run([task for _, task in tasks]):
                if entry.reason == INFRASTRUCTURE:
                    again.append(tasks[index])
                elif entry.reason == TO_REPAIR and to_repair is not None:
                    to_repair[entry.id] = entry.detail
                else:
                    ledger.put(entry)
                    meter.advance()
            if not again:
                return Ended()
            tasks = again
            console.print(f"attempt {attempt}: {len(again)} problems without a result from the interpreter")
    why = (
        f"the interpreter gave no result for {len(again)} problems, first {again[0][0]} (use fewer workers if memory"
        " is short); the others are kept"
    )
    return Ended(failed=why, left=tuple((id, "no result from the interpreter") for id, _ in again))


# by sampler; all others hold conversations
WITHOUT_CONVERSATION: Mapping[str, Callable[[BuildConfig, Sequence[Problem], Ledger, Console], Ended]] = {
    "mutation": reflect_on_bugs,
    "attempts": reflect_on_attempts,
}
