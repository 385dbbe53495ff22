"""What answers in a conversation, and what it may cost: samplers, their typed errors, usage, prices, budgets.

A `Sampler` turns messages into an `Answer`. Three kinds of failure are told apart, because they end differently: a
*fatal* one (wrong key, unknown model) stops the build; one of the *problem* (the model answers nothing, or without
end) rejects the problem; any other is the server's, and leaves the problem open for a later attempt.
The network is in `endpoint.py`; this module knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from reflectioncoder.clients.budget import Usage

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
        return type(self), (self.reason, self.detail, self.usage, self.wait, self.final)

    @property
    def fatal(self) -> bool:
        """Whether every further request would fail the same way."""
        return self.reason in FATAL

    @property
    def of_the_problem(self) -> bool:
        """Whether it says something about this problem, not about the server."""
        return self.reason in OF_THE_PROBLEM


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
