"""Parser for the response body of a chat completion or a completion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflectioncoder.clients.budget import Usage
from reflectioncoder.clients.endpoint import Endpoint

EMPTY = "the model returned an empty answer"
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Reply:
    """A parsed response body.

    Args:
        text: text of the answer; empty if there is none.
        tool_code: code of the first tool call; None if there is no call, or if the call was truncated.
        tool_id: id of that call; empty if there is none.
        finish: why the answer ended; "stop" if the server does not report it.
        ids: token ids of the answer; None if the server does not return them.
        stop_reason: id of the token at which the answer stopped; None if the server does not report it.
        usage: the server's count, or an estimate if it sends none.
        model: name of the model as the server reports it, otherwise the requested name.
    """

    text: str
    tool_code: str | None
    tool_id: str
    finish: str
    ids: tuple[int, ...] | None
    stop_reason: int | None
    usage: Usage
    model: str


def read_reply(
    body: bytes, endpoint: Endpoint, estimate: Callable[[str, Sequence[int] | None], Usage], chat: bool = False
) -> Reply:
    """Parse a response body.

    Args:
        body: the body, JSON.
        endpoint: the client of the server; creates the errors.
        estimate: returns an estimated usage, given text and token ids of the answer, for servers that report none.
        chat: whether the body is a chat completion, whose text is in a message; otherwise it is a completion.

    Raises:
        SamplerError: the reason is `malformed`, or `refused` if a content filter stopped the answer.
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        source = choice["message"] if chat else choice
        ids = _ids(choice.get("token_ids"))
        text = (source.get("content") if chat else choice["text"] if ids is None else choice.get("text")) or ""
        calls = source.get("tool_calls") or []
        finish = str(choice.get("finish_reason") or "stop")
        if not isinstance(text, str):
            raise TypeError("content is not text")
        text = _writable(text)
        usage = _billed(data.get("usage")) or estimate(text, ids)
        stop_reason = choice.get("stop_reason")
    except _MALFORMED as error:
        start = body[:60].decode("utf-8", "replace")
        raise endpoint.error("malformed", f"not a completion ({type(error).__name__}): {start!r}") from None
    code, tool_id = None, ""
    if calls:
        try:
            code, tool_id = _tool_call(calls)
        except _MALFORMED as error:
            if finish != "length":  # a truncated call is not malformed
                detail = f"a tool call without code ({type(error).__name__})"
                raise endpoint.error("malformed", detail, usage) from None
    if finish == "content_filter":
        raise endpoint.error("refused", "the server's content filter stopped the answer", usage, final=True)
    stopped_at = stop_reason if isinstance(stop_reason, int) else None
    return Reply(text, code, tool_id, finish, ids, stopped_at, usage, str(data.get("model") or endpoint.model))


def by_length(characters: int) -> Callable[[str, Sequence[int] | None], Usage]:
    """Make an `estimate` for `read_reply`: four characters per token, for a prompt of `characters` characters."""
    return lambda text, _: Usage(1, characters // 4 + 1, len(text) // 4 + 1)


def _billed(said: Any) -> Usage | None:
    if isinstance(said, Mapping) and isinstance(said.get("prompt_tokens"), int):
        return Usage(1, said["prompt_tokens"], int(said.get("completion_tokens") or 0))
    return None


def _ids(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    ids = tuple(given)
    if not all(isinstance(id, int) and 0 <= id < 1 << 31 for id in ids):
        raise TypeError("token_ids are not all token ids")
    return ids


def _tool_call(calls: Any) -> tuple[str, str]:
    code = json.loads(calls[0]["function"]["arguments"])["code"]
    if not isinstance(code, str):
        raise TypeError("code is not text")
    return _writable(code), str(calls[0].get("id") or "call")


def _writable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
