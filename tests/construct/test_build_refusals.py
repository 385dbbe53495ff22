"""A refused problem does not block a build, a server that refuses everything ends it early, and all is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blocks import final, good
from chat_builds import KEY, config, model, place, rejects, run, write_problems
from chatserver import ChatServer, Reply, completion, failure

from reflectioncoder.cli.main import main
from reflectioncoder.config.toml import to_toml
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.errors import IncompleteError

FLAGGED = Reply(
    json.dumps(
        {"error": {"code": 403, "message": "your input was flagged", "metadata": {"reasons": ["violence"]}}}
    ).encode(),
    403,
)
WRONG_KEY = failure(403, "This key may not use the model")
ODD_ERROR = Reply(b'{"error": {"message": "Provider returned error", "code": 502}}')


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.mark.parametrize("reply", [FLAGGED, failure(400, "I will not"), failure(422, "no"), completion("")])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_problem_that_the_server_refuses_is_rejected_and_the_others_are_exported(
    tmp_path: Path, reply: Reply | bytes, turn: int
) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 3), tmp_path / "out"
    with ChatServer(lambda _, request: reply if place(request) == (1, turn) else model(request)) as server:
        result, said = run(config(output, problems, server.url, {"retries": 0}))
        assert "trying again" not in said
    assert result.sequences == 2
    assert rejects(output) == {"p1": "answer_empty" if isinstance(reply, bytes) else "answer_refused"}


def test_one_problem_that_is_always_refused_is_rejected_when_it_is_the_last_one(tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 3), tmp_path / "out"
    with ChatServer(lambda _, request: failure(500) if place(request)[0] == 1 else model(request)) as server:
        settings = config(output, problems, server.url, {"retries": 0})
        with pytest.raises(IncompleteError, match=r"1 of 3 problems have no answer, first p1 .*what is finished is in"):
            run(settings)
    assert [dialogue.extra["id"] for dialogue in read_jsonl(output / "sequences.jsonl")] == ["p0", "p2"]
    assert json.loads((output / "funnel.json").read_text()) == {"problems": 3, "unfinished": 1, "sequences": 2}
    assert progress(output).funnel is None  # not finished
    with ChatServer(lambda *_: failure(400, "I will not")) as server:  # its first answer is a refusal
        result, _ = run(config(output, problems, server.url, {"retries": 0}))
    assert (result.sequences, rejects(output)) == (2, {"p1": "answer_refused"})


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 1])
def test_a_server_that_refuses_every_problem_alike_ends_the_build_early_with_its_own_words(
    tmp_path: Path, turn: int, capsys: pytest.CaptureFixture[str]
) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 20), tmp_path / "out"

    def script(_: int, request: dict[str, Any]) -> Reply | bytes:
        return failure(400, "Unexpected role 'tool' after role 'user'") if place(request)[1] == turn else model(request)

    with ChatServer(script) as server:
        settings = config(output, problems, server.url, {"in_flight": 2, "retries": 0})
        (tmp_path / "c.toml").write_text(to_toml(settings))
        assert main(["build", "--config", str(tmp_path / "c.toml")]) == 1
        assert len(server.requests) <= (5 + 1) * (turn + 1) + 2
    printed = capsys.readouterr().err
    assert "refuses the request (400): Unexpected role 'tool' after role 'user'; 0 of 20 problems" in printed
    assert printed.count("\n") == 1
    assert progress(output).rejected == {}
    with ChatServer(lambda _, request: model(request)) as server:  # another server answers them all
        result, _ = run(config(output, problems, server.url, {"in_flight": 20}))
        assert result.sequences == 20
        if turn:
            assert len(server.requests) < 3 * 20  # recorded answers are not requested again


@pytest.mark.slow
def test_few_problems_that_are_all_refused_are_not_rejected_either(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", 3)
    for name, reply, words in (
        ("a", failure(400, "max_tokens is not supported"), "max_tokens is not supported"),
        ("b", completion(""), "the model returned an empty answer"),
        ("c", failure(400, "This model's maximum context length is 128 tokens."), "leaves no room for a prompt"),
        ("d", FLAGGED, "your input was flagged"),
    ):
        with (
            ChatServer(lambda *_, reply=reply: reply) as server,
            pytest.raises(IncompleteError, match=rf"{words}.*0 of 3 problems"),
        ):
            run(config(tmp_path / name, problems, server.url, {"retries": 0}))
        assert progress(tmp_path / name).rejected == {}
        assert not (tmp_path / name / "sequences.jsonl").exists()


def test_a_key_that_is_refused_half_way_rejects_no_problem(tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 30), tmp_path / "out"
    with ChatServer(lambda number, request: model(request) if number < 9 else WRONG_KEY) as server:
        with pytest.raises(IncompleteError, match="This key may not use the model"):
            run(config(output, problems, server.url, {"in_flight": 3, "retries": 0}))
        assert len(server.requests) < 9 + 3 * 5 + 3
    assert progress(output).rejected == {}


def test_an_error_with_status_200_is_handled_by_its_kind(tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 4), tmp_path / "out"
    met: list[int] = []

    def script(_: int, request: dict[str, Any]) -> Reply | bytes:
        k, turn = place(request)
        met.append(k)
        if turn == 1 and k < 2 and met.count(k) == 2:
            return ODD_ERROR if k else completion("half an ans", "error")
        return completion("I", "abort") if k == 2 and turn == 1 else model(request)

    with ChatServer(script) as server:
        with pytest.raises(IncompleteError, match=r'first p2 .*finish_reason "abort".*chat\.endings'):
            run(config(output, problems, server.url, {"retries": 1}))
        assert len(server.requests) == 3 + 1 + 3 + 1 + (1 + 2 + 2) + 3
    sequences = read_jsonl(output / "sequences.jsonl")
    assert [dialogue.extra["id"] for dialogue in sequences] == ["p0", "p1", "p3"]
    assert not [block for dialogue in sequences for block in dialogue.first_round if "half an ans" in block.content]


def test_tools_that_real_servers_call_in_their_own_ways_give_the_same_sequences(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", 3)

    def script(_: int, request: dict[str, Any]) -> bytes:
        k, turn = place(request)
        body = json.loads(model(request))
        message, choice = body["choices"][0]["message"], body["choices"][0]
        for sent in request["messages"]:
            if sent["role"] == "assistant":
                assert sent["reasoning_content"] == f"Thoughts on {k}."
        message["reasoning_content"] = f"Thoughts on {k}."
        if turn == 2:  # the tool, although it is closed
            assert request["tool_choice"] == "none"
            arguments = json.dumps({"code": final(k)})
            message |= {
                "content": None,
                "tool_calls": [{"id": "z", "function": {"name": "python", "arguments": arguments}}],
            }
            return json.dumps(body).encode()
        call = message["tool_calls"][0]
        code = json.loads(call["function"]["arguments"])["code"]
        if k == 0:
            call["function"]["arguments"] = code
            message["content"] = [{"type": "text", "text": message["content"]}]
        elif k == 1:
            text = json.dumps({"name": "python", "arguments": {"code": code}})
            message["content"] += f"\n<tool_call>\n{text}\n</tool_call>"
            del message["tool_calls"]
            choice["finish_reason"] = "stop"
        else:
            call["function"]["arguments"] = {"source": code}
            message["tool_calls"].append({"id": "b", "function": {"name": "python", "arguments": '{"code": "2"}'}})
            results = [sent["tool_call_id"] for sent in request["messages"] if sent["role"] == "tool"]
            assert results == ["call_1", "b"] * turn
        return json.dumps(body).encode()

    with ChatServer(script) as server:
        odd, _ = run(config(tmp_path / "a", problems, server.url, {"protocol": "tools"}))
    with ChatServer(lambda _, request: model(request)) as server:
        plain, _ = run(config(tmp_path / "b", problems, server.url, {"protocol": "tools"}))
    assert odd.sequences == plain.sequences == 3
    first, second = read_jsonl(odd.path), read_jsonl(plain.path)
    assert [dialogue.messages for dialogue in first] == [dialogue.messages for dialogue in second]
    assert good(1) in first[1].first_round[4].content


def test_the_same_problems_at_another_path_go_on_and_a_lost_ledger_is_not_paid_for_again(tmp_path: Path) -> None:
    problems, output = Path(write_problems(tmp_path / "own.jsonl", 2)), tmp_path / "out"
    (tmp_path / "moved").mkdir()
    with ChatServer(lambda _, request: model(request)) as server:
        run(config(output, str(problems), server.url))
        problems = problems.rename(tmp_path / "moved" / "own.jsonl")
        _, said = run(config(output, str(problems), server.url))
        assert "already finished" in said
        for lose in (lambda path: path.write_bytes(b""), lambda path: path.unlink()):
            lose(output / "ledger.sqlite")
            with pytest.raises(ValueError, match="restore a copy of the ledger"):
                run(config(output, str(problems), server.url))
        assert len(server.requests) == 6
    assert len(read_jsonl(output / "sequences.jsonl")) == 2
