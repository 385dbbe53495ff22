"""Any OpenAI-compatible chat endpoint as a sampler: connection reuse, time-outs, retries, budgets, typed errors.

The official client speaks the protocol; retries are ours alone, since its own neither see answers that are malformed
or empty nor count against a budget nor hold back the other requests when the server asks for a pause. The key comes
from the environment and is taken out of every text that leaves this module.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from reflectioncoder.config import ChatConfig
from reflectioncoder.errors import UserError
from reflectioncoder.llm import Answer, Budget, BudgetError, Reason, SamplerError, Tools, Turn, Usage

TOOL = "python"
NO_KEY = "none"  # what is sent where no key is set: local servers do not look at it
LONGEST_PAUSE = 30.0
PATIENCE = 10  # times the longest wait, for a server that asks to come back later again and again
DOWN_AFTER = 3  # requests given up one after the other, none answered in between
PAID_RETRIES = 2  # of answers that are empty or endless: each may be billed
SHORTEST_KEY = 6  # a shorter one is no secret, and taking it out of texts would spoil them


class ChatSampler:
    """A chat model behind an endpoint; used inside one event loop.

    Args:
        config: endpoint, model and how to ask it.
        budget: what all requests together may use.
        tool_description: what to tell a model about the `python` tool.

    Raises:
        UserError: no model, or a URL that is none or that holds a password.
    """

    name = "chat"

    def __init__(self, config: ChatConfig, budget: Budget | None = None, tool_description: str = "") -> None:
        url = urlsplit(config.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UserError(f"chat.base_url = '{config.base_url}': expected http://HOST:PORT/v1 or https://HOST/v1")
        if url.username or url.password or url.query:
            raise UserError(
                "chat.base_url: leave user name, password and query out of it; the key comes from the environment"
                f" variable {config.api_key_variable}"
            )
        if not config.model:
            raise UserError("chat.model: name the model to ask")
        for name in ("in_flight", "timeout", "max_tokens"):
            if getattr(config, name) <= 0:
                raise UserError(f"chat.{name} = {getattr(config, name)}: give a number above 0")
        self.model = config.model
        self.budget = budget or Budget()
        self._config, self._tool_description = config, tool_description
        key = os.environ.get(config.api_key_variable, "").strip()
        self._secret = key if len(key) >= SHORTEST_KEY else ""
        limits = httpx2.Limits(
            max_connections=config.in_flight, max_keepalive_connections=config.in_flight, keepalive_expiry=60
        )
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=config.base_url,
            max_retries=0,
            timeout=config.timeout,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits),
        )
        self._answered = False
        self._given_up = 0
        self._not_before = 0.0
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """See `Sampler`."""
        self._stopped.set()

    async def close(self) -> None:
        """See `Sampler`."""
        await self._client.close()

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`."""
        started, spent, failures = time.monotonic(), Usage(), 0
        length = sum(len(turn.text) + len(turn.tool_code or "") for turn in messages)
        worst = Usage(1, length // 2 + 8 * len(messages) + 64, self._config.max_tokens)
        while True:
            while (wait := self._not_before - time.monotonic()) > 0:
                await self._pause(wait + random.uniform(0, min(wait, 1.0)), spent)  # not all in the same instant
            await self._pause(0, spent)
            try:
                await self.budget.reserve(worst)
            except BudgetError as error:
                error.usage = spent
                raise
            used = Usage(1)
            try:
                answer = await self._request(messages, tools)
                used = answer.usage
            except SamplerError as error:
                used = error.usage
                failure = error
            else:
                self._answered, self._given_up = True, 0
                seconds = time.monotonic() - started
                return Answer(
                    self._public(answer.text), None if answer.tool_code is None else self._public(answer.tool_code),
                    answer.tool_id, answer.finish, spent + used, answer.model, seconds,
                )  # fmt: skip
            finally:
                self.budget.settle(worst, used)
            spent += used
            waited = time.monotonic() - started
            if failure.wait is None or waited > PATIENCE * self._config.longest_wait:
                failures += 1  # a server that says when to come back has not failed
            self._give_up_or_go_on(failure, failures, spent)
            if failure.wait is not None:
                self._not_before = max(self._not_before, time.monotonic() + failure.wait)  # the others wait too
            else:
                pause = min(self._config.backoff * 2 ** (failures - 1), LONGEST_PAUSE)
                await self._pause(pause * random.uniform(0.75, 1.25), spent)

    async def _pause(self, seconds: float, spent: Usage) -> None:
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopped.wait(), seconds)
            except TimeoutError:
                return
        if self._stopped.is_set():
            raise SamplerError("stopped", "the build is stopping", spent)

    def _give_up_or_go_on(self, failure: SamplerError, failures: int, spent: Usage) -> None:
        """Raise where another attempt is of no use; return where one is due."""
        reason, detail = failure.reason, failure.detail
        if failure.fatal or reason == "refused":
            if reason == "refused" and not self._answered:
                reason = "bad_request"  # not this problem: it never did answer anything
            raise SamplerError(reason, detail, spent)
        if failure.wait is not None and failure.wait > self._config.longest_wait:
            raise SamplerError("quota", f"{detail}: asks to wait {failure.wait:.0f} s; start again later", spent)
        if reason == "connection" and not self._answered and failures >= 2:
            raise SamplerError("server_down", f"{detail}; is chat.base_url right and the server running?", spent)
        if failures > min(self._config.retries, PAID_RETRIES if failure.of_the_problem else self._config.retries):
            if failure.of_the_problem:
                raise SamplerError(reason, detail, spent)
            self._given_up += reason != "rate_limited"
            if self._given_up >= DOWN_AFTER:
                raise SamplerError("server_down", f"{detail} ({self._given_up} requests given up in a row)", spent)
            raise SamplerError(reason, detail, spent)

    async def _request(self, messages: Sequence[Turn], tools: Tools) -> Answer:
        """One HTTP request; the usage of an error is what the server has billed for it, as far as it says."""
        config = self._config
        try:
            async with asyncio.timeout(config.timeout):  # the client's own limit is for each read
                body = await self._body(self._parameters(messages, tools))
        except TimeoutError:
            raise self._error("timeout", f"no whole answer in {config.timeout:g} s") from None
        except openai.APITimeoutError:
            raise self._error("timeout", f"no answer in {config.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            how = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            raise self._error("connection", f"connection to {config.base_url} failed ({how})") from None
        except httpx2.HTTPError as error:
            how = f"{type(error).__name__}: {error}"
            raise self._error("connection", f"connection to {config.base_url} was cut ({how})") from None
        except (openai.OpenAIError, UnicodeError, ValueError) as error:
            raise self._error("malformed", f"{type(error).__name__}: {error}") from None
        return self._read(body, messages)

    def _parameters(self, messages: Sequence[Turn], tools: Tools) -> dict[str, Any]:
        config = self._config
        if config.system_prompt == "merged" and len(messages) > 1 and messages[0].role == "system":
            merged = Turn("user", f"{messages[0].text}\n\n{messages[1].text}")
            messages = [merged, *messages[2:]]
        parameters: dict[str, Any] = {"model": config.model, "messages": [_message(turn) for turn in messages]}
        parameters[config.token_limit_key] = config.max_tokens
        if config.temperature >= 0:
            parameters["temperature"] = config.temperature
        if 0 < config.top_p < 1:
            parameters["top_p"] = config.top_p
        if tools != "off":
            schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
            function = {"name": TOOL, "description": self._tool_description, "parameters": schema}
            parameters["tools"] = [{"type": "function", "function": function}]
            parameters["tool_choice"] = "auto" if tools == "offered" else "none"
        return parameters

    async def _body(self, parameters: dict[str, Any]) -> bytes:
        # read in pieces: an answer without end must not fill the memory
        most = 65_536 + 64 * self._config.max_tokens
        body = bytearray()
        async with self._client.chat.completions.with_streaming_response.create(**parameters) as response:
            async for piece in response.iter_bytes(65_536):
                body += piece
                if len(body) > most:
                    raise self._error("too_long", f"an answer of more than {most} bytes")
        return bytes(body)

    def _read(self, body: bytes, messages: Sequence[Turn]) -> Answer:
        try:
            data = json.loads(body)
            choice = data["choices"][0]
            message = choice["message"]
            text = message.get("content") or ""
            calls = message.get("tool_calls") or []
            finish = str(choice.get("finish_reason") or "stop")
            if not isinstance(text, str):
                raise TypeError("content is not text")
            usage = _usage(data.get("usage"), text, messages)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            start = body[:60].decode("utf-8", "replace")
            raise self._error("malformed", f"not a chat completion ({type(error).__name__}): {start!r}") from None
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be kept
        code, tool_id = None, ""
        if calls:
            try:
                arguments = json.loads(calls[0]["function"]["arguments"])
                code, tool_id = arguments["code"], str(calls[0].get("id") or "call")
                if not isinstance(code, str):
                    raise TypeError("code is not text")
                code = code.encode("utf-8", "replace").decode("utf-8")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                if finish != "length":  # cut off in the middle of the call is another matter
                    detail = f"a tool call without code ({type(error).__name__})"
                    raise self._error("malformed", detail, usage) from None
        if finish == "content_filter":
            raise self._error("refused", "the server's content filter stopped the answer", usage)
        if not text.strip() and code is None and finish != "length":
            raise self._error("empty", "the model answered nothing", usage)
        return Answer(text, code, tool_id, finish, usage, str(data.get("model") or self.model))

    def _status_error(self, error: openai.APIStatusError) -> SamplerError:
        status, config = error.status_code, self._config
        body = error.body if isinstance(error.body, dict) else {}
        said = str(body.get("message") or error.message)
        code = str(body.get("code") or body.get("type") or "")
        if status in (401, 403):
            given = "was not accepted" if os.environ.get(config.api_key_variable) else "is not set"
            key = f"the key in {config.api_key_variable} {given}"
            return self._error("authentication", f"{config.base_url}: {key} ({status}): {said}")
        if code == "model_not_found" or (status == 404 and "model" in said.lower()):
            return self._error("unknown_model", f"{config.base_url} does not know model '{config.model}': {said}")
        if status in (404, 405) or 300 <= status < 400:
            return self._error(
                "wrong_url", f"{config.base_url}: no chat completions there ({status}); the URL often ends in /v1"
            )
        wait = _retry_after(error.response.headers)
        if code == "insufficient_quota" or status == 402:
            return self._error("quota", f"{config.base_url}: {said}")
        if status == 429:
            return self._error("rate_limited", f"{config.base_url}: too many requests (429)", wait=wait)
        if status >= 500 or status in (408, 409, 425):
            return self._error("server_error", f"{config.base_url}: status {status}: {said}", wait=wait)
        return self._error("refused", f"{config.base_url} refuses the request ({status}): {said}")

    def _error(
        self, reason: Reason, detail: str, usage: Usage | None = None, wait: float | None = None
    ) -> SamplerError:
        line = " ".join(self._public(detail).split())[:300]
        return SamplerError(reason, line, usage or Usage(1), wait)

    def _public(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as the protocol writes it."""
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.tool_id, "content": turn.text}
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.tool_code is not None:
        function = {"name": TOOL, "arguments": json.dumps({"code": turn.tool_code})}
        message["tool_calls"] = [{"id": turn.tool_id, "type": "function", "function": function}]
    return message


def _usage(said: Any, text: str, messages: Sequence[Turn]) -> Usage:
    """What the server billed; an estimate of four characters a token where it does not say."""
    if isinstance(said, dict) and isinstance(said.get("prompt_tokens"), int):
        return Usage(1, said["prompt_tokens"], int(said.get("completion_tokens") or 0))
    return Usage(1, sum(len(turn.text) for turn in messages) // 4 + 1, len(text) // 4 + 1)


def _retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait, from a number or a date, or None."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
