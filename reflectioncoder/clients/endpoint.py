"""Client for one OpenAI-compatible server: connection reuse, timeouts, retries with back-off, budgets, typed errors.

The official client implements the protocol, with its own retries switched off: they do not cover malformed or empty
answers, do not count against a budget, and do not hold back other requests when the server asks for a pause. Keys are
read from the environment (`address.py`) and removed from every error message. The callers build the requests and parse
the answers: `clients/chat.py`, `construct/samplers/native_completions.py` and `generate/server.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import httpx2
import openai

from reflectioncoder.clients.address import Access, check_endpoint, shown_url
from reflectioncoder.clients.budget import Budget, BudgetError, Usage
from reflectioncoder.clients.failures import failure_of
from reflectioncoder.clients.messages import Reason, SamplerError
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.files.json_value import parse_json

NO_KEY = "none"  # sent if no key is set; local servers ignore it
LONGEST_PAUSE = 30.0
LONGEST_WAITS = 10  # number of longest waits granted to a server that keeps asking to retry later
DOWN_AFTER = 3  # requests given up in a row, with no answer in between
PAID_RETRIES = 2  # retries after empty or endless answers, each of which may be billed
ERROR_CHARACTERS = 300  # characters of an error message


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

    Raises:
        UserError: see `check_endpoint`.
    """

    def __init__(
        self,
        config: ChatConfig,
        model: str,
        budget: Budget | None = None,
        serves: str = "chat completions",
    ) -> None:
        check_endpoint(config, model)
        self.model, self.budget, self.endings = model, budget or Budget(), config.endings
        self.shown = shown_url(config.base_url)  # for messages
        self._config, self._serves, self._access = config, serves, Access.of(config)
        limits = httpx2.Limits(
            max_connections=config.in_flight, max_keepalive_connections=config.in_flight, keepalive_expiry=60
        )
        self.client = openai.AsyncOpenAI(
            api_key=self._access.key or NO_KEY,
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
        if failure.fatal or failure.final or reason in ("refused", "forbidden"):
            raise SamplerError(reason, detail, spent, final=failure.final)
        if failure.wait is not None and failure.wait > self._config.longest_wait:
            raise SamplerError("quota", f"{detail}: asks to wait {failure.wait:.0f} s; start again later", spent)
        if reason == "connection" and not self._answered and failures >= 2:
            raise SamplerError("server_down", f"{detail}; is chat.base_url right and the server running?", spent)
        paid = failure.of_the_problem or failure.usage.tokens_out > 0
        if failures > min(self._config.retries, PAID_RETRIES if paid else self._config.retries):
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
            raise self._status_error(error, parameters) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            how = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            raise self.error("connection", f"connection to {self.shown} failed ({how})") from None
        except httpx2.HTTPError as error:
            how = f"{type(error).__name__}: {error}"
            raise self.error("connection", f"connection to {self.shown} was cut ({how})") from None
        except (openai.OpenAIError, UnicodeError, ValueError) as error:
            raise self.error("malformed", f"{type(error).__name__}: {error}") from None

    async def _body(self, create: Create, parameters: Mapping[str, Any], worst: Usage) -> bytes:
        # read in chunks, so that an endless answer cannot fill the memory
        per_token = 1024 if self._config.stream else 64  # each piece of a stream repeats the names of its fields
        most = 65_536 + per_token * worst.tokens_out + 16 * worst.tokens_in  # some servers echo the prompt
        body = bytearray()
        async with create(**self._with_extras(parameters)) as response:
            async for piece in response.iter_bytes(65_536):
                body += piece
                if len(body) > most:
                    raise self.error("too_long", f"an answer of more than {most} bytes")
        return bytes(body)

    def _with_extras(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Add what the settings say to the parameters of a request."""
        access, given = self._access, dict(parameters)
        if self._config.stream:
            given |= {"stream": True, "stream_options": {"include_usage": True}}
        body = {**(given.pop("extra_body", None) or {}), **access.body}
        for name in [name for name, value in body.items() if value is None]:
            given.pop(name, None)
            del body[name]
        headers: dict[str, Any] = dict(access.headers)
        if not access.key and access.own_credential and "authorization" not in map(str.lower, headers):
            headers["Authorization"] = openai.Omit()
        for name, value in (("extra_body", body), ("extra_headers", headers), ("extra_query", dict(access.query))):
            if value:
                given[name] = value
        return given

    def _status_error(self, error: openai.APIStatusError, parameters: Mapping[str, Any]) -> SamplerError:
        try:
            body = parse_json(error.response.content)
        except (ValueError, RecursionError, httpx2.ResponseNotRead):
            body = error.body if isinstance(error.body, str) else error.message
        return self.failed(error.status_code, body, error.response.headers, parameters)

    def failed(
        self,
        status: int,
        body: Any,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> SamplerError:
        """Make a typed error from an error response or an error object.

        Args:
            status: HTTP status; 200 for an error object in the body of a successful response.
            body: the body, parsed if it is JSON.
            headers: headers of the response.
            parameters: parameters of the request.
        """
        failure, config, url = failure_of(status, body, headers), self._config, self.shown
        said, status, reason = failure.said or "no explanation", failure.status, failure.reason
        if reason == "authentication" and status == 403 and self._answered:
            reason = "forbidden"  # the key is accepted for other requests
        if reason == "authentication":
            given = "was not accepted" if self._access.key else "is not set"
            key = f"the key in {config.api_key_variable} {given}"
            return self.error("authentication", f"{url}: {key} ({status}): {said}")
        if reason == "unknown_model":
            return self.error("unknown_model", f"{url} does not know model '{self.model}': {said}")
        if reason == "wrong_url":
            hint = f"no {self._serves} there ({status}); the URL often ends in /v1"
            return self.error("wrong_url", f"{url}: {hint}: {said}")
        if reason == "rate_limited":
            return self.error("rate_limited", f"{url}: too many requests (429): {said}", wait=failure.wait)
        if reason == "server_error":
            return self.error("server_error", f"{url}: status {status or 200}: {said}", wait=failure.wait)
        if reason in ("refused", "forbidden"):
            return self.error(reason, f"{url} refuses the request ({status or 200}): {said}", final=failure.final)
        asked = max(
            (int((parameters or {}).get(name) or 0) for name in ("max_tokens", "max_completion_tokens")), default=0
        )
        if reason == "too_long" and failure.limit and failure.limit <= asked and not self._answered:
            why = f"an answer of {asked} tokens leaves no room for a prompt; lower chat.max_tokens (max_new_tokens)"
            return self.error("bad_request", f"{url}: {why}: {said}")
        return self.error(reason, f"{url}: {said}", final=failure.final)

    def error(
        self, reason: Reason, detail: str, usage: Usage | None = None, wait: float | None = None, final: bool = False
    ) -> SamplerError:
        """Make a typed error with all keys removed from its text; usage defaults to one request without tokens."""
        line = " ".join(self._access.public(detail).split())[:ERROR_CHARACTERS]
        return SamplerError(reason, line, usage or Usage(1), wait, final)
