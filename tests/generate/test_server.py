"""Completions from a model behind a server: the requests, the stored answers, and that no request is repeated."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chatserver import ChatServer, Reply, completion, failure
from hypothesis import given
from hypothesis import strategies as st
from serving import Served
from tiny import build_llama, build_tokenizer

from reflectioncoder.cli.main import main
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.errors import IncompleteError, UserError
from reflectioncoder.evaluate.evaluate import evaluate
from reflectioncoder.generate.completions import code_of
from reflectioncoder.generate.generate import generate
from reflectioncoder.tasks.base import Prompt

KEY = "sk-a-secret-of-the-tests-0123456789"
COUNT = 6


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings(folder: Path, url: str, *, chat: dict[str, Any] | None = None, **changes: Any) -> GenerateConfig:
    """Settings for a task of six problems: `plus1(x)` is x + 1, and so on."""
    rows = (
        {"id": f"p{n}", "instruction": f"Write plus{n}(x), x plus {n}.", "tests": [f"assert plus{n}(5) == {5 + n}"]}
        for n in range(1, COUNT + 1)
    )
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known: dict[str, Any] = {"base_url": url, "model": "m", "retries": 1, "backoff": 0.01, "timeout": 20.0}
    config = GenerateConfig(
        task=str(folder / "task.jsonl"), output=str(folder / "c.jsonl"), backend="server", max_new_tokens=50,
        chat=ChatConfig(**{**known, "in_flight": 2, **(chat or {})}),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def number(request: dict[str, Any]) -> int:
    """Return the number of the problem that a request is about."""
    text = request["prompt"] if "prompt" in request else request["messages"][-1]["content"]
    return int(text.partition("plus")[2].partition("(")[0])


def solution(n: int) -> str:
    return f"def plus{n}(x):\n    return x + {n}\n"


def right(_: int, request: dict[str, Any]) -> str:
    n = number(request)
    return f"Sure! Here it is:\n```python\n{solution(n)}```\nThen `plus{n}(1)` is {n + 1}:\n```python\nplus{n}(0)\n```"


def text_completion(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(
        {"id": "x", "object": "text_completion", "model": "s", "choices": [choice], "usage": usage}
    ).encode()


def rows(config: GenerateConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.output).read_text().splitlines()]


def test_chat_asks_once_per_problem_and_keeps_what_was_said_and_its_code(tmp_path: Path) -> None:
    with ChatServer(right) as server:
        config = settings(tmp_path, server.url)
        made = generate(config)
        assert (made.new, made.tokens, generate(config).new) == (COUNT, 5 * COUNT, 0)
    assert server.paths == {"/v1/chat/completions"} and server.authorizations == {f"Bearer {KEY}"}
    assert server.most_at_once <= 2 and len(server.requests) == COUNT
    first = next(request for request in server.requests if number(request) == 1)
    assert first == {
        "model": "m", "messages": [{"role": "user", "content": "Write plus1(x), x plus 1."}],
        "max_tokens": 50, "temperature": 0.0,
    }  # fmt: skip
    said = {f"p{number(request)}": right(0, request) for request in server.requests}
    for n, row in enumerate(rows(config), 1):
        assert set(row) == {"task_id", "sample", "completion", "raw", "prompt", "finish"}
        assert (row["task_id"], row["completion"], row["raw"]) == (f"p{n}", solution(n), said[f"p{n}"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]


def test_plain_asks_the_completions_endpoint_with_the_prompt_and_its_stops(tmp_path: Path) -> None:
    def script(_: int, request: dict[str, Any]) -> bytes:  # a server that ignores stops
        n = number(request)
        return text_completion("" if n == 3 else f"{solution(n)}# said\n```\nprose", "stop" if n == 3 else "length")

    with ChatServer(script) as server:
        config = settings(tmp_path, server.url, prompt_style="plain")
        assert generate(config).new == COUNT
    assert server.paths == {"/v1/completions"} and len(server.requests) == COUNT  # an empty text is an answer, too
    assert {**server.requests[0], "prompt": ""} == {
        "model": "m", "prompt": "", "max_tokens": 50, "temperature": 0.0, "stop": ["\n```"]
    }  # fmt: skip
    assert {request["prompt"] for request in server.requests} == {
        f"Write plus{n}(x), x plus {n}.\n\n```python\n" for n in range(1, COUNT + 1)
    }
    assert {row["finish"] for row in rows(config)} == {"stop", "length"}
    assert not any(c.truncated for c in generate(config).completions)  # only prose was cut off
    wanted = ["" if n == 3 else f"{solution(n)}# said\n" for n in range(1, COUNT + 1)]
    assert [row["completion"] for row in rows(config)] == wanted
    assert rows(config)[0]["raw"] == f"{solution(1)}# said\n```\nprose"


def test_a_server_that_only_streams_gives_the_same_completions(tmp_path: Path) -> None:
    def script(_: int, request: dict[str, Any]) -> Reply:
        if not request.get("stream"):
            return failure(400, "only stream=true is supported")
        text = solution(number(request))
        pieces = [{"choices": [{"index": 0, "text": text[place : place + 7]}]} for place in range(0, len(text), 7)]
        pieces += [{"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}]
        pieces += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}]
        return Reply("".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces).encode())

    with ChatServer(script) as server:
        config = settings(tmp_path, server.url, prompt_style="plain", chat={"stream": True})
        made = generate(config)
        assert [c.completion for c in made.completions] == [solution(n) for n in range(1, COUNT + 1)]
        assert made.tokens == 3 * COUNT
        with pytest.raises(IncompleteError, match="only stream=true is supported"):
            generate(settings(tmp_path, server.url, prompt_style="plain", output=str(tmp_path / "d.jsonl")))


def test_at_most_four_stops_are_sent_and_all_of_them_cut(tmp_path: Path) -> None:
    def script(_: int, request: dict[str, Any]) -> bytes:
        return text_completion("    return 1\nassert True\n")

    with ChatServer(script) as server:
        known = settings(tmp_path, server.url, prompt_style="plain", limit=2)
        four = dataclasses.replace(known, task="humaneval", data="")
        generate(four)
        generate(dataclasses.replace(four, most_stops=9, output=str(tmp_path / "all.jsonl")))
    assert [len(request["stop"]) for request in server.requests] == [4, 4, 7, 7]
    assert {row["completion"] for row in rows(four)} == {"    return 1\n"}


def test_samples_are_requests_of_their_own_and_more_of_them_ask_only_for_more(tmp_path: Path) -> None:
    with ChatServer(lambda n, _: f"```python\nx = {n}\n```") as server:
        config = settings(tmp_path, server.url, samples=2, temperature=0.8, top_p=0.9)
        first = generate(config)
        assert len(server.requests) == 2 * COUNT
        assert {(r["temperature"], r["top_p"]) for r in server.requests} == {(0.8, 0.9)}
        more = generate(dataclasses.replace(config, samples=3))
        assert len(server.requests) == 3 * COUNT and more.new == COUNT
    assert [c for c in more.completions if c.sample < 2] == list(first.completions)
    assert [(row["task_id"], row["sample"]) for row in rows(config)] == [
        (f"p{n}", s) for n in range(1, COUNT + 1) for s in range(3)
    ]
    assert len({row["completion"] for row in rows(config)}) == 3 * COUNT


def test_a_fatal_error_keeps_what_is_finished_and_the_next_run_asks_for_the_rest(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Reply | str:
        return right(n, request) if n < 3 else failure(401, f"bad key {KEY}")

    with ChatServer(script) as server:
        config = settings(tmp_path, server.url, chat={"in_flight": 1})
        with pytest.raises(UserError, match=r"\(401\).*; 3 of 6 completions are in .*c.jsonl: start again") as caught:
            generate(config)
        assert len(server.requests) == 4
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)
    assert len(rows(config)) == 3
    with ChatServer(right) as server:  # at another address, with more requests in flight
        again = generate(settings(tmp_path, server.url, chat={"in_flight": 5}))
    assert sorted(map(number, server.requests)) == [4, 5, 6] and again.new == 3
    assert [row["completion"] for row in rows(config)] == [solution(n) for n in range(1, COUNT + 1)]


@pytest.mark.slow
def test_a_killed_run_needs_no_torch_and_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    held = True

    def script(n: int, request: dict[str, Any]) -> Reply | str:
        return Reply(b"", delay=60) if held and n >= 2 else right(n, request)

    block = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
        "from reflectioncoder.cli.main import main; "
    )
    with ChatServer(script) as server:
        config = settings(tmp_path, server.url, chat={"in_flight": 1})
        flags = ["generate", "--task", config.task, "--output", config.output, "--backend", "server"]
        flags += ["--max_new_tokens", "50", "--chat.base_url", server.url, "--chat.model", "m", "--chat.in_flight", "1"]
        command = [sys.executable, "-c", f"{block}sys.exit(main(sys.argv[1:]))", *flags]
        child = subprocess.Popen(command, env={**os.environ, "OPENAI_API_KEY": KEY})
        try:
            while len(server.requests) < 3:
                assert child.poll() is None
                time.sleep(0.02)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert [row["task_id"] for row in rows(config)] == ["p1", "p2"]  # on disk before the third request
        held = False
        assert subprocess.run(command, timeout=120).returncode == 0
        assert [number(request) for request in server.requests] == [1, 2, 3, 3, 4, 5, 6]
    assert [row["completion"] for row in rows(config)] == [solution(n) for n in range(1, COUNT + 1)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]


def test_a_problem_of_its_own_is_an_empty_completion_with_its_reason_and_not_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(n: int, request: dict[str, Any]) -> Reply | bytes | str:
        return {
            1: completion(None, "content_filter"),  # the server's first answer
            2: failure(400, "filtered", "content_filter"),
            4: failure(400, "This model's maximum context length is 10 tokens"),
            5: completion("   "),
        }.get(number(request)) or right(n, request)

    with ChatServer(script) as server:
        config = settings(tmp_path, server.url, chat={"in_flight": 1})
        made = generate(config)
        count = len(server.requests)
        assert count == COUNT + 1  # an empty answer is retried once
        assert generate(config).new == 0 and len(server.requests) == count
        errors = {c.task_id: c.error.partition(":")[0] for c in made.completions}
        assert errors == {"p1": "refused", "p2": "refused", "p3": "", "p4": "too_long", "p5": "empty", "p6": ""}
        flags = ["--task", config.task, "--output", config.output, "--backend", "server", "--max_new_tokens", "50"]
        assert main(["generate", *flags, "--chat.base_url", server.url, "--chat.model", "m"]) == 0
        assert (
            "4 completions are empty, as the server gave no answer; the first is 'p1' (refused"
            in capsys.readouterr().err
        )
        score = evaluate(EvaluateConfig(config, output=str(tmp_path / "e"), workers=1))
        assert len(server.requests) == count
    assert (score.pass_at_1, score.n) == (2 / 6, 6)
    verdicts = [json.loads(line) for line in (tmp_path / "e" / "results.jsonl").read_text().splitlines()]
    assert verdicts[3]["error"].startswith("too_long: ")


def test_a_refusal_is_the_problems_once_the_server_has_answered_another(tmp_path: Path) -> None:
    refusing = failure(400, "I will not")
    with ChatServer(lambda n, r: refusing if number(r) <= 2 else right(n, r)) as server:
        made = generate(settings(tmp_path, server.url, chat={"in_flight": 1}))
        assert len(server.requests) == COUNT
    assert [c.error.partition(":")[0] for c in made.completions] == ["refused", "refused", "", "", "", ""]
    lines = Path(made.path).read_text().splitlines(keepends=True)
    made.path.write_text("".join(lines[1:]))  # the first problem is asked again
    with ChatServer(lambda *_: refusing) as server:
        assert generate(settings(tmp_path, server.url)).completions[0].error.startswith("refused: ")


def test_a_server_that_refuses_all_from_the_first_is_told_from_a_bad_problem(tmp_path: Path) -> None:
    with ChatServer(lambda *_: failure(400, "unknown parameter")) as server:
        with pytest.raises(UserError, match=r"unknown parameter; 0 of 6 completions"):
            generate(settings(tmp_path, server.url, chat={"in_flight": 1}))
        assert len(server.requests) == 5
        with pytest.raises(UserError, match=r"unknown parameter; 0 of 1 completions"):
            generate(settings(tmp_path, server.url, limit=1))


def test_a_server_that_fails_leaves_the_problem_for_the_next_run(tmp_path: Path) -> None:
    with ChatServer(lambda n, r: failure(500, "oops") if number(r) == 2 else right(n, r)) as server:
        config = settings(tmp_path, server.url)
        with pytest.raises(UserError, match=r"no answer to problem 'p2' \(server_error: .*; 5 of 6 completions"):
            generate(config)
        assert [number(request) for request in server.requests].count(2) == 4  # two attempts, each with one retry
    with ChatServer(right) as server:
        assert generate(settings(tmp_path, server.url)).new == 1


def test_a_budget_holds_for_all_runs_together(tmp_path: Path) -> None:
    with ChatServer(right) as server:
        config = settings(tmp_path, server.url, chat={"budget_requests": 4})
        with pytest.raises(UserError, match=r"the budget of 4 requests is spent; 4 of 6 completions .*c.usage.json"):
            generate(config)
        with pytest.raises(UserError, match="the budget of 4 requests is spent; 4 of 6"):
            generate(config)
        assert len(server.requests) == 4
        generate(settings(tmp_path, server.url, chat={"budget_requests": 6}))
    assert len(server.requests) == 6
    assert json.loads((tmp_path / "c.usage.json").read_text()) == {"requests": 6, "tokens_in": 60, "tokens_out": 30}


def test_a_moved_task_goes_on_and_a_lost_output_is_not_paid_for_again(tmp_path: Path) -> None:
    with ChatServer(right) as server:
        config = settings(tmp_path, server.url)
        generate(config)
        (tmp_path / "moved").mkdir()
        moved = (tmp_path / "task.jsonl").rename(tmp_path / "moved" / "task.jsonl")
        config = dataclasses.replace(config, task=str(moved))
        assert generate(config).new == 0
        Path(config.output).unlink()
        with pytest.raises(
            UserError, match=r"c\.jsonl: is missing, but .*c\.usage\.json records paid answers: restore it"
        ):
            generate(config)
        assert len(server.requests) == COUNT
        (tmp_path / "c.usage.json").unlink()
        assert generate(config).new == COUNT


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_an_answer_whose_ending_is_not_known_is_not_a_completion(tmp_path: Path, style: str) -> None:
    def script(_: int, request: dict[str, Any]) -> bytes:
        make = completion if style == "chat" else text_completion
        return make(
            solution(number(request)),
            "abort" if number(request) == 2 else "COMPLETE" if number(request) == 3 else "stop",
        )

    with ChatServer(script) as server:
        config = settings(tmp_path, server.url, prompt_style=style, chat={"retries": 0})
        with pytest.raises(IncompleteError, match=r"and to 1 others .*finish_reason \"(abort|COMPLETE)\".*; 4 of 6"):
            generate(config)
        with pytest.raises(UserError, match=r"chat\.endings = \(\), not \('COMPLETE',\)"):
            generate(settings(tmp_path, server.url, prompt_style=style, chat={"endings": ("COMPLETE",)}))
        other = settings(tmp_path, server.url, prompt_style=style, chat={"endings": ("COMPLETE", "abort")})
        assert generate(dataclasses.replace(other, output=str(tmp_path / "d.jsonl"))).new == COUNT


def test_what_cannot_be_asked_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use chat, where the server renders the template of a trained model"):
        generate(settings(tmp_path, "http://127.0.0.1:9/v1", prompt_style="native"))
    with pytest.raises(UserError, match="name the model"):
        generate(settings(tmp_path, "http://127.0.0.1:9/v1", chat={"model": ""}))
    with pytest.raises(UserError, match="leave user name, password"):
        generate(settings(tmp_path, "http://me:hidden@127.0.0.1:9/v1"))
    with pytest.raises(UserError, match="expected http://HOST"):
        generate(settings(tmp_path, ""))
    assert [path.name for path in tmp_path.iterdir()] == ["task.jsonl"]  # no file contains the password
    with pytest.raises(UserError, match="right and the server running"):
        generate(settings(tmp_path, "http://127.0.0.1:9/v1"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"chat": {"model": "other"}}, "chat.model = 'm', not 'other'"),
        ({"prompt_style": "plain"}, "prompt_style = 'auto', not 'plain'"),
        ({"backend": "transformers"}, "backend = 'server', not 'transformers'"),
        ({"temperature": 0.3}, "temperature = 0.0, not 0.3"),
    ],
)
def test_another_model_or_style_is_not_mixed_in(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with ChatServer(right) as server:
        generate(settings(tmp_path, server.url))
        with pytest.raises(UserError, match=f"was made with {named}"):
            generate(settings(tmp_path, server.url, **change))


def test_a_model_that_refuses_a_temperature_is_asked_without(tmp_path: Path) -> None:
    with ChatServer(right) as server:
        generate(settings(tmp_path, server.url, chat={"temperature": -1.0, "token_limit_key": "max_completion_tokens"}))
    assert set(server.requests[0]) == {"model", "messages", "max_completion_tokens"}


def answer_code(raw: str, language: str = "python") -> str:
    """The code of a chat answer to a problem without a known function."""
    return code_of(raw, Prompt("t", "", "", opening=f"```{language}\n"), "chat")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Here:\n\n```python\nx = 1\n```\nAnd a use:\n```python\ny\n```", "x = 1\n"),
        ("Here:\r\n```py\r\nx = 1\r\n```\r\n", "x = 1\n"),
        ("Here:\n```\nx = 1\n```\nbye", "x = 1\n"),
        ("```\nx = 1\n```\nIt prints\n```text\n1\n```", "x = 1\n"),
        ("First\n```bash\npip install y\n```\nthen\n```python\nx = 1\n```", "x = 1\n"),
        ("x = 1\n```", "x = 1\n"),  # continues a fence that the prompt opens
        ("x = 1\n", "x = 1\n"),
        ("Here:\n```python\nx = 1", "x = 1\n"),  # cut off
        ("<think>\n```python\nwrong\n```\n</think>\n```python\nx = 1\n```", "x = 1\n"),
        ("<think>\n```python\nwrong\n```\n and so on", ""),
        ("    return 1\n", "    return 1\n"),
        ("1. So:\n\n   ```python\n   if x:\n       y\n   ```\n2. Use it:\n```\nf()\n```", "if x:\n    y\n"),
        ("- ```py\n  if x:\n\n      y\n  ```\n", "if x:\n\n    y\n"),
        ("* this\n    ```\n    x = 1\n    ```\nbye", "x = 1\n"),
        ('"""\n    ```python\n    f()\n    ```\n"""\nx = 1\n', '"""\n    ```python\n    f()\n    ```\n"""\nx = 1\n'),
        ("", ""),
    ],
)
def test_the_code_of_a_chat_answer(raw: str, code: str) -> None:
    assert answer_code(raw) == code


def test_the_task_s_language_goes_first() -> None:
    raw = "In Python:\n```python\nx = 1\n```\nand\n```java\nint x;\n```"
    assert (answer_code(raw, "java"), answer_code(raw)) == ("int x;\n", "x = 1\n")
    assert answer_code("```csharp\nint x;\n```", "cs") == "int x;\n"


@given(st.text(), st.sampled_from(["```python\n", "```\n", "\n```\n", "\n```"]), st.text())
def test_any_answer_can_be_cleaned_and_its_code_in_a_fence_again_is_the_same(a: str, b: str, c: str) -> None:
    code = answer_code(a + b + c)
    assert code == "" or code.endswith("\n")
    if "```" not in code and "<think>" not in code and "</think>" not in code:
        assert answer_code(f"```python\n{code}```") == code


@pytest.mark.server
def test_a_real_server_gives_what_transformers_gives_here(tmp_path: Path) -> None:
    model = str(tmp_path / "model")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    tokenizer.save_pretrained(model)
    random = build_llama(len(tokenizer), tied=False)
    for weights in random.parameters():
        if weights.dim() > 1:
            weights.data.mul_(15)  # so that each prompt gets a different answer
    random.save_pretrained(model)
    with Served(model, tmp_path / "log.txt") as server:
        config = settings(
            tmp_path, server.url, prompt_style="plain", max_new_tokens=24, precision="float32", device="cpu",
            model=model, chat={"model": model},
        )  # fmt: skip
        there = generate(config)
        chat = generate(dataclasses.replace(config, prompt_style="chat", output=str(tmp_path / "chat.jsonl")))
    here = generate(dataclasses.replace(config, backend="transformers", output=str(tmp_path / "here.jsonl")))
    assert len({c.raw for c in here.completions}) == COUNT
    assert [c.completion for c in there.completions] == [c.completion for c in here.completions]
    assert chat.new == COUNT and all(c.raw for c in chat.completions)
