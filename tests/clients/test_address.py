"""Keys come from the environment, go where the settings say, and are never printed or stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chatserver import ChatServer, failure

from reflectioncoder.cli.main import main
from reflectioncoder.clients.address import Access, check_endpoint, shown_url
from reflectioncoder.clients.chat import ChatSampler
from reflectioncoder.clients.messages import SamplerError, Turn
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.errors import UserError

KEY = "sk-a-secret-of-the-tests-0123456789"
HELLO = (Turn("user", "Hello?"),)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("MY_KEY", KEY)


def ask(server: ChatServer, **changes: Any) -> str:
    async def run() -> str:
        sampler = ChatSampler(ChatConfig(**{"base_url": server.url, "model": "m", "retries": 0, **changes}))
        try:
            return (await sampler.answer(HELLO, "p", 0)).text
        except SamplerError as error:
            return error.detail
        finally:
            await sampler.close()

    return asyncio.run(run())


def test_further_keys_headers_and_parameters_are_sent() -> None:
    with ChatServer(lambda *_: "Hi.") as server:
        body = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}, "temperature": None}
        headers = {"X-Api-Key": "$MY_KEY", "Proxy-Authorization": "Bearer ${MY_KEY}", "X-Title": "5 $$"}
        assert (
            ask(server, extra_body=body, extra_headers=headers, extra_query={"api-version": "1", "v": "a b"}) == "Hi."
        )
    (request,), (sent,) = server.requests, server.headers
    assert request["reasoning_effort"] == "low"
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    assert "temperature" not in request
    assert (sent["x-api-key"], sent["proxy-authorization"], sent["x-title"]) == (KEY, f"Bearer {KEY}", "5 $")
    assert "authorization" not in sent  # another header has the key
    assert server.paths == {"/v1/chat/completions?api-version=1&v=a+b"}


def test_a_key_in_another_header_or_parameter_is_cut_out_of_messages() -> None:
    with ChatServer(lambda *_: failure(401, f"{KEY} is wrong")) as server:
        for changes in ({"extra_headers": {"api-key": "$MY_KEY"}}, {"extra_query": {"key": "$MY_KEY"}}):
            said = ask(server, **changes)
            assert "*** is wrong" in said and KEY not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_headers": {"api-key": KEY}}, "'api-key' holds a key; put it into an environment variable"),
        ({"extra_headers": {"Authorization": f"Bearer {KEY}"}}, "'Authorization' holds a key"),
        ({"extra_query": {"subscription-key": KEY}}, "'subscription-key' holds a key"),
        ({"extra_headers": {"api-key": "$NO_SUCH_VARIABLE"}}, "needs the environment variable NO_SUCH_VARIABLE"),
        ({"extra_headers": {"X-Title": "5 $"}}, r"write \$NAME for a variable"),
        ({"extra_headers": {"X-Title": "a\r\nb"}}, "printable ASCII"),
        ({"extra_headers": {"X Titel": "é"}}, "printable ASCII"),
        ({"extra_body": {"max_tokens": 5}}, "leave out 'max_tokens': set chat.max_tokens"),
        ({"extra_body": {"n": 2}}, "leave out 'n': each request asks for one answer"),
        ({"base_url": f"key:{KEY}"}, "chat.base_url: expected http"),
        ({"base_url": KEY}, "chat.base_url: expected http"),
        ({"base_url": f"http://me:{KEY}@h/v1"}, "leave user name, password and query out"),
        ({"base_url": f"me:{KEY}@h/v1"}, "leave user name, password and query out"),
        ({"base_url": f"http://h/v1?key={KEY}"}, "leave user name, password and query out"),
        ({"base_url": f"http://h/v1#{KEY}"}, "leave user name, password and query out"),
        ({"base_url": "http://h:port/v1"}, "chat.base_url = 'http://h:port/v1': expected"),
    ],
)
def test_what_cannot_be_sent_or_must_not_be_stored_is_one_line_without_the_key(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_endpoint(ChatConfig(**{"base_url": "http://h/v1", "model": "m", **changes}), "m")
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "verb", ["build --sampler chat", "generate --backend server", "evaluate --generate.backend server"]
)
@pytest.mark.parametrize("switch", ["--print-config", "--dry-run"])
@pytest.mark.parametrize("url", [f"http://me:{KEY}@h/v1", f"http://h/v1?key={KEY}", f"h/{KEY}@"])
def test_no_verb_prints_a_key_of_a_url(
    verb: str, switch: str, url: str, capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prefix = "generate." if verb.startswith("evaluate") else ""
    assert main([*verb.split(), f"--{prefix}chat.model", "m", f"--{prefix}chat.base_url", url, switch]) == 2
    printed = capsys.readouterr()
    assert "chat.base_url: leave user name, password and query out" in printed.err
    assert KEY not in printed.out + printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_path_that_looks_like_a_key_is_not_shown() -> None:
    secret = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
    assert (
        shown_url(f"https://gateway.example/v1/{secret}/azure/openai") == "https://gateway.example/v1/***/azure/openai"
    )
    for url in ("http://127.0.0.1:8000/v1", "https://h/openai/deployments/gpt-4o-mini-2024-07-18"):
        assert shown_url(url) == url


def test_the_key_of_a_server_that_wants_none_is_not_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "x")
    access = Access.of(ChatConfig(base_url="http://h/v1", api_key_variable="OTHER"))
    assert (access.key, access.secrets) == ("x", ())  # too short to be a key
