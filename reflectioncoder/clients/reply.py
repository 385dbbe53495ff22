"""Parser for the response body of a chat completion or a completion, in one piece or streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectioncoder.clients.budget import Usage
from reflectioncoder.clients.endpoint import Endpoint
from reflectioncoder.clients.failures import FILTER_WORDS, is_error
from reflectioncoder.clients.stream import is_stream, joined_stream
from reflectioncoder.clients.tool_calls import NO_ID, ToolCall, call_in_text, plain_call, read_calls, sent_back
from reflectioncoder.errors import encodable
from reflectioncoder.files.json_value import parse_json

EMPTY = "the model returned an empty answer"
AnswerEnding = Literal["whole", "length", "filtered", "unknown"]
# words for the end of an answer; every other word means that it is not known to be whole
WHOLE = frozenset(
    "stop tool_calls tool_call tool_use function_call eos eos_token end_turn stop_sequence end_of_turn".split()
)
LENGTH = frozenset("length max_tokens model_length max_length max_output_tokens max_new_tokens".split())
FILTERED = frozenset(
    "content_filter content_filtered safety recitation blocklist prohibited_content spii refusal sensitive"
    " guardrail_intervened".split()
)
THOUGHTS = ("reasoning_content", "reasoning")  # fields beside the text of an answer
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Reply:
    """A parsed response body.

    Args:
        text: text of the answer; empty if there is none.
        tool_code: code of the tool call; None if there is no call, or if the call was truncated.
        tool_id: id of that call; empty if there is none.
        finish: why the answer ended: "length" if a limit cut it off, otherwise the server's word for a whole answer.
        ids: token ids of the answer; None if the server does not return them.
        stop_reason: id of the token at which the answer stopped; None if the server does not report it.
        usage: the server's count, or an estimate if it sends none.
        model: name of the model as the server reports it, otherwise the requested name.
        message: the message as it is to be sent back; None if text and code are all of it.
        thoughts: number of characters of thoughts beside the text.
    """

    text: str
    tool_code: str | None
    tool_id: str
    finish: str
    ids: tuple[int, ...] | None
    stop_reason: int | None
    usage: Usage
    model: str
    message: dict[str, Any] | None = None
    thoughts: int = 0


def read_reply(
    body: bytes,
    endpoint: Endpoint,
    estimate: Callable[[str, Sequence[int] | None], Usage],
    chat: bool = False,
    tools: bool = False,
) -> Reply:
    """Parse a response body.

    Args:
        body: the body: JSON, or a stream of events.
        endpoint: the client of the server; creates the errors.
        estimate: returns an estimated usage, given text and token ids of the answer, for servers that report none.
        chat: whether the body is a chat completion, whose text is in a message; otherwise it is a completion.
        tools: whether the model knows a tool, so that a call in its text is a call.

    Raises:
        SamplerError: the body has no answer or an error, a filter stopped the answer, or it is not known to be whole.
    """
    try:
        data = joined_stream(body) if is_stream(body) else parse_json(body)
        if is_error(data):
            raise endpoint.failed(200, data)
        choice = data["choices"][0]
        source = choice["message"] if chat else choice
        ids = _ids(choice.get("token_ids"))
        content = source.get("content") if chat else choice["text"] if ids is None else choice.get("text")
        text = encodable(text_of(content))
        usage = _billed(data.get("usage")) or estimate(text, ids)
        word, stop_reason = choice.get("finish_reason"), choice.get("stop_reason")
    except _MALFORMED as error:
        start = body[:60].decode("utf-8", "replace")
        raise endpoint.error("malformed", f"not a completion ({type(error).__name__}): {start!r}") from None
    ending = _ending(word, endpoint.endings)
    refusal = source.get("refusal") if chat else None
    if ending == "filtered" or (isinstance(refusal, str) and refusal.strip() and not text.strip()):
        said = refusal if isinstance(refusal, str) and refusal else "the server's content filter stopped the answer"
        raise endpoint.error("refused", said, usage, final=True)
    if ending == "unknown":
        raise endpoint.error(
            "server_error",
            f"{endpoint.shown} ended an answer with finish_reason {json.dumps(word)}, which is not known to mean a"
            " whole answer; if it does, add it to chat.endings",
            usage,
        )
    call, message = None, None
    if chat:
        try:
            call = read_calls(source)
        except _MALFORMED as error:
            if ending != "length":  # a truncated call is not malformed
                raise endpoint.error("malformed", str(error), usage) from None
        message = _to_send_back(source, call, text) if ending == "whole" else None
        if tools and call is None and ending == "whole" and (found := call_in_text(text)) is not None:
            text, call = found[0], ToolCall(found[1], NO_ID)
            message = _to_send_back({key: item for key, item in source.items() if key != "content"}, None, "")
    return Reply(
        text,
        None if call is None else encodable(call.code),
        "" if call is None else call.id,
        "length" if ending == "length" else "stop" if word is None else str(word),
        ids,
        stop_reason if isinstance(stop_reason, int) else None,
        usage,
        str(data.get("model") or endpoint.model),
        message,
        sum(len(source.get(name)) for name in THOUGHTS if isinstance(source.get(name), str)) if chat else 0,
    )


def by_length(characters: int) -> Callable[[str, Sequence[int] | None], Usage]:
    """Make an `estimate` for `read_reply`: four characters per token, for a prompt of `characters` characters."""
    return lambda text, _: Usage(1, characters // 4 + 1, len(text) // 4 + 1)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, null, or a list of parts. Parts that are thoughts are left out.

    Raises:
        TypeError: the content is none of these.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TypeError("content is not text")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif part.get("type", "text") in ("text", "output_text"):
            texts.append(str(part.get("text") or ""))
    return "".join(texts)


def _ending(word: Any, also: Sequence[str]) -> AnswerEnding:
    if word is None:
        return "whole" if "null" in also else "unknown"
    if not isinstance(word, str):
        return "unknown"
    known = word.strip().lower()
    if known in WHOLE or word in also:
        return "whole"
    if known in LENGTH:
        return "length"
    return "filtered" if known in FILTERED or FILTER_WORDS.search(known) else "unknown"


def _to_send_back(source: Mapping[str, Any], call: ToolCall | None, text: str) -> dict[str, Any] | None:
    """The message for the next request; None if it follows from the text and the code."""
    message = sent_back(source)
    if call is None:  # the conversation may shorten the text
        message.pop("content")
        return message or None
    same = {"content": text, "tool_calls": plain_call(call.code, call.id)}
    return None if message == same else parse_json(encodable(json.dumps(message, ensure_ascii=False)))


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
