"""However an endpoint misbehaves, a request ends with an answer or a typed reason, and no budget is exceeded."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from chatserver import ChatServer, Reply, completion, failure
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.clients.budget import Budget, BudgetError, Price, Usage, price_of
from reflectioncoder.clients.chat import ChatSampler
from reflectioncoder.clients.messages import FATAL, OF_THE_PROBLEM, Answer, Reason, SamplerError, Turn
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.construct.samplers.replay import ReplaySampler
from reflectioncoder.errors import UserError

KEY = "sk-a-secret-of-the-tests-0123456789"
HELLO = (Turn("system", "Be brief."), Turn("user", "Hello?"))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask(
    script: Callable[[int, dict[str, Any]], Reply | bytes | str], *, budget: Budget | None = None, **changes: Any
) -> tuple[Answer | SamplerError, ChatServer]:
    """Ask a scripted server one question; return the answer or the typed error, and the server with its requests."""
    with ChatServer(script) as server:
        config = ChatConfig(**{"base_url": server.url, "model": "m", "backoff": 0.01, "timeout": 5.0, **changes})

        async def run() -> Answer | SamplerError:
            sampler = ChatSampler(config, budget, "Runs code.")
            try:
                return await sampler.answer(HELLO, "p", 0, "offered" if config.protocol == "tools" else "off")
            except SamplerError as error:
                return error
            finally:
                await sampler.close()

        return asyncio.run(run()), server


def test_an_answer_comes_with_its_usage_and_the_servers_name() -> None:
    answer, server = ask(lambda number, request: "Hi.", temperature=0.5, top_p=0.9)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish, answer.usage, answer.model) == ("Hi.", "stop", Usage(1, 10, 5), "served-model")
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
            "max_tokens": 2048,
            "temperature": 0.5,
            "top_p": 0.9,
        }
    ]
    assert server.authorizations == {f"Bearer {KEY}"}
    assert server.paths == {"/v1/chat/completions"}


def test_a_model_without_a_system_role_is_told_all_as_the_user() -> None:
    _, server = ask(lambda *_: "Hi.", system_prompt="merged")
    assert server.requests[0]["messages"] == [{"role": "user", "content": "Be brief.\n\nHello?"}]


def test_a_tool_call_is_code_and_is_written_back_as_the_protocol_wants() -> None:
    answer, server = ask(lambda *_: completion(None, "tool_calls", "print(1)"), protocol="tools", temperature=-1.0)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.tool_code, answer.tool_id, answer.finish) == ("", "print(1)", "call_1", "tool_calls")
    request = server.requests[0]
    assert request["tools"][0]["function"]["name"] == "python"
    assert request["tool_choice"] == "auto"
    assert "temperature" not in request
    with ChatServer(lambda *_: "done") as server:
        sampler = ChatSampler(ChatConfig(base_url=server.url, model="m"))
        turns = (Turn("assistant", "", "call_1", "print(1)"), Turn("tool", "1", "call_1"))

        async def run() -> None:
            await sampler.answer(turns, "p", 1, "closed")
            await sampler.close()

        asyncio.run(run())
    assert server.requests[0]["messages"] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "python", "arguments": json.dumps({"code": "print(1)"})},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    assert server.requests[0]["tool_choice"] == "none"


FAILURES = {
    "500": (failure(500), "server_error"),
    "429": (failure(429), "rate_limited"),
    "no response": (Reply(cut=0), "server_down"),  # the server has not answered any request so far
    "cut headers": (Reply(completion("Hi."), cut=0), "server_down"),
    "cut body": (Reply(completion("Hi."), cut=20), "server_down"),
    "malformed": (Reply(b'{"choices": [{'), "malformed"),
    "not a completion": (Reply(b'{"object": "list"}'), "malformed"),
    "list": (Reply(b"[]"), "malformed"),
    "no choices": (Reply(b'{"choices": []}'), "malformed"),
    "html": (Reply(b"<html>It works!</html>"), "malformed"),
    "tool call without code": (Reply(completion("", code="x").replace(b'\\"code\\": \\"x\\"', b"")), "malformed"),
    "deep": (Reply(b"[" * 100_000), "malformed"),
    "empty": (Reply(completion("")), "empty"),
    "null": (Reply(completion(None)), "empty"),
    "blank": (Reply(completion(" \n")), "empty"),
    "filtered": (Reply(completion("I", "content_filter")), "refused"),
    "endless": (Reply(b'{"choices": [', endless=True), "too_long"),
    "drip": (Reply(completion("Hi."), drip=0.05), "timeout"),
    "late": (Reply(completion("Hi."), delay=2.0), "timeout"),
    "wrong key": (failure(401, f"Incorrect API key provided: {KEY}."), "authentication"),
    "unknown model": (failure(404, "The model `m` does not exist.", "model_not_found"), "unknown_model"),
    "wrong path": (failure(404, "Not Found"), "wrong_url"),
    "bad parameter": (failure(400, "temperature is not supported"), "refused"),
    "no money": (failure(429, "You exceeded your quota.", "insufficient_quota"), "quota"),
    "wait an hour": (failure(429, Retry_After="3600"), "quota"),
}


def patience(reason: str) -> float:
    """Return seconds to wait for an answer; where none is late, enough for a busy machine."""
    return 0.5 if reason == "timeout" else 20.0


@pytest.mark.parametrize("name", FAILURES)
def test_every_misbehaviour_ends_in_a_typed_reason_without_the_key(name: str) -> None:
    reply, reason = FAILURES[name]
    error, server = ask(lambda *_: reply, retries=2, timeout=patience(reason))
    assert isinstance(error, SamplerError)
    assert error.reason == reason
    assert error.detail
    assert "\n" not in error.detail
    assert KEY not in error.detail
    assert error.usage.requests == len(server.requests)
    once = reason == "refused" or (error.fatal and reason != "server_down")
    assert len(server.requests) == (1 if once else 2 if error.fatal else 3)
    if reason == "empty":
        assert error.usage == Usage(3, 30, 15)  # empty answers are billed, too


@pytest.mark.parametrize("name", [name for name, (_, reason) in FAILURES.items() if reason not in FATAL | {"refused"}])
def test_every_passing_trouble_is_survived(name: str) -> None:
    reply, reason = FAILURES[name]
    answer, server = ask(lambda number, _: reply if number == 0 else "Hi.", timeout=patience(reason))
    assert isinstance(answer, Answer)
    assert answer.text == "Hi."
    assert answer.usage.requests == len(server.requests) == 2


def test_reasons_are_of_three_kinds() -> None:
    transient = set(get_args(Reason)) - FATAL - OF_THE_PROBLEM
    assert transient == {"rate_limited", "server_error", "connection", "timeout", "malformed", "stopped"}
    assert not FATAL & OF_THE_PROBLEM


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_retry_after_holds_back_every_request(form: str) -> None:
    def script(number: int, _: dict[str, Any]) -> Reply | str:
        if number:
            return "Hi."
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        value = {"seconds": {"Retry_After": "1"}, "milliseconds": {"Retry_After_Ms": "1000"}}
        return failure(429, **value.get(form, {"Retry_After": date}))

    with ChatServer(script) as server:
        sampler = ChatSampler(ChatConfig(base_url=server.url, model="m", backoff=0.01))

        async def run() -> list[Answer]:
            first = asyncio.create_task(sampler.answer(HELLO, "a", 0))
            await asyncio.sleep(0.3)
            second = asyncio.create_task(sampler.answer(HELLO, "b", 0))  # must wait as well
            answers = [await first, await second]
            await sampler.close()
            return answers

        first, second = asyncio.run(run())
    assert first.usage.requests == 2
    assert second.usage.requests == 1
    assert min(server.arrivals[1:]) - server.arrivals[0] >= 0.95


def test_a_server_that_asks_again_and_again_to_wait_is_obeyed() -> None:
    answer, server = ask(lambda n, _: failure(429, Retry_After="0.02") if n < 9 else "Hi.", retries=1)
    assert isinstance(answer, Answer)
    assert answer.usage.requests == len(server.requests) == 10


@pytest.mark.slow
def test_connections_are_reused_and_hundreds_are_under_way_at_once() -> None:
    with ChatServer(lambda *_: Reply("Hi.", delay=0.2)) as server:
        sampler = ChatSampler(ChatConfig(base_url=server.url, model="m", in_flight=200, retries=0))

        async def run() -> None:
            for _ in range(2):
                await asyncio.gather(*(sampler.answer(HELLO, str(i), 0) for i in range(200)))
            await sampler.close()

        asyncio.run(run())
    assert len(server.requests) == 400
    assert server.most_at_once > 100
    assert server.connections <= 200


def test_nobody_at_the_address_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        error, _ = ask(lambda *_: "Hi.", base_url=url, backoff=0.05)
    assert isinstance(error, SamplerError)
    assert (error.reason, error.fatal) == ("server_down", True)
    assert url in error.detail
    assert "is chat.base_url right" in error.detail


def test_a_server_that_dies_is_noticed_after_a_few_requests() -> None:
    with ChatServer(lambda number, _: "Hi." if number < 2 else failure(503)) as server:
        sampler = ChatSampler(ChatConfig(base_url=server.url, model="m", backoff=0.001, retries=1))

        async def run() -> list[str]:
            reasons = []
            for _ in range(5):
                try:
                    reasons.append((await sampler.answer(HELLO, "p", 0)).text)
                except SamplerError as error:
                    reasons.append(error.reason)
            await sampler.close()
            return reasons

        assert asyncio.run(run()) == ["Hi.", "Hi.", "server_error", "server_error", "server_down"]


def test_stopping_ends_the_wait_for_a_retry() -> None:
    with ChatServer(lambda *_: failure(429, Retry_After="60")) as server:
        sampler = ChatSampler(ChatConfig(base_url=server.url, model="m"))

        async def run() -> str:
            task = asyncio.create_task(sampler.answer(HELLO, "p", 0))
            await asyncio.sleep(0.3)
            sampler.stop()
            try:
                await task
            except SamplerError as error:
                return error.reason
            finally:
                await sampler.close()
            return ""

        started = time.monotonic()
        assert asyncio.run(run()) == "stopped"
        assert time.monotonic() - started < 5


def test_the_budget_is_never_overdrawn_with_many_under_way() -> None:
    def run(budget: Budget) -> tuple[int, int]:
        with ChatServer(lambda *_: Reply(completion("Hi.", tokens=(20, 100)), delay=0.01)) as server:
            sampler = ChatSampler(ChatConfig(base_url=server.url, model="m", max_tokens=100), budget)

            async def worker(i: int) -> int:
                try:
                    await sampler.answer(HELLO, str(i), 0)
                except BudgetError:
                    return 0
                return 1

            async def all_of_them() -> int:
                answered = sum(await asyncio.gather(*(worker(i) for i in range(40))))
                await sampler.close()
                return answered

            return asyncio.run(all_of_them()), len(server.requests)

    assert run(Budget(requests=7)) == (7, 7)
    assert run(Budget(requests=7, spent=Usage(5))) == (2, 2)  # usage of earlier runs counts
    tokens = Budget(tokens=1500)
    answered, _ = run(tokens)
    assert 9 <= answered <= 12  # each request uses 120 tokens
    assert tokens.spent.tokens == 120 * answered <= 1500
    money = Budget(money=0.01, price=Price(10, 20))  # each request costs 0.0022
    answered, _ = run(money)
    assert 3 <= answered <= 4


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30), st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_whatever_the_requests_cost_the_budget_holds(costs: list[tuple[int, int]], tokens: int) -> None:
    async def run() -> None:
        budget = Budget(tokens=tokens)

        async def one(cost: tuple[int, int]) -> None:
            worst = Usage(1, 50, 50)
            try:
                await budget.reserve(worst)
            except BudgetError:
                assert budget.spent.tokens > tokens - 100  # refused only if one more request might exceed it
                return
            await asyncio.sleep(0)
            budget.settle(worst, Usage(1, *cost))

        await asyncio.gather(*map(one, costs))
        assert budget.spent.tokens <= tokens

    asyncio.run(asyncio.wait_for(run(), 5))


def test_prices_come_from_a_table() -> None:
    price = price_of("b=c", ["a=1/2", "b=c=0.15/0.60"])
    assert price == Price(0.15, 0.60)
    assert price.cost(Usage(9, 1_000_000, 500_000)) == pytest.approx(0.45)
    assert price_of("x", ["a=1/2"]) is None
    for wrong in ("a", "a=1", "a=1/2/3", "a=x/2", "a=-1/2", "a=nan/2"):
        with pytest.raises(UserError, match="is not MODEL=INPUT/OUTPUT"):
            price_of("a", [wrong])
    with pytest.raises(UserError, match=r"needs the model's price: set chat\.prices"):
        Budget(money=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "expected http://HOST"),
        ({"base_url": ""}, "expected http://HOST"),
        ({"base_url": "http://me:s3cret@host/v1"}, "comes from the environment variable OPENAI_API_KEY"),
        ({"model": ""}, "name the model"),
        ({"in_flight": 0}, "chat.in_flight = 0"),
        ({"timeout": -1.0}, "chat.timeout = -1"),
    ],
)
def test_bad_settings_give_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ChatSampler(ChatConfig(**{"base_url": "http://h/v1", "model": "m", **changes}))
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_key_is_needed_only_where_the_server_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    answer, _ = ask(lambda *_: "Hi.")
    assert isinstance(answer, Answer)
    error, _ = ask(lambda *_: failure(401))
    assert isinstance(error, SamplerError)
    assert "the key in OPENAI_API_KEY is not set" in error.detail


@pytest.mark.parametrize("key", [KEY, "values", "ollama", "secret"])
def test_a_key_is_cut_out_of_error_messages_and_never_out_of_answers(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    code = f"def f({key.replace('-', '_')}):\n    return '{key}'"
    answer, _ = ask(lambda *_: code)
    assert isinstance(answer, Answer)
    assert answer.text == code
    error, _ = ask(lambda *_: failure(401, f"Your key is {key}, isn't it?"))
    assert isinstance(error, SamplerError)
    assert "Your key is ***, isn't it?" in error.detail


def test_usage_is_estimated_where_the_server_is_silent() -> None:
    answer, _ = ask(lambda *_: completion("x" * 40, tokens=None))
    assert isinstance(answer, Answer)
    assert answer.usage == Usage(1, 4, 11)


def test_recorded_answers_are_replayed_by_problem_and_turn(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"problem": "a", "turn": 0, "text": "one", "tokens_in": 3, "tokens_out": 4}\n'
        '{"problem": "a", "turn": 1, "text": "", "tool_code": "1"}\n'
    )
    sampler = ReplaySampler(path)
    first = asyncio.run(sampler.answer(HELLO, "a", 0))
    assert first == Answer("one", usage=Usage(1, 3, 4), model="recorded")
    second = asyncio.run(sampler.answer(HELLO, "a", 1))
    assert (second.tool_code, second.finish) == ("1", "tool_calls")
    with pytest.raises(SamplerError, match="turn 2") as caught:
        asyncio.run(sampler.answer(HELLO, "a", 2))
    assert caught.value.of_the_problem
    for wrong in ('{"problem": "a", "turn": 0}', "[]", '{"problem": "a", "turn": 1, "text": "", "tool_code": 1}'):
        path.write_text(wrong)
        with pytest.raises(UserError, match=r"line 1: not a recorded answer"):
            ReplaySampler(path)
    with pytest.raises(UserError, match=r"chat\.replay: name the file"):
        ReplaySampler("")
    path.write_text('{"problem": "a", "turn": 0, "text": "x"}\n' * 2)
    with pytest.raises(UserError, match=r"line 2: problem 'a' has two answers for turn 0"):
        ReplaySampler(path)
