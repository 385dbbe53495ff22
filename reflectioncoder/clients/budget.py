"""Token usage, prices, and the budget that stops a build when it is used up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from reflectioncoder.errors import UserError


@dataclass(frozen=True)
class Usage:
    """Requests and tokens used by one request or a whole build.

    Failed requests count as requests; their tokens count only if the server billed them.
    """

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
        """Input and output tokens together."""
        return self.tokens_in + self.tokens_out


class BudgetError(Exception):
    """The next request might exceed the budget.

    `usage` is what earlier, failed attempts at the same answer have used.
    """

    usage = Usage()


@dataclass(frozen=True)
class Price:
    """Price of a million input and a million output tokens, in the currency of the budget."""

    tokens_in: float
    tokens_out: float

    def cost(self, usage: Usage) -> float:
        """Cost of a usage, in the currency of the price."""
        return (usage.tokens_in * self.tokens_in + usage.tokens_out * self.tokens_out) / 1e6


def price_of(model: str, table: Sequence[str]) -> Price | None:
    """Find a model's price in entries like "small-model=0.15/0.60" (input/output, per million tokens).

    The last entry of the model counts. Returns None if there is none.

    Raises:
        UserError: an entry does not have this form.
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
                f"chat.prices: '{entry}' is not MODEL=INPUT/OUTPUT (per million tokens), such as 'm=0.15/0.60'"
            ) from None
        if name == model:
            found = price
    return found


class Budget:
    """Limits on the requests, tokens and money of a build.

    Each request first reserves the most it can cost, so the budget is never exceeded. If the remainder may be too small
    for another request while others are running, the request waits until they have settled.

    Args:
        requests: limit on HTTP requests; 0 for no limit, also for the next two.
        tokens: limit on input and output tokens together.
        money: limit on the cost, in the currency of `price`.
        price: the model's price; required for a limit on the cost.
        spent: usage of earlier runs of the same build.

    Raises:
        UserError: `money` is set but `price` is not.
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
        """Describe the limit that a usage exceeds; None if it exceeds none."""
        if self.requests and usage.requests > self.requests:
            return f"{self.requests} requests"
        if self.tokens and usage.tokens > self.tokens:
            return f"{self.tokens} tokens"
        if self.money and self.price is not None and self.price.cost(usage) > self.money:
            return f"{self.money:g} in money"
        return None

    async def reserve(self, worst: Usage) -> None:
        """Reserve the most that one request can use; wait while running requests may still free budget.

        Raises:
            BudgetError: the request does not fit and no request is running.
        """
        while limit := self.exceeded(self.spent + self._reserved + worst):
            if self._reserved == Usage():
                raise BudgetError(f"the budget of {limit} is spent")
            await self._settled.wait()
        self._reserved += worst

    def settle(self, worst: Usage, used: Usage) -> None:
        """Release a reservation and book the actual usage."""
        self._reserved -= worst
        self.spent += used
        self._settled.set()
        self._settled = asyncio.Event()
