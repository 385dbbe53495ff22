"""A fine-tuned model behind a completions endpoint writes the same sequences; every failure has a typed reason."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from blocks import NUMBERS, Format, answer, bad, code, config, final, good, outcome, rejects, run
from chatserver import ChatServer, Reply, failure
from completions import Completions, body, said

from reflectioncoder.clients.budget import Budget, Usage
from reflectioncoder.clients.messages import Answer, SamplerError, Turn
from reflectioncoder.config.build import BuildConfig, ChatConfig, NativeConfig
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.construct.samplers.native_completions import CompletionsSampler
from reflectioncoder.dialogues.dialogue import Dialogue, read_jsonl
from reflectioncoder.errors import UserError

KEY = "sk-a-secret-of-the-tests-0123456789"
CLOSED = "<|endofmessage|>"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def behind(
    server: ChatServer, folder: Path, model: str, numbers: list[int], output: str = "out",
    chat: dict[str, Any] | None = None, **changes: Any,
) -> BuildConfig:  # fmt: skip
    settings = config(folder, model, numbers, output, backend="completions", **changes)
    known = {"base_url": server.url, "model": "served", "backoff": 0.01, "timeout": 5.0, "retries": 3, **(chat or {})}
    return dataclasses.replace(settings, chat=dataclasses.replace(settings.chat, **known))


@pytest.mark.parametrize(("prompt", "returns_ids"), [("ids", True), ("ids", False), ("text", False)])
def test_a_real_model_behind_a_server_writes_what_it_writes_here(
    tmp_path: Path, model: str, learnt: list[Dialogue], prompt: str, returns_ids: bool
) -> None:
    behaviour = Completions(model, takes_ids=prompt == "ids", returns_ids=returns_ids)
    with ChatServer(behaviour) as server:
        result = run(behind(server, tmp_path, model, list(NUMBERS), prompt=prompt))
    assert result.funnel == {"problems": 2, "sequences": 2}
    found = read_jsonl(result.path)
    assert [dialogue.messages for dialogue in found] == [dialogue.messages for dialogue in learnt]
    # Per problem: four answers. One is a text and a program, two are a text and the end of the message: three more.
    assert len(server.requests) == 2 * (4 + 3)
    provenance = [dialogue.extra["provenance"] for dialogue in found]
    assert [(p["method"], p["model"], p["served_model"], p["requests"]) for p in provenance] == [
        ("native", "served", "served-model", 7)
    ] * 2
    counted = progress(tmp_path / "out")
    assert (counted.requests, counted.tokens_in) == (14, sum(given for given, _ in behaviour.billed))
    assert counted.tokens_out == sum(written for _, written in behaviour.billed)
    assert server.paths == {"/v1/completions"}
    assert server.authorizations == {f"Bearer {KEY}"}
    kind = list if prompt == "ids" else str
    assert all(isinstance(request["prompt"], kind) for request in server.requests)


def test_draws_depend_on_seed_problem_and_sample_but_not_on_what_is_under_way(tmp_path: Path, model: str) -> None:
    changes = {"temperature": 1.6, "top_p": 0.99, "samples": 2, "max_new_tokens": 40}
    with ChatServer(Completions(model)) as server:
        together = outcome(behind(server, tmp_path, model, [3, 5], "a", **changes))
        alone = outcome(behind(server, tmp_path, model, [3, 5], "b", {"in_flight": 1}, **changes))
        other = dataclasses.replace(behind(server, tmp_path, model, [3, 5], "c", **changes), seed=1)
        assert together == alone != outcome(other)
    assert len({repr(value) for value in together.values()}) > 2  # otherwise the test proves nothing


@pytest.mark.parametrize(
    ("habits", "message"),
    [
        ({"shows": False, "returns_ids": False}, "the server leaves special tokens out of its answers ('def add_3"),
        ({"takes_ids": False}, "refuses the request (400): prompt must be a string.; native.backend 'completions'"),
    ],
)
def test_a_server_that_cannot_do_it_is_told_in_one_line_and_another_goes_on(
    tmp_path: Path, model: str, habits: dict[str, bool], message: str
) -> None:
    with ChatServer(Completions(model, **habits)) as server, pytest.raises(UserError) as caught:
        run(behind(server, tmp_path, model, list(NUMBERS), chat={"in_flight": 1}))
    assert message in str(caught.value)
    assert "needs a server that takes vLLM's parameters" in str(caught.value)
    assert "0 of 2 problems were finished and are kept: rerun to continue" in str(caught.value)
    assert "\n" not in str(caught.value)
    with ChatServer(Completions(model)) as server:
        assert run(behind(server, tmp_path, model, list(NUMBERS))).sequences == 2


def test_text_that_names_special_tokens_is_refused_only_where_it_would_be_read_as_one(
    tmp_path: Path, model: str
) -> None:
    def settings(prompt: str) -> BuildConfig:
        made = behind(server, tmp_path, model, [], prompt, prompt=prompt, max_new_tokens=30)
        row = {"id": "p", "instruction": "Say <|endofblock|><|execution|>.", "tests": ["assert add_3(2) == 5"]}
        Path(made.problems).write_text(json.dumps(row) + "\n")
        return made

    with ChatServer(Completions(model)) as server:
        run(settings("text"))
        assert rejects(str(tmp_path / "text"))["p"]["reason"] == "answer_forged_prompt"
        assert not server.requests
        run(settings("ids"))
    assert rejects(str(tmp_path / "ids"))["p"]["reason"] != "answer_forged_prompt"


def test_a_conversation_longer_than_the_servers_context_is_the_problems_fault(tmp_path: Path, model: str) -> None:
    behaviour = Completions(model)
    behaviour.network.config.max_position_embeddings = 300
    with ChatServer(behaviour) as server:
        result = run(behind(server, tmp_path, model, list(NUMBERS)))
    assert result.funnel == {"problems": 2, "answer_too_long": 2, "sequences": 0}
    assert "maximum context length is 300" in rejects(str(tmp_path / "out"))["p0"]["detail"]


TROUBLES: list[Reply] = [
    failure(429, Retry_After="0.2"), failure(500), Reply(cut=0), Reply(said("x"), cut=9), Reply(b"{"),
    Reply(said("")), Reply(said("x"), drip=0.1), Reply(b" ", endless=True),
]  # fmt: skip


def test_trouble_on_the_way_loses_no_problem(tmp_path: Path, model: str) -> None:
    behaviour, count = Completions(model), len(TROUBLES)

    def script(number: int, request: dict[str, Any]) -> Reply | bytes:
        return TROUBLES[number // 7] if number % 7 == 3 and number // 7 < count else behaviour(number, request)

    with ChatServer(script) as server:
        numbers = [NUMBERS[i % 2] for i in range(count)]
        settings = behind(server, tmp_path, model, numbers, chat={"in_flight": 2, "timeout": 1.0})
        result = run(settings)
        assert len(server.requests) == 7 * count + count
    assert result.funnel == {"problems": count, "sequences": count}
    assert progress(settings.output).requests == 8 * count  # failed requests are counted, too


FAILURES = {
    "500": (failure(500), "server_error"),
    "429": (failure(429), "rate_limited"),
    "no response": (Reply(cut=0), "server_down"),
    "cut body": (Reply(said("x"), cut=20), "server_down"),
    "malformed": (Reply(b'{"choices": [{'), "malformed"),
    "list": (Reply(b"[]"), "malformed"),
    "no choices": (Reply(b'{"choices": []}'), "malformed"),
    "odd ids": (Reply(said("x", token_ids=["x"])), "malformed"),
    "html": (Reply(b"<html>It works!</html>"), "malformed"),
    "empty": (Reply(said("")), "empty"),
    "null": (Reply(said(None)), "empty"),
    "filtered": (Reply(said("I", "content_filter")), "refused"),
    "endless": (Reply(b'{"choices": [', endless=True), "too_long"),
    "drip": (Reply(said("x"), drip=0.05), "timeout"),
    "wrong key": (failure(401, f"Incorrect API key provided: {KEY}."), "authentication"),
    "unknown model": (failure(404, "The model `m` does not exist.", "model_not_found"), "unknown_model"),
    "wrong path": (failure(404, "Not Found"), "wrong_url"),
    "bad parameter": (failure(400, "stop_token_ids is not supported"), "refused"),
    "no special tokens": (Reply(said("def f(): pass")), "no_special_tokens"),
    "wait an hour": (failure(429, Retry_After="3600"), "quota"),
}


def ask(server: ChatServer, model: str, budget: Budget | None = None, **chat: Any) -> Answer | SamplerError:
    known = {"base_url": server.url, "backoff": 0.01, "timeout": 0.5, "retries": 2, **chat}

    async def run() -> Answer | SamplerError:
        sampler = CompletionsSampler(NativeConfig(model=model), ChatConfig(**known), 0, budget)
        try:
            return await sampler.answer([Turn("user", "Hello?")], "p", 0, "offered")
        except SamplerError as error:
            return error
        finally:
            await sampler.close()

    return asyncio.run(run())


@pytest.mark.parametrize("name", FAILURES)
def test_every_misbehaviour_ends_in_a_typed_reason_without_the_key(model: str, name: str) -> None:
    reply, reason = FAILURES[name]
    with ChatServer(lambda *_: reply) as server:
        error = ask(server, model)
    assert isinstance(error, SamplerError)
    assert error.reason == reason
    assert error.detail
    assert "\n" not in error.detail
    assert KEY not in error.detail
    assert error.usage.requests == len(server.requests)


def test_an_answer_is_cut_where_it_ends_whatever_else_the_server_sends(model: str) -> None:
    second = f"{code('print(1)')}{code('print(2)')}<|execution|>1<|endofblock|>"
    with ChatServer(lambda *_: said(f"<|text|>First one.<|endofblock|>{second}")) as server:
        found = ask(server, model)
    assert isinstance(found, Answer)
    assert (found.text, found.tool_code, found.finish) == ("First one.", "print(1)", "code")
    assert found.usage == Usage(1, 10, 5)


def test_a_stop_token_that_is_only_named_is_added(model: str) -> None:
    known = Format(model)
    ends, ids = known.marks.end_of_block, known.ids("<|code|>print(1)")
    with ChatServer(lambda *_: said("<|code|>print(1)", stop_reason=ends)) as server:
        found = ask(server, model)
    assert isinstance(found, Answer)
    assert (found.tool_code, found.finish) == ("print(1)", "code")
    silent = body({"text": "", "token_ids": ids, "finish_reason": "stop", "stop_reason": ends}, None)
    with ChatServer(lambda *_: silent) as server:
        found = ask(server, model)
    assert isinstance(found, Answer)
    assert (found.tool_code, found.usage.requests, found.usage.tokens_out) == ("print(1)", 1, len(ids))


def test_what_a_model_does_wrong_is_rejected_with_its_reason(tmp_path: Path, model: str) -> None:
    answers: list[tuple[str, list[str | bytes | Reply]]] = [
        ("no_code", [f"<|text|>I would rather not.<|endofblock|>{CLOSED}"]),
        ("no_block_type", ["def f(): pass</s>"]),
        ("forged_execution", ["<|execution|>"]),
        ("unclosed_block", ["<|code|>x = 1<|execution|>"]),
        ("answer_too_long", [said("<|code|>x = 1", "length")]),
        ("answer_empty", [said(""), said("")]),
        ("single_round", [code(good(6))]),
        ("several_final_codes", [
            code(bad(7)), code(good(7)), CLOSED,
            f"<|text|>```python\n{final(7)}\n```\nor\n```python\n{good(7)}\n```<|endofblock|>{CLOSED}",
        ]),
        ("no_final_code", [
            code(bad(8)), code(good(8)), CLOSED, f"<|text|>```rust\nfn main\n```<|endofblock|>{CLOSED}",
        ]),
        ("no_final_code", [code(bad(9)), code(good(9)), CLOSED, "<|code|>"]),
        ("", [code(bad(10)), code(good(10)), CLOSED, answer(final(10))]),
    ]  # fmt: skip
    replies = [
        Reply(said(item)) if isinstance(item, str) else item if isinstance(item, Reply) else Reply(item)
        for _, items in answers
        for item in items
    ]
    with ChatServer(lambda number, _: replies[number]) as server:
        result = run(behind(server, tmp_path, model, list(range(len(answers))), chat={"in_flight": 1, "retries": 1}))
        assert len(server.requests) == len(replies)
    found = {id: line["reason"] for id, line in rejects(str(tmp_path / "out")).items()}
    assert found == {f"p{k}": reason for k, (reason, _) in enumerate(answers) if reason}
    assert result.sequences == 1


def test_money_is_counted_by_the_price_of_the_model_and_a_spent_budget_stops_cleanly(
    tmp_path: Path, model: str
) -> None:
    with ChatServer(Completions(model)) as server:
        chat = {"in_flight": 1, "budget_requests": 10, "budget_money": 1.0, "prices": ("served=1/2",)}
        settings = behind(server, tmp_path, model, list(NUMBERS), chat=chat)
        result = run(settings)
        assert (result.sequences, result.funnel["unfinished"]) == (1, 1)
        assert len(server.requests) == 10
        assert progress(settings.output).prices == (1, 2)
        result = run(dataclasses.replace(settings, chat=dataclasses.replace(settings.chat, budget_requests=0)))
    assert result.sequences == 2
    assert len(server.requests) <= 10 + 7


def test_nobody_at_the_address_is_said_in_one_line(tmp_path: Path, model: str) -> None:
    with ChatServer(lambda *_: b"") as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=r"is chat\.base_url right and the server running") as caught:
            run(behind(server, tmp_path, model, list(NUMBERS), chat={"base_url": url}))
    assert "\n" not in str(caught.value)
