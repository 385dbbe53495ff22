"""Every server of docs/servers.md, as its documentation describes it: answers, tool calls, streams and errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from chatserver import ChatServer, Reply, streamed
from vendors import CODE, KEY, SAID, Vendor, vendors

from reflectioncoder.clients.chat import ChatSampler
from reflectioncoder.clients.messages import Answer, SamplerError, Tools, Turn
from reflectioncoder.config.build import ChatConfig

HELLO = (Turn("system", "Be brief."), Turn("user", "Hello?"))
ALL = pytest.mark.parametrize("vendor", vendors(), ids=lambda vendor: vendor.name)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def sampler(vendor: Vendor, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> ChatSampler:
    for name, value in vendor.env.items():
        monkeypatch.setenv(name, value)
    known = {"base_url": vendor.base_url(), "model": "m", "backoff": 0.01, "timeout": 5.0, "retries": 1}
    return ChatSampler(ChatConfig(**{**known, **vendor.chat, **changes}), tool_description="Runs code.")


async def ask(asked: ChatSampler, turns: tuple[Turn, ...] = HELLO, tools: Tools = "off") -> Answer | SamplerError:
    try:
        return await asked.answer(turns, "p", len(turns) // 2, tools)
    except SamplerError as error:
        return error


@ALL
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called_and_the_conversation_goes_on(
    vendor: Vendor, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vendor.serve() as server:
        asked = sampler(vendor, monkeypatch, stream=stream)

        async def run() -> tuple[Any, Any]:
            first = await ask(asked, tools="offered")
            assert isinstance(first, Answer), first
            turn = Turn("assistant", first.text.strip(), first.tool_id, first.tool_code, first.message)
            second = await ask(asked, (*HELLO, turn, Turn("tool", "AssertionError", first.tool_id)), "closed")
            await asked.close()
            return first, second

        first, second = asyncio.run(run())
    assert (first.tool_code, first.usage.tokens, first.model) == (CODE, 15, "served")
    assert isinstance(second, Answer), second
    assert (second.text, second.tool_code, second.usage.tokens) == (SAID, None, 15)
    assert len(server.requests) == 2
    assert server.requests[0].get("stream", False) == stream
    assert {path.partition("?")[0] for path in server.paths} == {f"{vendor.path}/chat/completions"}
    for name, value in vendor.chat.get("extra_body", {}).items():
        assert server.requests[1].get(name) == value
    if vendor.name == "Azure":
        assert {path.partition("?")[2] for path in server.paths} == {"api-version=2024-10-21"}
        assert "authorization" not in server.headers[0]


def fails(vendor: Vendor, reply: Reply | bytes, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Any, int]:
    with ChatServer(lambda *_: reply) as server:
        vendor.server = server
        asked = sampler(vendor, monkeypatch, **changes)

        async def run() -> Answer | SamplerError:
            found = await ask(asked)
            await asked.close()
            return found

        return asyncio.run(run()), len(server.requests)


KINDS = {
    "too_long": "too_long", "bad_key": "authentication", "unknown_model": "unknown_model", "filtered": "refused",
}  # fmt: skip


@ALL
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_of_its_kind_and_costs_one_request(
    vendor: Vendor, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = getattr(vendor, kind)
    if reply is None:
        pytest.skip("not documented")
    error, requests = fails(vendor, reply, monkeypatch)
    assert isinstance(error, SamplerError), error
    assert (error.reason, requests) == (KINDS[kind], 1)
    assert KEY not in error.detail


@ALL
def test_an_error_says_the_same_with_status_200_and_in_a_stream(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = vendor.too_long.body
    assert isinstance(body, bytes)
    data = json.loads(body)
    inner = data[0] if isinstance(data, list) else data
    if not {"error", "object"} & inner.keys():
        inner = {"error": inner}
    for given in (json.dumps(inner).encode(), f": x\n\ndata: {json.dumps(inner)}\n\ndata: [DONE]\n\n".encode()):
        error, requests = fails(vendor, given, monkeypatch)
        assert isinstance(error, SamplerError), error
        assert (error.reason, requests) == ("too_long", 1)


@ALL
def test_a_busy_server_is_asked_again(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    error, requests = fails(vendor, vendor.busy, monkeypatch, longest_wait=0.05)  # gives up after ten times this
    assert error.reason in ("rate_limited", "server_error")
    assert requests >= 2

    def script(number: int, request: dict[str, Any]) -> Reply | bytes:
        return vendor.text() if number else vendor.busy

    with ChatServer(script) as server:
        vendor.server = server
        asked = sampler(vendor, monkeypatch)

        async def run() -> Answer | SamplerError:
            found = await ask(asked)
            await asked.close()
            return found

        answer = asyncio.run(run())
    assert isinstance(answer, Answer)
    assert (answer.text, len(server.requests)) == (SAID, 2)


@pytest.mark.parametrize("name", ["OpenAI", "TGI"])
def test_a_stream_that_was_cut_is_not_a_whole_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = next(vendor for vendor in vendors() if vendor.name == name)
    whole = streamed(vendor.text())
    events = whole.decode().split("\n\n")
    last = next(place for place, event in enumerate(events) if f'"{vendor.whole[0]}"' in event)
    cut = [
        "\n\n".join([*events[:2], ""]).encode(),  # the server ends the response early, without an error
        "\n\n".join([*events[:last], ""]).encode(),
        "\n\n".join([*events[:last], "data: [DONE]", ""]).encode(),
        whole[: whole.index(SAID[:9].encode()) + 3],
        Reply(whole, cut=len(whole) // 2),
    ]
    without_end = "\n\n".join([*events[: last + 1], ""]).encode()  # some servers send no [DONE]
    replies = [*cut, without_end]
    with ChatServer(lambda number, _: replies[number]) as server:
        vendor.server = server
        asked = sampler(vendor, monkeypatch, stream=True, retries=0)

        async def run() -> list[Any]:
            found = [await ask(asked) for _ in replies]
            await asked.close()
            return found

        *errors, answer = asyncio.run(run())
    assert [error.reason for error in errors[:2]] == ["server_error", "server_error"]
    assert all((isinstance(error, SamplerError) and error.fatal) or not error.of_the_problem for error in errors)
    assert isinstance(answer, Answer)
    assert answer.text == SAID


@pytest.mark.parametrize(
    ("thoughts", "tools", "sent"),
    [
        ("with_tools", "offered", True),
        ("with_tools", "off", False),
        ("always", "off", True),
        ("never", "offered", False),
    ],
)
def test_thoughts_are_sent_back_as_the_settings_say(
    thoughts: str, tools: Tools, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = next(vendor for vendor in vendors() if vendor.name == "vLLM")
    body = (
        vendor.tool_call() if tools == "offered" else vendor._body({"content": "A", "reasoning_content": "Hm."}, "stop")
    )
    with ChatServer(lambda *_: body) as server:
        vendor.server = server
        asked = sampler(vendor, monkeypatch, thoughts=thoughts)

        async def run() -> None:
            first = await ask(asked, tools=tools)
            assert isinstance(first, Answer), first
            turn = Turn("assistant", first.text, first.tool_id, first.tool_code, first.message)
            await ask(asked, (*HELLO, turn), tools)
            await asked.close()

        asyncio.run(run())
    assert ("reasoning_content" in server.requests[1]["messages"][2]) == sent


ENDINGS = {
    "stop": "whole", "tool_calls": "whole", "eos_token": "whole", "END_TURN": "whole", "length": "length",
    "MAX_TOKENS": "length", "model_length": "length", "content_filter": "refused", "SAFETY": "refused",
    "content_filter: RECITATION": "refused", "error": "server_error", "abort": "server_error", "": "server_error",
    "insufficient_system_resource": "server_error", "network_error": "server_error", "no such word": "server_error",
}  # fmt: skip


def test_only_known_good_endings_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendors()[0]
    bodies = [vendor._body({"content": SAID}, word) for word in ENDINGS]
    null, number, none = (json.loads(bodies[0]) for _ in range(3))
    null["choices"][0]["finish_reason"] = None
    number["choices"][0]["finish_reason"] = 1
    del none["choices"][0]["finish_reason"]
    bodies += [json.dumps(body).encode() for body in (null, number, none)]
    with ChatServer(lambda number, _: bodies[number]) as server:
        vendor.server = server
        asked = sampler(vendor, monkeypatch, retries=0)
        free = sampler(vendor, monkeypatch, endings=("null",))

        async def run() -> tuple[list[Any], Any]:
            found = []
            for _ in bodies:
                found.append(await ask(asked))
                asked._endpoint._given_up = 0  # a server that only fails would be given up
            bodies.append(bodies[-1])
            whole = await ask(free)
            await asked.close()
            await free.close()
            return found, whole

        found, whole = asyncio.run(run())
    kinds = [
        item.reason if isinstance(item, SamplerError) else "length" if item.finish == "length" else "whole"
        for item in found
    ]
    assert kinds == [*ENDINGS.values(), *["server_error"] * 3]
    assert isinstance(whole, Answer) and whole.text == SAID
    errors = [item for item in found if isinstance(item, SamplerError) and item.reason == "server_error"]
    assert all(error.usage.tokens_out == 5 for error in errors)  # they were billed


def test_an_answer_of_thoughts_only_says_so_and_a_cut_one_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = vendors()[2]
    thoughts = {"content": None, "reasoning_content": "x" * 70}
    error, requests = fails(vendor, vendor._body(thoughts, "stop"), monkeypatch)
    assert (error.reason, requests) == ("empty", 2)
    assert "returned thoughts (70 characters) and no answer; raise chat.max_tokens" in error.detail
    answer, _ = fails(vendor, vendor._body(thoughts, "length"), monkeypatch)
    assert isinstance(answer, Answer) and (answer.text, answer.finish) == ("", "length")
