"""Runs many conversations concurrently, for a build with a model behind an endpoint or on this machine.

One event loop runs the conversations, and a pool of interpreters runs their programs. Every answer and execution is
written to the ledger before it is used. A problem for which the server gave no answer stays open: it is retried once
at the end of this run, and again by the next run. What the server refuses is rejected, unless it refuses everything
(`clients/refusals.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from reflectioncoder.clients.budget import Budget, BudgetError, Usage, price_of
from reflectioncoder.clients.messages import Answer, Sampler, SamplerError, Tools, Turn
from reflectioncoder.clients.refusals import Refusals
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import versions
from reflectioncoder.construct.conversation.conversation import (
    Check,
    Checked,
    Conversation,
    ConversationRules,
    Dropped,
    Event,
    Protocol,
    Run,
    converse,
    from_record,
    to_record,
)
from reflectioncoder.construct.conversation.samples import FirstAccepted, sample_of
from reflectioncoder.construct.engines import engine
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.ledger.group_commit import Commits
from reflectioncoder.construct.ledger.ledger import Entry, Ledger, entry_of
from reflectioncoder.construct.ledger.ledger import RecordedStep as LedgerStep
from reflectioncoder.construct.prompts import load_prompts
from reflectioncoder.construct.samplers.registry import make_sampler, served_model
from reflectioncoder.errors import InfrastructureError, UserError
from reflectioncoder.interpreter.interpreter import CellResult
from reflectioncoder.problems.problem import Problem
from reflectioncoder.progress import Meter

ATTEMPT = "attempt"  # kind of the ledger record of a model's first answer; the conversation has it as an answer too
FAILED = "failed"  # kind of the ledger record of a failed attempt; it has a cost, but is no event of the conversation
RUN_ATTEMPTS = 2


@dataclass(frozen=True)
class Ended:
    """How the work on a build's problems ended.

    Args:
        stopped: why it stopped early although nothing failed (the budget is used up); empty if it did not.
        failed: why problems are left without a result; empty if none are for this reason.
        left: these problems, as far as they were tried, with the reason of each.
    """

    stopped: str = ""
    failed: str = ""
    left: tuple[tuple[str, str], ...] = ()


def reflect_by_chat(
    config: BuildConfig,
    problems: Sequence[Problem],
    ledger: Ledger,
    console: Console,
    provenance: Mapping[str, Any] | None = None,
) -> Ended:
    """Run the conversations of all problems and record their results in the ledger.

    Args:
        config, ledger, console: those of the build.
        problems: the problems; conversations that the ledger has begun are continued.
        provenance: recorded in every sequence, in place of the sampler's own.

    Raises:
        UserError: invalid settings.
    """
    return asyncio.run(_Conversations(config, ledger, console, provenance or {}).run(problems))


def rules_of(
    config: BuildConfig, provenance: Mapping[str, Any] | None = None
) -> tuple[ConversationRules, type[Conversation]]:
    """Return the settings and the class of a build's conversations."""
    protocol: Protocol = "native" if config.sampler == "native" else config.chat.protocol
    settings = filters.settings_of(config.io_names, config.max_rounds, config.io_match)
    prompts = load_prompts(config.chat.prompts)
    rules = ConversationRules(
        prompts, protocol, config.max_rounds, config.seed, settings, provenance or {}, config.chat.thought_marks
    )
    if config.sampler == "native":
        from reflectioncoder.construct.conversation.native import NativeConversation  # seconds of imports

        return rules, NativeConversation
    return rules, Conversation


class _Conversations:
    """The state of one run of a build."""

    def __init__(self, config: BuildConfig, ledger: Ledger, console: Console, provenance: Mapping[str, Any]) -> None:
        self._config, self._ledger, self._console, self._provenance = config, ledger, console, provenance
        chat = config.chat
        self._native = config.sampler == "native"
        # more conversations than rows in the local model's batch, so that it stays full while programs run
        here = self._native and config.native.backend != "completions"
        batch = engine.replicas(config) * config.native.batch_size if here else 0
        self._at_once = batch + 2 * engine.cores(config) if here else chat.in_flight
        if chat.in_flight < 1:
            raise UserError(f"chat.in_flight = {chat.in_flight}: give a number above 0")
        price = price_of(served_model(config), chat.prices) if not here else None
        if price is not None:
            ledger.note("prices", [price.tokens_in, price.tokens_out])
        spent = Usage(*ledger.spent())
        self._budget = Budget(chat.budget_requests, chat.budget_tokens, chat.budget_money, price, spent)
        self._prompts = load_prompts(chat.prompts)
        self._settings = filters.settings_of(config.io_names, config.max_rounds, config.io_match)
        self._left: list[tuple[Problem, str]] = []  # problems without an answer, with the reason
        self._first: FirstAccepted | None = None
        self._refusals: Refusals[tuple[Problem, Entry]] = Refusals(self._at_once)
        self._stopped = self._fatal = ""
        self._finished = 0

    async def run(self, problems: Sequence[Problem]) -> Ended:
        config, kinds = self._config, self._ledger.last_kinds()
        self._begun = set(kinds)
        self._commits = Commits(self._ledger)
        # begun problems first and failed ones last, so that problems that always fail do not hold up the others
        order = {None: 1, FAILED: 2}
        todo = sorted(problems, key=lambda problem: order.get(kinds.get(problem.id), 0))
        if self._native and config.native.samples > 1 and config.native.keep == "first":
            self._first = FirstAccepted(self._ledger.finished("done"))
            todo.sort(key=lambda problem: sample_of(problem.id)[1])  # so that few samples wait for an earlier one
        self._sampler = make_sampler(config, self._budget, self._prompts, self._console)
        provenance: dict[str, Any] = {"method": self._sampler.name, "model": self._sampler.model}
        provenance |= {**self._provenance, "interpreter": f"ipython {versions()['ipython']}"}
        self._watched = _Watched(self._sampler, self._refusals, self._write)
        self._rules, self._kind = rules_of(config, provenance)
        console = self._console
        try:
            with Meter("conversing", len(todo)) as self._meter:
                async with engine.programs(config, console) as self._pool:
                    for attempt in range(RUN_ATTEMPTS):
                        await self._all(iter(todo))
                        if not self._left or self._stopped or self._fatal:
                            break
                        todo = [problem for problem, _ in self._left]
                        if attempt + 1 < RUN_ATTEMPTS:
                            console.print(f"{len(todo)} problems without an answer: trying again", highlight=False)
                            self._left = []
                await self._settle()
        finally:
            await self._commits.close()
            await self._sampler.close()
        left = tuple((problem.id, why) for problem, why in self._left)
        total = len(problems)
        if self._fatal:
            failed = f"{self._fatal}; {self._finished} of {total} problems were finished and are kept"
            return Ended(failed=failed, left=left)
        if left and not self._stopped:
            id, why = left[0]
            failed = f"{len(left)} of {total} problems have no answer, first {id} ({why}); the others are kept"
            return Ended(failed=failed, left=left)
        return Ended(self._stopped)

    async def _settle(self) -> None:
        """Decide the refusals that no answer has decided."""
        if self._fatal:
            return
        turns = self._ledger.most_answers()
        settled = self._refusals.settle(lambda turn: turn < turns)
        await self._write(entry for _, entry in settled.rejected)
        self._left += [(problem, why) for (problem, _), why in settled.open]
        self._fatal = settled.failure

    async def _write(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            await self._commits.write(entry)
            self._finished += 1
            self._meter.advance()

    async def _all(self, problems: Iterator[Problem]) -> None:
        async def worker() -> None:
            for problem in problems:
                if self._stopped or self._fatal:
                    return
                entry = await (self._one(problem) if self._first is None else self._first(problem, self._one))
                if entry is not None:
                    await self._write([entry])

        tasks = [asyncio.create_task(worker()) for _ in range(self._at_once)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, problem: Problem) -> Entry | None:
        """Run one conversation to its end; None if it stays open."""
        try:
            return await self._conversation(problem)
        except BudgetError as error:
            self._stopped = str(error)
        except SamplerError as error:
            if error.of_the_problem:
                entry = Entry(problem.id, "rejected", f"answer_{error.reason}", error.detail)
                turn = self._watched.turns.pop(problem.id, 0)
                known, why = self._refusals.refused(turn, error, (problem, entry))
                await self._write(one for _, one in known)
                self._fail(why)
                return None
            if error.fatal:
                self._fail(error.detail)
            if error.reason != "stopped":
                self._left.append((problem, f"{error.reason}: {error.detail}"))
        except InfrastructureError as error:
            self._left.append((problem, f"interpreter: {error}"))
        return None

    def _fail(self, why: str) -> None:
        if why:
            self._fatal = self._fatal or why
            self._sampler.stop()

    async def _conversation(self, problem: Problem) -> Entry:
        stored = self._ledger.events(problem.id) if problem.id in self._begun else []
        number = len(stored)

        async def keep(kind: str, payload: Any, usage: Usage) -> None:
            nonlocal number
            self._begun.add(problem.id)
            step = LedgerStep(problem.id, number, kind, payload, usage.requests, usage.tokens_in, usage.tokens_out)
            number += 1
            await self._commits.write(step)

        async def record(event: Event) -> None:
            await keep(*to_record(event), event.usage if isinstance(event, Answer) else Usage())

        async def check(step: Check) -> Checked:
            return Checked(await self._pool.check(step.code, problem, step.asserts) or "")

        try:
            events = [from_record(kind, payload) for kind, payload in stored if kind not in (FAILED, ATTEMPT)]
            end = await converse(problem, self._rules, events, self._watched, self._run, check, record, self._kind)
            if isinstance(end, Dropped):
                return entry_of(problem, end.dialogue, end.rejected)
            rejected = filters.apply_filters(end.dialogue, problem, self._settings) or await self._pool.unstable(
                end.dialogue, problem, self._config.repeats
            )
            return entry_of(problem, end.dialogue, rejected)
        except BudgetError as error:
            if error.usage != Usage():
                await keep(FAILED, {"reason": "budget", "detail": str(error)}, error.usage)
            raise
        except SamplerError as error:
            if error.usage != Usage():
                await keep(FAILED, {"reason": error.reason, "detail": error.detail}, error.usage)
            raise
        except (UserError, InfrastructureError):
            raise
        except Exception as error:
            # an unexpected error in one problem must not stop the build; the funnel counts these
            return Entry(problem.id, "rejected", "internal_error", f"{type(error).__name__}: {error}")

    async def _run(self, step: Run) -> CellResult:
        results = await self._pool.run([*step.before, step.code], given=step.given)
        if step.before and results[-1].outcome == "killed" and any(not result.ok for result in results[:-1]):
            results = await self._pool.run(
                [step.code], given=step.given
            )  # an earlier cell exceeded its limits, but only in this run
        if results[-1].outcome == "infrastructure":
            raise InfrastructureError(results[-1].message)
        return results[-1]


class _Watched:
    """A sampler whose answers decide refusals.

    Args:
        sampler: gives the answers.
        refusals: the refusals of the run.
        write: records the results of problems.
    """

    def __init__(
        self,
        sampler: Sampler,
        refusals: Refusals[tuple[Problem, Entry]],
        write: Callable[[Iterable[Entry]], Awaitable[None]],
    ) -> None:
        self.name, self.model, self.turns = sampler.name, sampler.model, dict[str, int]()
        self._sampler, self._refusals, self._write = sampler, refusals, write
        self.stop, self.close = sampler.stop, sampler.close

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`; `turns` keeps the number of the answer that a problem did not get."""
        sent = self._refusals.sent()
        self.turns[problem] = number
        answer = await self._sampler.answer(messages, problem, number, tools)
        del self.turns[problem]
        await self._write(entry for _, entry in self._refusals.answered(number, sent))
        return answer
