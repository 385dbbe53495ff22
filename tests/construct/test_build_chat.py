"""A build with a chat model, real HTTP and real programs can be killed at any moment, and no request is paid twice."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from blocks import bad, final, good
from chat_builds import KEY, config, model, place, recorded, rejects, run, write_problems
from chatserver import ChatServer, Reply, completion, failure
from processes import attended

from reflectioncoder.cli.main import main
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import to_toml
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.dialogues.dialogue import Block, Dialogue, read_jsonl
from reflectioncoder.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.mark.parametrize("protocol", ["fenced", "tools"])
def test_a_model_behind_http_writes_sequences(tmp_path: Path, protocol: str) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 5), tmp_path / "out"
    with ChatServer(lambda _, request: model(request)) as server:
        settings = config(output, problems, server.url, {"protocol": protocol, "prices": ("m=1/2",)})
        result, _ = run(settings)
        assert len(server.requests) == 15
        again, said = run(settings)
        assert "already finished" in said
        assert again.sequences == 5
        assert len(server.requests) == 15
    assert result.funnel == {"problems": 5, "sequences": 5}
    for k, dialogue in enumerate(read_jsonl(result.path)):
        blocks = dialogue.first_round
        assert [block.type for block in blocks] == ["text", "code", "execution", "text", "code", "execution"]
        assert blocks[1] == Block("code", bad(k))
        assert f"----> 4 assert add_{k}(1) == {k + 1}" in blocks[2].content  # the real interpreter's text
        assert blocks[3:] == (Block("text", f"It must add {k}."), Block("code", good(k)), Block("execution", ""))
        assert dialogue.messages[2].blocks[0].content == f"Write `add_{k}`."
        assert dialogue.final_answer == f"```python\n{final(k)}\n```"
        assert (dialogue.extra["id"], dialogue.extra["source"]) == (f"p{k}", "own")
        provenance = dialogue.extra["provenance"]
        assert provenance.pop("seconds") > 0
        assert provenance == {
            "method": "chat", "model": "m", "served_model": "served-model", "interpreter": "ipython 8.24.0",
            "protocol": protocol, "prompt_version": "2", "rounds": 2, "requests": 3, "tokens_in": 30,
            "tokens_out": 15, "seed": 0,
        }  # fmt: skip
    found = progress(output)
    assert (found.total, found.done, found.requests, found.tokens_in, found.tokens_out) == (5, 5, 15, 150, 75)
    assert found.prices == (1, 2)
    assert not found.running
    assert server.authorizations == {f"Bearer {KEY}"}


def test_recorded_answers_give_the_same_sequences(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", 3)
    with ChatServer(lambda _, request: model(request)) as server:
        asked, _ = run(config(tmp_path / "a", problems, server.url))
    answers = tmp_path / "answers.jsonl"
    with answers.open("w") as out:
        for k in range(3):
            for turn, code in enumerate((bad(k), good(k), final(k))):
                said = ("I add nothing yet.", f"It must add {k}.", "")[turn]
                out.write(
                    json.dumps({"problem": f"p{k}", "turn": turn, "text": f"{said}\n```python\n{code}\n```"}) + "\n"
                )
    replayed, _ = run(config(tmp_path / "b", problems, "", {"replay": str(answers)}, sampler="replay"))
    first, second = read_jsonl(asked.path), read_jsonl(replayed.path)
    assert [dialogue.messages for dialogue in first] == [dialogue.messages for dialogue in second]
    assert second[0].extra["provenance"]["method"] == "replay"


TROUBLES: list[Reply] = [
    failure(429, Retry_After="0.2"), failure(500), failure(503), Reply(cut=0), Reply(completion("Hi."), cut=9),
    Reply(b"{"), Reply(completion("")), Reply(completion("Hi"), drip=0.1), Reply(b" ", endless=True),
]  # fmt: skip


def test_trouble_on_the_way_loses_no_problem(tmp_path: Path) -> None:
    problems, output, count = write_problems(tmp_path / "own.jsonl", len(TROUBLES)), tmp_path / "out", len(TROUBLES)
    met: Counter[tuple[int, int]] = Counter()

    def script(_: int, request: dict[str, Any]) -> Reply | bytes:
        k, turn = place(request)
        met[k, turn] += 1
        return TROUBLES[k] if turn == k % 3 and met[k, turn] == 1 else model(request)

    with ChatServer(script) as server:
        result, _ = run(config(output, problems, server.url, {"timeout": 1.0}))
        assert len(server.requests) == 4 * count
    assert result.funnel == {"problems": count, "sequences": count}
    assert progress(output).requests == 4 * count  # failed requests are counted, too


def test_what_a_model_does_wrong_is_rejected_with_its_reason(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def fenced(code: str, language: str = "python") -> str:
        return f"```{language}\n{code}\n```"

    answers: list[tuple[str, list[str | bytes | Reply]]] = [
        ("no_code", ["I would rather not.", "No."]),
        ("no_code", [fenced("fn main", "rust"), fenced("x", "text")]),
        ("answer_empty", [""]),
        ("answer_too_long", [completion("def", "length")]),
        ("answer_too_long", [Reply(b" ", endless=True)]),
        ("single_round", [fenced(good(5))]),
        ("unresolved", [fenced(bad(6))] * 8),
        ("input_output", [fenced(f"open('x')\n{bad(7)}")]),
        ("several_final_codes", [fenced(bad(8)), fenced(good(8)), f"{fenced(final(8))}\nor\n{fenced(good(8))}"]),
        ("no_final_code", [fenced(bad(9)), fenced(good(9)), "As above."]),
        ("final_code_fails", [fenced(bad(10)), fenced(good(10)), fenced("def add_10(x):\n    return x + 9")]),
        # Passes its own asserts but not the problem's tests.
        ("final_code_fails", [
            fenced(bad(11)), fenced(good(11)), fenced("def add_11(x):\n    return 12"),
        ]),
        ("mentions_sequence", [
            fenced(bad(12)), fenced(good(12)),
            fenced("def add_12(x):\n    # fixed the bug of the first version\n    return x + 12"),
        ]),
        ("idle_asserts", [fenced(bad(13)), fenced("def add_13(x):\n    return x + 13\n\nassert True")]),
        ("unresolved", [fenced("while True:\n    pass")] * 8),
        ("non_deterministic", [
            fenced(bad(15)), fenced(f"import random\nprint(random.random())\n{good(15)}"), fenced(final(15)),
        ]),
    ]  # fmt: skip
    count = len(answers)
    problems = write_problems(tmp_path / "own.jsonl", count + 1)

    def script(_: int, request: dict[str, Any]) -> Reply | str | bytes:
        k, turn = place(request)
        return answers[k][1][turn] if k < count else model(request)

    with ChatServer(script) as server:
        result, _ = run(config(output, problems, server.url, {"retries": 1}, seconds=0.3))
    expected = {f"p{k}": reason for k, (reason, _) in enumerate(answers)}
    assert rejects(output) == expected
    assert [dialogue.extra["id"] for dialogue in read_jsonl(result.path)] == [f"p{count}"]
    assert result.funnel["problems"] == result.sequences + len(expected)
    last = ["mentions_sequence", "final_code_fails", "non_deterministic", "sequences"]  # in the order of the steps
    assert list(result.funnel)[-4:] == last
    kept = {line["id"]: line["sequence"] for line in map(json.loads, (output / "rejects.jsonl").open())}
    assert Dialogue.from_dict(kept["p6"]).rounds == 8
    assert kept["p0"] is None


def start(path: Path, settings: BuildConfig) -> subprocess.Popen[str]:
    path.write_text(to_toml(settings))
    command = [sys.executable, "-m", "reflectioncoder", "build", "--config", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=attended)


def test_killed_at_any_moment_it_goes_on_and_asks_for_no_recorded_answer_again(tmp_path: Path) -> None:
    count, rng = 12, random.Random(0)
    problems, output = write_problems(tmp_path / "own.jsonl", count), tmp_path / "out"
    asked: list[tuple[int, int]] = []
    lock = threading.Lock()

    def script(_: int, request: dict[str, Any]) -> Reply:
        with lock:
            asked.append(place(request))
        return Reply(model(request), delay=rng.uniform(0.03, 0.1))

    said = ""
    memories: list[tuple[int, set[tuple[int, int]]]] = []
    with ChatServer(script) as server:
        settings = config(output, problems, server.url, {"in_flight": 3})
        for target, sign in ((3, signal.SIGKILL), (10, signal.SIGINT), (18, signal.SIGKILL)):
            process = start(tmp_path / "build.toml", settings)
            deadline = time.monotonic() + 60
            while sum(recorded(output).values()) < target:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            looked = progress(output)
            assert looked.running
            assert looked.total == count
            with pytest.raises(UserError, match=rf"another build \(process {process.pid}\) is using it"):
                run(settings)
            process.send_signal(sign)
            printed = process.communicate(timeout=30)
            said += "".join(printed)
            if sign == signal.SIGINT:
                assert process.returncode == 130
                assert len(printed[1].splitlines()) == 1
            time.sleep(0.3)  # time for requests still in flight
            assert not progress(output).running
            kept = recorded(output)
            assert sum(kept.values()) < 3 * count
            with lock:
                memories.append(
                    (len(asked), {(int(id[1:]), turn) for id, turns in kept.items() for turn in range(turns)})
                )
        last = start(tmp_path / "build.toml", settings)
        said += "".join(last.communicate(timeout=60))
        assert last.returncode == 0
    for number, remembered in memories:  # no answer recorded by then was requested later
        assert remembered
        assert not remembered & set(asked[number:])
    assert recorded(output) == Counter({f"p{k}": 3 for k in range(count)})
    funnel = json.loads((output / "funnel.json").read_text())
    assert funnel == {"problems": count, "sequences": count}
    sequences = read_jsonl(output / "sequences.jsonl")
    assert [dialogue.extra["id"] for dialogue in sequences] == [f"p{k}" for k in range(count)]
    assert all(dialogue.rounds == 2 for dialogue in sequences)
    # The key is in no file and no output.
    assert server.authorizations == {f"Bearer {KEY}"}
    assert KEY not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 8
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_spent_budget_stops_cleanly_and_a_larger_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 6), tmp_path / "out"
    with ChatServer(lambda _, request: model(request)) as server:

        def verb(**chat: Any) -> list[str]:
            path = tmp_path / "c.toml"
            path.write_text(to_toml(config(output, problems, server.url, {"in_flight": 2, **chat})))
            return ["build", "--config", str(path)]

        assert main(verb(budget_requests=10)) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "stopped: the budget of 10 requests is spent; " in said
        assert len(server.requests) == 10
        done = len((output / "sequences.jsonl").read_text().splitlines())
        assert 2 <= done <= 3
        funnel = json.loads((output / "funnel.json").read_text())
        assert funnel == {"problems": 6, "unfinished": 6 - done, "sequences": done}
        assert main(["build", "status", str(output)]) == 0
        status = capsys.readouterr().out
        assert re.search(r"state +stopped\n", status)
        assert re.search(rf"problems finished +{done} of 6", status)
        assert re.search(r"conversations open +[12]\n", status)
        assert re.search(r"spent +10 requests, 100 tokens in, 50 out\n", status)
        assert main(verb(budget_requests=10)) == 0  # the budget is still spent
        assert len(server.requests) == 10
        assert main(verb(budget_tokens=150 + 1)) == 0  # spent, too: tokens of earlier runs count
        assert len(server.requests) == 10
        assert main(verb(budget_money=5.0, prices=("m=1/2",))) == 0
        assert len(server.requests) == 18
    assert len(read_jsonl(output / "sequences.jsonl")) == 6
    capsys.readouterr()
    assert main(["build", "status", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["funnel"] == {"problems": 6, "sequences": 6}


def test_a_server_that_dies_half_way_leaves_what_is_finished(tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 6), tmp_path / "out"
    alive = {"until": 10}

    def script(number: int, request: dict[str, Any]) -> Reply | bytes:
        return model(request) if number < alive["until"] else Reply(cut=0)

    with ChatServer(script) as server:
        settings = config(output, problems, server.url, {"in_flight": 1, "retries": 1})
        with pytest.raises(UserError, match=r"3 of 6 problems were finished and are kept: rerun to continue") as caught:
            run(settings)
        assert "\n" not in str(caught.value)
        assert progress(output).done == 3
        alive["until"] = 10**9
        before = len(server.requests)
        result, _ = run(settings)
        assert len(server.requests) - before == 18 - 10
    assert result.sequences == 6


def test_a_problem_that_the_server_never_answers_stays_open(tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 4), tmp_path / "out"
    with ChatServer(lambda _, request: failure(500) if place(request)[0] == 1 else model(request)) as server:
        settings = config(output, problems, server.url, {"retries": 1})
        with pytest.raises(UserError, match=r"1 of 4 problems have no answer, first p1 \(server_error: .*rerun"):
            run(settings)
    found = progress(output)
    assert (found.done, found.rejected, found.open) == (3, {}, 1)
    assert found.requests == 9 + 4  # two attempts with two requests each
    with ChatServer(lambda _, request: model(request)) as server:  # the server may move
        result, _ = run(config(output, problems, server.url))
        assert len(server.requests) == 3
    assert result.sequences == 4


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (failure(401, f"Incorrect API key provided: {KEY}"), r"key in OPENAI_API_KEY was not accepted \(401\)"),
        (failure(404, "The model `m` does not exist", "model_not_found"), "does not know model 'm'"),
        (failure(404, "Not Found"), r"no chat completions there \(404\)"),
        (failure(400, "top_k is unknown"), "top_k is unknown"),
        (failure(429, Retry_After="7200"), "asks to wait 7200 s; start again later"),
        (None, r"is chat\.base_url right and the server running"),
    ],
)
def test_what_cannot_work_says_so_in_one_line(tmp_path: Path, reply: Reply | None, message: str) -> None:
    problems = write_problems(tmp_path / "own.jsonl", 4)
    with ChatServer(lambda *_: reply or b"") as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # no server listens on this port
        url = server.url if reply else f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=message) as caught:
            run(config(tmp_path / "out", problems, url))
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert "0 of 4 problems were finished" in str(caught.value)


def test_another_configuration_is_refused_by_the_settings_that_differ(tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "own.jsonl", 1), tmp_path / "out"
    with ChatServer(lambda _, request: model(request)) as server:
        run(config(output, problems, server.url))
        run(config(output, problems, server.url, {"in_flight": 3, "timeout": 9.0, "budget_tokens": 5}))  # may change
        for chat, message in (
            ({"model": "other"}, "chat.model was \"m\", is \"other\""),
            ({"temperature": 1.0, "protocol": "tools"}, 'chat.protocol was "fenced", is "tools", chat.temperature was'),
        ):  # fmt: skip
            with pytest.raises(UserError) as caught:
                run(config(output, problems, server.url, chat))
            assert message in str(caught.value)
        prompts = tmp_path / "prompts.toml"
        prompts.write_text('version = "mine"\nreanswer = "Now: {problem}"')
        with pytest.raises(UserError, match='prompt_version was "2", is "mine"'):
            run(config(output, problems, server.url, {"prompts": str(prompts)}))
        with pytest.raises(UserError, match="sampler was"):
            run(config(output, problems, server.url, sampler="mutation"))
        assert len(server.requests) == 3
    assert len(read_jsonl(output / "sequences.jsonl")) == 1


def test_rows_without_fields_and_repeated_ids_get_a_line_each(tmp_path: Path) -> None:
    path, output = tmp_path / "own.jsonl", tmp_path / "out"
    write_problems(path, 2)
    with path.open("a") as out:
        out.write(json.dumps({"id": "p0", "instruction": "Write `add_2`."}) + "\n" + json.dumps({"id": "p3"}) + "\n")
    with ChatServer(lambda _, request: model(request)) as server:
        result, said = run(config(output, str(path), server.url))
    assert "own.jsonl, line 4: no column 'instruction'" in said
    assert "line 3: id 'p0' is that of file" in said
    assert "line 1 too; kept as 'p0#2'" in said
    assert result.funnel == {"skipped_rows": 1, "problems": 3, "sequences": 3}


def test_status_of_no_build_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "status", str(tmp_path)]) == 2
    assert "no such file; give the output directory of a build" in capsys.readouterr().err
    assert main(["build", "status"]) == 2
    (tmp_path / "ledger.sqlite").write_text("no database " * 100)
    assert main(["build", "status", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
