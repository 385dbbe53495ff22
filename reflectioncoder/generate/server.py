"""The back end of `generate.py` for a model behind an OpenAI-compatible server; needs no torch.

Style `chat` uses `/v1/chat/completions`: the instruction is one user message and the server applies the model's chat
template. The answer contains its own opening fence, so the code is searched for (`syntax/answers/`). Style `plain` uses
`/v1/completions` to continue the task's prompt. Every sample is a separate request, so a later run can request only the
missing ones.

Retries, budgets and typed errors come from `clients/endpoint.py`. A failure due to the problem (a content filter, a
prompt that is too long, no answer in three attempts) is stored as an empty completion with its reason in "error", and
is not requested again. After any other failure the completion stays missing, and the next run requests it. The usage is
stored beside the completions, so the budget covers all runs together.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from reflectioncoder.clients.address import check_endpoint
from reflectioncoder.clients.budget import Budget, BudgetError, Usage, price_of
from reflectioncoder.clients.chat import ChatSampler
from reflectioncoder.clients.endpoint import Endpoint
from reflectioncoder.clients.messages import Answer, SamplerError, Turn
from reflectioncoder.clients.refusals import Refusals
from reflectioncoder.clients.reply import by_length, read_reply
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.errors import IncompleteError, UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.generate.backend import Keep, SampleKey
from reflectioncoder.generate.completions import AnswerForm, Completion, code_of
from reflectioncoder.syntax.answers.thoughts import check_marks
from reflectioncoder.tasks.base import Prompt, Task

SERVER_ATTEMPTS = 2  # attempts at a completion after server failures, each with all retries


class Asker(Protocol):
    """A way to request completions; used inside one event loop."""

    async def ask(self, prompt: Prompt, sample: int) -> Answer:
        """Request the model's answer. Raises SamplerError and BudgetError as a `Sampler` does."""
        ...

    def stop(self) -> None:
        """See `Sampler`."""
        ...

    async def close(self) -> None:
        """See `Sampler`."""
        ...


class ServerBackend:
    """Back end that requests completions from a server; see `Backend`.

    Args:
        config: URL, timeouts, retries and sampling settings.
        task: the task whose prompts are completed.

    Raises:
        UserError: a prompt style that servers do not support, invalid server settings, or an output file that is gone
            although its answers were paid for.
    """

    paid = True

    def __init__(self, config: GenerateConfig, task: Task) -> None:
        if config.prompt_style == "native":
            raise UserError(
                "prompt_style native: a server takes no special tokens in a text; use chat, where the server renders"
                " the template of a trained model, which is this format"
            )
        if config.most_stops < 0:
            raise UserError(f"generate: most_stops = {config.most_stops}: give a number of at least 0")
        self.style = "plain" if config.prompt_style == "plain" else "chat"
        self._config, self._most_tokens = config, config.max_new_tokens or task.max_new_tokens
        self._chat = dataclasses.replace(
            config.chat,
            temperature=config.temperature if config.chat.temperature >= 0 else config.chat.temperature,
            top_p=config.top_p if config.temperature else 1.0,
            max_tokens=self._most_tokens,
        )
        check_endpoint(self._chat, self._chat.model)
        check_marks(config.chat.thought_marks)
        self.thought_marks = config.chat.thought_marks
        self._price = price_of(self._chat.model, self._chat.prices)
        self._prompts = {prompt.task_id: prompt for prompt in task.prompts()}
        self.wanted = {
            (prompt.task_id, sample): self._hash(prompt)
            for prompt in self._prompts.values()
            for sample in range(config.samples)
        }
        self.fingerprint = self._chat.model  # a server reports nothing else about its weights
        self._kept = Path(config.output).with_name(f"{Path(config.output).stem}.usage.json")
        if self._spent().tokens_out and not Path(config.output).exists():
            raise UserError(
                f"{config.output}: is missing, but {self._kept} records paid answers: restore it, or delete"
                f" {self._kept.name} to pay for them again"
            )

    def _hash(self, prompt: Prompt) -> str:
        text: tuple[object, ...] = (prompt.instruction, *prompt.tries)
        if self.style == "plain":
            text = prompt.continuation, prompt.stops
        return hashlib.sha256(repr((self.style, text, self._most_tokens)).encode()).hexdigest()[:12]

    def load(self) -> None:
        """See `Backend`."""

    def complete(self, missing: Sequence[SampleKey], keep: Keep) -> None:
        """See `Backend`."""
        asyncio.run(self._complete(missing, keep))

    async def _complete(self, missing: Sequence[SampleKey], keep: Keep) -> None:
        chat = self._chat
        budget = Budget(chat.budget_requests, chat.budget_tokens, chat.budget_money, self._price, self._spent())
        asker: Asker = _Plain(chat, budget, self._config.most_stops) if self.style == "plain" else _Chat(chat, budget)
        run = _Run(asker, self, keep, chat.in_flight)
        try:
            todo: Sequence[SampleKey] = missing
            for _ in range(SERVER_ATTEMPTS):
                run.left = {}
                await run.all(todo, chat.in_flight, lambda: self._note(budget))
                todo = list(run.left)
                if not todo or run.over:
                    break
            run.settle(works=len(missing) < len(self.wanted))
        finally:
            self._note(budget)
            await asker.close()
        total, done = len(self.wanted), len(self.wanted) - len(missing) + run.done
        kept = f"{done} of {total} completions are in {self._config.output}"
        if run.over:
            more = f"; the usage is in {self._kept}" if run.spent else ""
            raise IncompleteError(f"{run.over}; {kept}: start again to continue{more}")
        if run.left:
            (task_id, _), why = next(iter(run.left.items()))
            others = f" and to {len(run.left) - 1} others" if len(run.left) > 1 else ""
            raise IncompleteError(f"no answer to problem '{task_id}'{others} ({why}); {kept}: start again to continue")

    def prompt(self, key: SampleKey) -> Prompt:
        """Return the prompt of a completion."""
        return self._prompts[key[0]]

    def _spent(self) -> Usage:
        """Read the usage of earlier runs. Raises UserError if the file is invalid."""
        if not self._kept.exists():
            return Usage()
        try:
            return Usage(**parse_json(self._kept.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise UserError(f"{self._kept}: is not a record of usage; delete it to count from zero") from None

    def _note(self, budget: Budget) -> None:
        write_lines(self._kept, [json.dumps(dataclasses.asdict(budget.spent))])


class _Run:
    """A run of concurrent requests.

    Args:
        asker: sends the requests.
        server: the back end with the prompts and settings.
        keep: see `Backend`.
        at_once: number of concurrent requests.
    """

    def __init__(self, asker: Asker, server: ServerBackend, keep: Keep, at_once: int) -> None:
        self._asker, self._server, self._deliver = asker, server, keep
        self._refusals: Refusals[Completion] = Refusals(at_once)
        self.left: dict[SampleKey, str] = {}  # completions without an answer, with the reason
        self.over = ""  # why no further requests are sent
        self.spent = False  # whether the budget is the reason
        self.done = 0

    async def all(self, keys: Sequence[SampleKey], at_once: int, after: Callable[[], None]) -> None:
        """Request these completions. A fatal failure stops new requests; running ones are awaited and kept.

        Args:
            keys: the completions.
            at_once: maximal number of concurrent requests.
            after: called after each request.
        """

        async def work(keys: Iterator[SampleKey]) -> None:
            for key in keys:
                if self.over:
                    return
                await self._one(key)
                after()

        waiting = iter(keys)
        tasks = [asyncio.create_task(work(waiting)) for _ in range(min(at_once, len(keys)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def settle(self, works: bool) -> None:
        """Decide the refusals that no answer has decided.

        Args:
            works: whether the server has answered in an earlier run.
        """
        if not self.over:
            settled = self._refusals.settle(lambda _: works)
            self._keep(settled.rejected)
            self.left |= {(item.task_id, item.sample): why for item, why in settled.open}
            self.over = settled.failure

    async def _one(self, key: SampleKey) -> None:
        prompt, hash = self._server.prompt(key), self._server.wanted[key]
        sent = self._refusals.sent()
        try:
            answer = await self._asker.ask(prompt, key[1])
        except BudgetError as error:
            self.over, self.spent = self.over or str(error), True
        except SamplerError as error:
            why = f"{error.reason}: {error.detail}"
            if error.fatal:
                self.over = self.over or error.detail
                self._asker.stop()
            elif error.of_the_problem:
                known, failure = self._refusals.refused(0, error, Completion(*key, "", "", hash, error=why))
                self._keep(known)
                if failure:
                    self.over = self.over or failure
                    self._asker.stop()
            elif error.reason != "stopped":
                self.left[key] = why
        else:
            form: AnswerForm = "continuation" if self._server.style == "plain" else "chat"
            code = code_of(answer.text, prompt, form, self._server.thought_marks)
            ended = Completion(*key, code, answer.text, hash, finish=answer.finish)
            self._keep([ended], answer.usage.tokens_out)
            self._keep(self._refusals.answered(0, sent))

    def _keep(self, completions: Iterable[Completion], tokens: int = 0) -> None:
        for completion in completions:
            self._deliver(completion, tokens)
            self.done += 1


class _Chat:
    """Requests chat completions of one user message."""

    def __init__(self, config: ChatConfig, budget: Budget) -> None:
        self._sampler = ChatSampler(config, budget)
        self.stop, self.close = self._sampler.stop, self._sampler.close

    async def ask(self, prompt: Prompt, sample: int) -> Answer:
        """See `Asker`."""
        turns = [Turn("user", prompt.instruction)]
        for item in prompt.tries:
            turns += [Turn("assistant", item.said), Turn("user", item.asked)]
        return await self._sampler.answer(turns, prompt.task_id, sample)


class _Plain:
    """Requests completions of the task's own prompt."""

    def __init__(self, config: ChatConfig, budget: Budget, most_stops: int) -> None:
        self._config, self._most_stops = config, most_stops
        self._endpoint = Endpoint(config, config.model, budget, "completions")
        self._create = self._endpoint.client.completions.with_streaming_response.create
        self.stop, self.close = self._endpoint.stop, self._endpoint.close

    async def ask(self, prompt: Prompt, sample: int) -> Answer:
        """See `Asker`."""
        config, started = self._config, time.monotonic()
        parameters = {"model": config.model, "prompt": prompt.continuation, "max_tokens": config.max_tokens}
        if stops := list(prompt.stops[: self._most_stops]):
            parameters["stop"] = stops
        if config.temperature >= 0:
            parameters["temperature"] = config.temperature
        if 0 < config.top_p < 1:
            parameters["top_p"] = config.top_p
        worst = Usage(1, len(prompt.continuation) // 2 + 64, config.max_tokens)
        answer, wasted = await self._endpoint.ask(
            self._create, parameters, worst, lambda body: self._read(body, prompt.continuation)
        )
        return dataclasses.replace(answer, usage=wasted + answer.usage, seconds=time.monotonic() - started)

    def _read(self, body: bytes, prompt: str) -> Answer:
        """Parse a response body. The text is empty if the model stops immediately."""
        reply = read_reply(body, self._endpoint, by_length(len(prompt)))
        return Answer(reply.text, finish=reply.finish, usage=reply.usage, model=reply.model)
