"""However a server cuts an answer into pieces, it is read as the same answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chatserver import completion, streamed
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.clients.stream import is_stream, joined_stream


def sse(*events: Any) -> bytes:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events).encode()


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


@given(st.text(), st.one_of(st.none(), st.text()), st.integers(1, 9), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_pieces_give_the_same_message(text: str, code: str | None, pieces: int, end: str) -> None:
    body = completion(text, "stop", code)
    stream = streamed(body, pieces).decode().replace("\n", end).encode()
    assert is_stream(stream) and not is_stream(body)
    joined, whole = joined_stream(stream), json.loads(body)
    assert joined["choices"][0]["message"] == whole["choices"][0]["message"]
    assert joined["choices"][0]["finish_reason"] == "stop"
    assert (joined["usage"], joined["model"]) == (whole["usage"], whole["model"])


@given(st.integers(0, 12))
def test_a_stream_that_ends_early_has_no_ending(cut: int) -> None:
    stream = streamed(completion("A whole answer.", "stop", "print(1)"), cut=cut)
    choices = joined_stream(stream)["choices"]
    last = sum(b'"finish_reason": "stop"' in event for event in stream.split(b"\n\n"))
    assert bool(choices and choices[0].get("finish_reason")) == bool(last)


def test_calls_of_servers_without_indices_are_kept_apart() -> None:
    def call(id: str | None, arguments: str, index: int | None) -> dict[str, Any]:
        head = {} if index is None else {"index": index}
        return delta(
            tool_calls=[{**head, "id": id, "function": {"name": "python" if id else "", "arguments": arguments}}]
        )

    for index in (None, 0):
        joined = joined_stream(sse(call("a", '{"code": ', index), call(None, '"1"}', index), call("b", "{}", index)))
        calls = joined["choices"][0]["message"]["tool_calls"]
        assert [(item["id"], item["function"]["arguments"]) for item in calls] == [("a", '{"code": "1"}'), ("b", "{}")]
        assert calls[0]["function"]["name"] == "python"


def test_thoughts_parts_and_signatures_are_joined() -> None:
    joined = joined_stream(
        sse(
            {"choices": [], "prompt_filter_results": []},  # Azure's first event
            delta(role="assistant", content=None, reasoning_content="Let "),
            delta(
                reasoning_content="me see.", reasoning_details=[{"type": "reasoning.text", "text": "Let ", "index": 0}]
            ),
            delta(reasoning_details=[{"type": "reasoning.text", "text": "me.", "signature": "c2ln", "index": 0}]),
            delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]),
            delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "m."}]}]),
            delta(content="It "),
            delta(content="fails."),
        )
    )
    assert joined["choices"][0]["message"] == {
        "role": "assistant",
        "reasoning_content": "Let me see.",
        "reasoning_details": [{"type": "reasoning.text", "text": "Let me.", "signature": "c2ln", "index": 0}],
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]},
            {"type": "text", "text": "It fails."},
        ],
    }


def test_a_completion_with_token_ids_is_joined() -> None:
    parts = [
        {"index": 0, "text": "a", "token_ids": [1]},
        {"index": 1, "text": "other"},
        {"text": "b", "token_ids": [2]},
    ]
    joined = joined_stream(
        sse(*({"choices": [part]} for part in parts), {"choices": [{"text": "", "finish_reason": "length"}]})
    )
    assert joined["choices"] == [{"index": 0, "text": "ab", "token_ids": [1, 2], "finish_reason": "length"}]


@pytest.mark.parametrize(
    "stream",
    [
        sse(delta(content="A"), {"error": {"message": "out of memory", "code": 500}}),
        sse({"choices": [{"index": 0, "error": {"message": "out of memory", "code": 500}, "finish_reason": "error"}]}),
        sse(delta(content="A")) + b'error: {"message": "out of memory", "code": 500}\n\n',
        sse(delta(content="A")) + b'event: error\ndata: {"message": "out of memory", "code": 500}\n\n',
    ],
)
def test_an_error_in_a_stream_is_an_error(stream: bytes) -> None:
    assert joined_stream(stream) == {"error": {"message": "out of memory", "code": 500}}


def test_what_is_no_event_is_malformed() -> None:
    for stream in (b"data: {", b"data: 1\n\n", b'data: {"choices": [{"delta": {"content": "A'):
        with pytest.raises(ValueError):
            joined_stream(stream)
    assert joined_stream(b": nothing\n\n")["choices"] == []
