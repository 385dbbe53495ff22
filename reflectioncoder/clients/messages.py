"""What answers in a conversation, and what it may cost: samplers, their typed errors, usage, prices, budgets.

A `Sampler` turns messages into an `Answer`. Three kinds of failure are told apart, because they end differently: a
*fatal* one (wrong key, unknown model) stops the build; one of the *problem* (the model answers nothing, or without
end) rejects the problem; any other is the server's, and leaves the problem open for a later attempt.
The network is in `endpoint.py`; this module knows no network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from reflectioncoder.errors import UserError

TurnRole = Literal["system", "user", "assistant", "tool"]
Tools = Literal["off", "offered", "closed"]
Reason = Literal[
    "rate_limited", "server_error", "connection", "timeout", "malformed",  # the server's
    "empty", "too_long", "refused", "not_recorded", "forged_prompt",  # the problem's
    "authentication", "unknown_model", "wrong_url", "bad_request", "no_special_tokens", "quota", "server_down",
    "stopped",  # the build's
]  # fmt: skip
FATAL: frozenset[Reason] = frozenset(
    ("authentication", "unknown_model", "wrong_url", "bad_request", "no_special_tokens", "quota", "server_down")
)
OF_THE_PROBLEM: frozenset[Reason] = frozenset(("empty", "too_long", "refused", "not_recorded", "forged_prompt"))


@dataclass(frozen=True)
class Usage:
    """What a request or a whole build has used; requests that failed count, tokens only where they were billed."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.requests - other.requests, self.tokens_in - other.tokens_in, self.tokens_out - other.tokens_out
        )

    @property
    def tokens(self) -> int:
        """Both kinds together."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True)
class Turn:
    """One message of a conversation with a chat model.

    Args:
        role: who says it; "tool" is the result of a tool call.
        text: what is said.
        tool_id: of the tool call that an assistant's turn makes or a tool's turn answers, empty where there is none.
        tool_code: the code that an assistant's tool call asks to run.
    """

    role: TurnRole
    text: str
    tool_id: str = ""
    tool_code: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: the message.
        tool_code: code of its first call of the `python` tool, None where it called nothing.
        tool_id: of that call.
        finish: why it stopped: "stop", "tool_calls", "length", or what else the server says.
        usage: of every request it took, also those that failed.
        model: what the server calls itself.
        seconds: wall-clock time, waiting for retries included.
    """

    text: str
    tool_code: str | None = None
    tool_id: str = ""
    finish: str = "stop"
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    seconds: float = 0.0


class SamplerError(Exception):
    """No answer: why, in a word and in a line that holds no key; `usage` is what was spent for nothing.

    `wait` is how many seconds the server asks to wait, `final` that another attempt would end the same way.
    """

    def __init__(
        self, reason: Reason, detail: str, usage: Usage | None = None, wait: float | None = None, final: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.usage, self.wait, self.final = reason, detail, usage or Usage(), wait, final

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is unpickled from its `args`, which are the detail alone
        return type(self), (self.reason, self.detail, self.usage, self.wait)

    @property
    def fatal(self) -> bool:
        """Whether every further request would fail the same way."""
        return self.reason in FATAL

    @property
    def of_the_problem(self) -> bool:
        """Whether it says something about this problem, not about the server."""
        return self.reason in OF_THE_PROBLEM


class BudgetError(Exception):
    """The next request might not fit into the budget any more; `usage` is what was spent before, for nothing."""

    usage = Usage()


class Sampler(Protocol):
    """Whatever answers.

    Args:
        name: the kind of sampler, recorded in every sequence.
        model: what it was asked for.
    """

    name: str
    model: str

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """Answer a conversation.

        Args:
            messages: all of it so far.
            problem: id of the problem.
            number: how many answers the conversation has had.
            tools: "offered": it may call the `python` tool; "closed": it did earlier but may not now.

        Raises:
            SamplerError: no answer, after all the retries there are.
            BudgetError: not asked, for want of budget.
        """
        ...

    def stop(self) -> None:
        """No further requests; those that wait for a retry give up at once."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True)
class Price:
    """Money for a million tokens, in whatever currency the budget is in."""

    tokens_in: float
    tokens_out: float

    def cost(self, usage: Usage) -> float:
        """What a usage costs."""
        return (usage.tokens_in * self.tokens_in + usage.tokens_out * self.tokens_out) / 1e6


def price_of(model: str, table: Sequence[str]) -> Price | None:
    """The price of a model from entries like "small-model=0.15/0.60" (input/output, for a million tokens).

    Raises:
        UserError: an entry that is not of this form.
    """
    found = None
    for entry in table:
        name, equals, numbers = entry.rpartition("=")
        try:
            price = Price(*map(float, numbers.split("/")))
            if not equals or not 0 <= price.tokens_in < float("inf") or not 0 <= price.tokens_out < float("inf"):
                raise ValueError
        except (ValueError, TypeError):
            raise UserError(
                f"chat.prices: '{entry}' is not MODEL=INPUT/OUTPUT (for a million tokens), such as 'm=0.15/0.60'"
            ) from None
        if name == model:
            found = price
    return found


class Budget:
    """What a build may use at most. A request reserves the most it can cost, so that nothing is overdrawn.

    Where the rest might not do for one more request while others are under way, it waits until these are settled.

    Args:
        requests: HTTP requests, 0 for no limit, as below.
        tokens: input and output together.
        money: by the price.
        price: of the model.
        spent: in earlier runs of the same build.
    """

    def __init__(
        self, requests: int = 0, tokens: int = 0, money: float = 0.0, price: Price | None = None,
        spent: Usage | None = None,
    ) -> None:  # fmt: skip
        if money and price is None:
            raise UserError("chat.budget_money needs the model's price: set chat.prices to 'MODEL=INPUT/OUTPUT'")
        self.requests, self.tokens, self.money, self.price = requests, tokens, money, price
        self.spent, self._reserved = spent or Usage(), Usage()
        self._settled = asyncio.Event()

    def exceeded(self, usage: Usage) -> str | None:
        """Which limit a usage would break, or None."""
        if self.requests and usage.requests > self.requests:
            return f"{self.requests} requests"
        if self.tokens and usage.tokens > self.tokens:
            return f"{self.tokens} tokens"
        if self.money and self.price is not None and self.price.cost(usage) > self.money:
            return f"{self.money:g} in money"
        return None

    async def reserve(self, worst: Usage) -> None:
        """Set aside the most that one request can use.

        Raises:
            BudgetError: it does not fit, and nothing under way can change that.
        """
        while limit := self.exceeded(self.spent + self._reserved + worst):
            if self._reserved == Usage():
                raise BudgetError(f"the budget of {limit} is spent")
            await self._settled.wait()
        self._reserved += worst

    def settle(self, worst: Usage, used: Usage) -> None:
        """Give back a reservation and book what was really used."""
        self._reserved -= worst
        self.spent += used
        self._settled.set()
        self._settled = asyncio.Event()


REASONS: tuple[Reason, ...] = get_args(Reason)
