"""The sampler interface: messages, answers and typed errors. The network code is in `endpoint.py`.

A `Sampler` turns messages into an `Answer`. There are three kinds of failure. A *fatal* failure (wrong key, unknown
model) stops the build. A failure *of the problem* (an empty or endless answer) rejects the problem. Any other failure
is the server's and leaves the problem open for a later attempt. Usage, prices and budgets are in `budget.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from reflectioncoder.clients.budget import Usage

TurnRole = Literal["system", "user", "assistant", "tool"]
Tools = Literal["off", "offered", "closed"]
Reason = Literal[
    "rate_limited", "server_error", "connection", "timeout", "malformed",  # the server's
    "empty", "too_long", "refused", "forbidden", "not_recorded", "forged_prompt",  # the problem's
    "authentication", "unknown_model", "wrong_url", "bad_request", "no_special_tokens", "quota", "server_down",
    "stopped",  # the build's
]  # fmt: skip
FATAL: frozenset[Reason] = frozenset(
    ("authentication", "unknown_model", "wrong_url", "bad_request", "no_special_tokens", "quota", "server_down")
)
OF_THE_PROBLEM: frozenset[Reason] = frozenset(
    ("empty", "too_long", "refused", "forbidden", "not_recorded", "forged_prompt")
)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation with a chat model.

    Args:
        role: author of the message; "tool" is the result of a tool call.
        text: text of the message.
        tool_id: id of the tool call that an assistant turn makes or a tool turn answers; empty if there is none.
        tool_code: the code that an assistant's tool call asks to run.
        message: fields of the model's own message, which are sent back as they came; see `Answer`.
    """

    role: TurnRole
    text: str
    tool_id: str = ""
    tool_code: str | None = None
    message: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Answer:
    """One answer of a model.

    Args:
        text: text of the message.
        tool_code: code of the call of the `python` tool that is to be run; None if there is no call.
        tool_id: id of that call.
        finish: why the answer ended: "stop", "tool_calls", "length", or the server's own word.
        usage: usage of all requests for this answer, failed ones included.
        model: the model's name as the server reports it.
        seconds: wall-clock time, waits for retries included.
        message: fields of the message that the next request must send back as they came, such as thoughts and
            signatures; with a call also its content and all calls. None if text and code are all of it.
    """

    text: str
    tool_code: str | None = None
    tool_id: str = ""
    finish: str = "stop"
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    seconds: float = 0.0
    message: Mapping[str, Any] | None = field(default=None, hash=False)


class SamplerError(Exception):
    """A request that got no answer.

    `reason` is one word, and `detail` is one line without the API key. `usage` is the usage of the failed attempts.
    `wait` is the number of seconds that the server asks to wait. `final` means that another attempt would fail the same
    way.
    """

    def __init__(
        self, reason: Reason, detail: str, usage: Usage | None = None, wait: float | None = None, final: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.usage, self.wait, self.final = reason, detail, usage or Usage(), wait, final

    def __reduce__(self) -> tuple[Any, ...]:
        # exceptions are unpickled from `args`, which has only the detail
        return type(self), (self.reason, self.detail, self.usage, self.wait, self.final)

    @property
    def fatal(self) -> bool:
        """Whether every further request would fail the same way."""
        return self.reason in FATAL

    @property
    def of_the_problem(self) -> bool:
        """Whether the failure is due to this problem, not to the server."""
        return self.reason in OF_THE_PROBLEM


class Sampler(Protocol):
    """Source of a conversation's answers: a model, or recorded answers.

    Args:
        name: the kind of sampler, recorded in every sequence.
        model: name of the requested model.
    """

    name: str
    model: str

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """Answer a conversation.

        Args:
            messages: the conversation so far.
            problem: id of the problem.
            number: number of answers the conversation already has, from 0.
            tools: "offered": the model may call the `python` tool; "closed": it was offered before but no longer is.

        Raises:
            SamplerError: no answer after all retries.
            BudgetError: the budget does not allow the request.
        """
        ...

    def stop(self) -> None:
        """Send no further requests; requests waiting for a retry fail at once."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
