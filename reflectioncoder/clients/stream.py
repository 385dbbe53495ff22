"""Puts the pieces of a streamed answer together, so that it is read like an answer in one piece.

The body is read as a whole first, within the same limits of time and size. The result has a `finish_reason` only if the
server sent one: a stream that ended early has none, and is therefore not taken for a whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reflectioncoder.files.json_value import parse_json

JOINED = ("content", "text", "reasoning_content", "reasoning", "refusal", "arguments", "thinking", "summary", "data")
START = re.compile(rb"\A\s*(data|event|id|retry|error)?:")


def is_stream(body: bytes) -> bool:
    """Whether a body is a stream of server-sent events."""
    return START.match(body) is not None


def joined_stream(body: bytes) -> Any:
    """Join a stream of server-sent events to one completion, or return the error object that it contains.

    Raises:
        ValueError: an event is not JSON, as when the stream was cut within one.
    """
    whole: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    for name, text in _events(body):
        if text.strip() == "[DONE]":
            break
        piece = parse_json(text)
        if not isinstance(piece, Mapping):
            raise ValueError("an event is not an object")
        if name == "error" or piece.get("error"):
            return piece if piece.get("error") else {"error": piece}
        for key, value in piece.items():
            if key != "choices" and value is not None:
                whole[key] = value  # the usage comes in the last event
        for part in piece.get("choices") or []:
            if isinstance(part, Mapping) and not part.get("index"):
                if part.get("error"):
                    return {"error": part["error"]}
                _join_choice(choice, part)
    for call in choice.get("message", {}).get("tool_calls", []):
        del call["index"]  # only of the stream
    return {**whole, "choices": [choice] if choice else []}


def _events(body: bytes) -> Iterator[tuple[str, str]]:
    """Name and data of each event; comments, which servers send to keep the connection open, are skipped."""
    name, data = "", list[str]()
    for line in [*re.split(r"\r\n|\n|\r", body.decode("utf-8", "replace")), ""]:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "error":  # older llama.cpp
            yield "error", value


def _join_choice(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if key in ("delta", "message") and isinstance(value, Mapping):
            _join_message(choice.setdefault("message", {}), value)
        elif key == "token_ids" and isinstance(value, list):
            choice[key] = [*choice.get(key, []), *value]
        elif value is not None:
            _join(choice, key, value)


def _join_message(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls" and isinstance(value, list):
            for call in value:
                if isinstance(call, Mapping):
                    _join_call(message.setdefault(key, []), call)
        elif isinstance(value, list):
            _join_parts(message, key, value)
        elif isinstance(value, Mapping):
            _join_inner(message, key, value)
        elif value is not None or key not in message:
            _join(message, key, value)


def _join_inner(target: dict[str, Any], key: str, value: Mapping[str, Any]) -> None:
    if not isinstance(target.get(key), dict):
        target[key] = {}
    _join_message(target[key], value)


def _join_call(calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
    """Add a piece to the call that it continues: the one with its index, unless it has an id of its own."""
    given, id = piece.get("index"), piece.get("id")
    last = next((call for call in reversed(calls) if given is None or call["index"] == given), None)
    new = last is None or (bool(id) and bool(last.get("id")) and last["id"] != id)
    if new or last is None:
        calls.append({"index": len(calls) if given is None else given})
        last = calls[-1]
    for key, value in piece.items():
        if key == "index":
            continue
        if isinstance(value, Mapping):
            _join_inner(last, key, value)
        elif value is not None:
            _join(last, key, value)


def _join_parts(message: dict[str, Any], key: str, parts: list[Any]) -> None:
    """Add content parts or details of thoughts; a piece continues the last part of its type and index."""
    known = message.get(key)
    if isinstance(known, str):  # text first, parts later
        known = [{"type": "text", "text": known}] if known else []
    together: list[Any] = known or []
    for part in parts:
        last = together[-1] if together else None
        if (
            isinstance(part, Mapping)
            and isinstance(last, dict)
            and (part.get("type"), part.get("index")) == (last.get("type"), last.get("index"))
        ):
            for name, value in part.items():
                if isinstance(value, list):
                    _join_parts(last, name, value)
                elif value is not None:
                    _join(last, name, value)
        else:
            together.append(dict(part) if isinstance(part, Mapping) else part)
    message[key] = together


def _join(target: dict[str, Any], key: str, value: Any) -> None:
    before = target.get(key)
    if isinstance(before, list) and isinstance(value, str):  # parts first, text later
        if value:
            _join_parts(target, key, [{"type": "text", "text": value}])
    elif key in JOINED and isinstance(before, str) and isinstance(value, str):
        target[key] = before + value
    elif value != "" or key not in target:  # some servers repeat names and ids as empty texts
        target[key] = value
