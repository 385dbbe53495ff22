"""Client for one OpenAI-compatible server: connection reuse, timeouts, retries with back-off, budgets, typed errors.

The official client implements the protocol, with its own retries switched off: they do not cover malformed or empty
answers, do not count against a budget, and do not hold back other requests when the server asks for a pause. The API
key is read from the environment and removed from every text that leaves this module. The callers build the requests
and parse the answers: `clients/chat.py`, `construct/samplers/native_completions.py` and `generate/server.py`.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai

from reflectioncoder.clients.budget import Budget, BudgetError, Usage
from reflectioncoder.clients.messages import Reason, SamplerError
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.errors import UserError

NO_KEY = "none"  # sent if no key is set; local servers ignore it
LONGEST_PAUSE = 30.0
LONGEST_WAITS = 10  # number of longest waits granted to a server that keeps asking to retry later
DOWN_AFTER = 3  # requests given up in a row, with no answer in between
PAID_RETRIES = 2  # retries after empty or endless answers, each of which may be billed
SHORTEST_KEY = 6  # characters; a shorter key is not a secret, and removing it would garble texts


class Billed(Protocol):
    """A parsed answer with its usage."""

    @property
    def usage(self) -> Usage:
        """Usage of the request that returned the answer."""
        ...


R = TypeVar("R", bound=Billed)
Create = Callable[..., AbstractAsyncContextManager[Any]]


class Endpoint:
    """Client for one OpenAI-compatible server, with retries and timeouts; used inside one event loop.

    Args:
        config: URL, key variable, timeouts and retries.
        model: the model's name on the server.
        budget: shared by all requests; no limit if None.
        serves: description of the requested service, for error messages.
        single: report each refused request as refused (`final` if a content filter refused it). If False, a refusal
            before the first answer counts as a bad request that would fail for every problem.

    Raises:
        UserError: no model is named, or the URL is invalid or contains a password.
    """

    def __init__(
        self,
        config: ChatConfig,
        model: str,
        budget: Budget | None = None,
        serves: str = "chat completions",
        single: bool = False,
    ) -> None:
        check_endpoint(config, model)
        self.model, self.budget = model, budget or Budget()
        self._config, self._serves, self._single = config, serves, single
        key = os.environ.get(config.api_key_variable, "").strip()
        self._secret = key if len(key) >= SHORTEST_KEY else ""
        limits = httpx2.Limits(
            max_connections=config.in_flight, max_keepalive_connections=config.in_flight, keepalive_expiry=60
        )
        self.client = openai.AsyncOpenAI(
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
        """Send no further requests; requests waiting for a retry fail at once."""
        self._stopped.set()

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def ask(
        self, create: Create, parameters: Mapping[str, Any], worst: Usage, read: Callable[[bytes], R]
    ) -> tuple[R, Usage]:
        """Request one answer, with retries.

        Args:
            create: method of `client` that opens a streaming response.
            parameters: parameters of the request.
            worst: the most that one attempt can use.
            read: parses a response body; raises `error(...)` if it contains no answer.

        Returns:
            the result of `read`, and the usage of the failed attempts before it.

        Raises:
            SamplerError, BudgetError: see `Sampler`.
        """
        started, spent, failures = time.monotonic(), Usage(), 0
        while True:
            while (wait := self._not_before - time.monotonic()) > 0:
                await self._pause(wait + random.uniform(0, min(wait, 1.0)), spent)  # jitter
            await self._pause(0, spent)
            try:
                await self.budget.reserve(worst)
            except BudgetError as error:
                error.usage = spent
                raise
            used = Usage(1)
            try:
                answer = read(await self._request(create, parameters, worst))
                used = answer.usage
            except SamplerError as error:
                used = error.usage
                failure = error
            else:
                self._answered, self._given_up = True, 0
                return answer, spent
            finally:
                self.budget.settle(worst, used)
            spent += used
            waited = time.monotonic() - started
            if failure.wait is None or waited > LONGEST_WAITS * self._config.longest_wait:
                failures += 1  # being asked to wait is not a failure
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
        """Raise SamplerError if another attempt is pointless or no attempts are left; return otherwise."""
        reason, detail = failure.reason, failure.detail
        if failure.fatal or failure.final or reason == "refused":
            if reason == "refused" and not self._answered and not self._single:
                reason = "bad_request"  # no request has succeeded yet, so the requests are at fault, not this problem
            raise SamplerError(reason, detail, spent, final=failure.final)
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

    async def _request(self, create: Create, parameters: Mapping[str, Any], worst: Usage) -> bytes:
        """Send one HTTP request and return the response body."""
        config = self._config
        try:
            async with asyncio.timeout(config.timeout):  # the client's own timeout applies to each read only
                return await self._body(create, parameters, worst)
        except TimeoutError:
            raise self.error("timeout", f"no complete answer in {config.timeout:g} s") from None
        except openai.APITimeoutError:
            raise self.error("timeout", f"no answer in {config.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            how = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            raise self.error("connection", f"connection to {config.base_url} failed ({how})") from None
        except httpx2.HTTPError as error:
            how = f"{type(error).__name__}: {error}"
            raise self.error("connection", f"connection to {config.base_url} was cut ({how})") from None
        except (openai.OpenAIError, UnicodeError, ValueError) as error:
            raise self.error("malformed", f"{type(error).__name__}: {error}") from None

    async def _body(self, create: Create, parameters: Mapping[str, Any], worst: Usage) -> bytes:
        # read in chunks, so that an endless answer cannot fill the memory
        most = 65_536 + 64 * worst.tokens_out + 16 * worst.tokens_in  # some servers echo the prompt
        body = bytearray()
        async with create(**parameters) as response:
            async for piece in response.iter_bytes(65_536):
                body += piece
                if len(body) > most:
                    raise self.error("too_long", f"an answer of more than {most} bytes")
        return bytes(body)

    def _status_error(self, error: openai.APIStatusError) -> SamplerError:
        status, config = error.status_code, self._config
        body = error.body if isinstance(error.body, dict) else {}
        said = str(body.get("message") or body.get("detail") or error.message)
        code = str(body.get("code") or body.get("type") or "")
        if status in (401, 403):
            given = "was not accepted" if os.environ.get(config.api_key_variable) else "is not set"
            key = f"the key in {config.api_key_variable} {given}"
            return self.error("authentication", f"{config.base_url}: {key} ({status}): {said}")
        if code == "model_not_found" or (status == 404 and "model" in said.lower()):
            return self.error("unknown_model", f"{config.base_url} does not know model '{self.model}': {said}")
        if status in (404, 405) or 300 <= status < 400:
            return self.error(
                "wrong_url", f"{config.base_url}: no {self._serves} there ({status}); the URL often ends in /v1"
            )
        wait = _retry_after(error.response.headers)
        if code == "insufficient_quota" or status == 402:
            return self.error("quota", f"{config.base_url}: {said}")
        if status == 429:
            return self.error("rate_limited", f"{config.base_url}: too many requests (429)", wait=wait)
        if status >= 500 or status in (408, 409, 425):
            return self.error("server_error", f"{config.base_url}: status {status}: {said}", wait=wait)
        if code == "context_length_exceeded" or "context length" in said.lower():
            return self.error("too_long", f"{config.base_url}: {said}", final=True)
        return self.error(
            "refused", f"{config.base_url} refuses the request ({status}): {said}", final=code == "content_filter"
        )

    def error(
        self, reason: Reason, detail: str, usage: Usage | None = None, wait: float | None = None, final: bool = False
    ) -> SamplerError:
        """Make a typed error with the key removed from its text; usage defaults to one request without tokens."""
        line = " ".join(self.public(detail).split())[:300]
        return SamplerError(reason, line, usage or Usage(1), wait, final)

    def public(self, text: str) -> str:
        """Replace the API key in a text by asterisks."""
        return text.replace(self._secret, "***") if self._secret else text


def check_endpoint(config: ChatConfig, model: str) -> None:
    """Raise UserError if no model is named, the URL is invalid or contains a password, or a limit is not positive."""
    url = urlsplit(config.base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UserError(f"chat.base_url = '{config.base_url}': expected http://HOST:PORT/v1 or https://HOST/v1")
    if url.username or url.password or url.query:
        raise UserError(
            "chat.base_url: leave user name, password and query out of it; the key comes from the environment"
            f" variable {config.api_key_variable}"
        )
    if not model:
        raise UserError("chat.model: name the model to ask")
    for name in ("in_flight", "timeout", "max_tokens"):
        if getattr(config, name) <= 0:
            raise UserError(f"chat.{name} = {getattr(config, name)}: give a number above 0")


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait from a `Retry-After` header (a number or a date), or None."""
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
