"""What answers cost: token usage, prices, and the budget that stops a build."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from reflectioncoder.errors import UserError


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


class BudgetError(Exception):
    """The next request might not fit into the budget any more; `usage` is what was spent before, for nothing."""

    usage = Usage()


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
