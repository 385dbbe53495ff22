"""A build with a real server and a real model: every problem gets a sequence or a reason, even if the server dies."""

from __future__ import annotations

import dataclasses
import io
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from serving import Served

from reflectioncoder.config.build import BuildConfig, ChatConfig, NativeConfig
from reflectioncoder.construct.build import BuildResult, build
from reflectioncoder.construct.conversation.conversation import from_record
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import embedded_model_directory

pytestmark = pytest.mark.server

# Short prompts, for answers of a few dozen tokens.
PROMPTS = """
system_fenced = "Reply with one short Python code block and nothing else."
reflection = "{problem} Below it, write one assert that calls it."
failed = "It printed: {output}\\nGive the corrected program."
untested = "It printed: {output}\\nNothing was asserted. Give the function and one assert that calls it."
"""
TASKS = {
    "double": ("Write `double(x)`, twice `x`.", "assert double(3) == 6"),
    "largest": ("Write `largest(values)`, the largest number of a list.", "assert largest([1, 5, 2]) == 5"),
    "vowels": ("Write `vowels(text)`, how many vowels there are.", "assert vowels('banana') == 3"),
    "reverse": ("Write `reverse(text)`, the text reversed.", "assert reverse('abc') == 'cba'"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(str(embedded_model_directory()), tmp_path_factory.mktemp("server") / "log.txt") as served:
        yield served


def config(folder: Path, server: Served, **chat: Any) -> BuildConfig:
    problems, prompts = folder / "own.jsonl", folder / "prompts.toml"
    rows = ({"id": id, "instruction": text, "tests": [test]} for id, (text, test) in TASKS.items())
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts.write_text(PROMPTS)
    known: dict[str, Any] = {"base_url": server.url, "model": server.model, "temperature": -1.0, "max_tokens": 64}
    known |= {"in_flight": 1, "retries": 1, "backoff": 0.05, "prompts": str(prompts)}
    chosen = ChatConfig(**{**known, **chat})
    return BuildConfig(
        output=str(folder / "out"), problems=str(problems), sampler="chat", workers=1, max_rounds=2, chat=chosen
    )


def run(settings: BuildConfig) -> BuildResult:
    return build(settings, Console(file=io.StringIO(), width=200))


def events(output: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Events of all conversations in the ledger, read with plain SQLite: kind, payload, cost by (problem, number)."""
    try:
        database = sqlite3.connect(f"file:{output}/ledger.sqlite?mode=ro", uri=True)
        rows = database.execute("SELECT problem, number, kind, payload, requests, tokens_in, tokens_out FROM events")
        found = {(problem, number): tuple(rest) for problem, number, *rest in rows}
        database.close()
    except sqlite3.Error:
        return {}
    return found


def answers(found: dict[tuple[str, int], tuple[Any, ...]]) -> int:
    return sum(kind == "answer" for kind, *_ in found.values())


def test_a_real_server_that_dies_half_way_and_comes_back(tmp_path: Path, server: Served) -> None:
    settings = config(tmp_path, server)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run(settings)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 300
    while answers(events(settings.output)) < 2:
        assert time.monotonic() < deadline
        assert thread.is_alive(), raised
        time.sleep(0.02)
    server.kill()
    thread.join(120)
    assert not thread.is_alive()
    (error,) = raised
    assert isinstance(error, UserError)
    assert "\n" not in str(error)
    assert "connection" in str(error)
    assert "rerun to continue" in str(error)
    before = events(settings.output)
    answered = {key: step for key, step in before.items() if step[0] != "failed"}
    assert progress(settings.output).done + len(progress(settings.output).rejected) < len(TASKS)

    server.start()
    result = run(settings)
    after = events(settings.output)
    assert answered.items() <= after.items()  # no request or run was repeated
    funnel = dict(result.funnel)
    assert funnel.pop("problems") == len(TASKS)
    assert sum(funnel.values()) == len(TASKS)
    assert set(funnel) <= {
        "single_round", "unresolved", "no_code", "answer_too_long", "idle_asserts", "input_output", "no_final_code",
        "several_final_codes", "final_code_fails", "mentions_sequence", "sequences",
    }  # fmt: skip
    assert len(funnel) > 1  # the weak model fails in different ways

    # The usage that the server reports is counted, in total and for each answer.
    steps = [from_record(kind, json.loads(text)) for kind, text, *_ in after.values() if kind == "answer"]
    assert len(steps) >= len(TASKS)
    for step in steps:
        assert step.usage.requests == 1
        assert step.usage.tokens_in > 20
        assert 0 < step.usage.tokens_out <= 64
        assert (step.finish == "length") == (step.usage.tokens_out == 64)
    found = progress(settings.output)
    assert found.tokens_in == sum(step.usage.tokens_in for step in steps)
    assert found.tokens_out == sum(step.usage.tokens_out for step in steps)
    assert found.requests > len(steps)  # requests that reached no server are counted, too


def test_a_model_that_the_server_does_not_have_is_named_in_one_line(tmp_path: Path, server: Served) -> None:
    settings = config(tmp_path, server, model="gpt-1000")
    with pytest.raises(UserError, match=r"Server is pinned to .* requested 'gpt-1000'.*; 0 of 4 problems") as caught:
        run(settings)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_no_use_to_a_model_that_writes_blocks_says_so(
    tmp_path: Path, server: Served, model: str
) -> None:
    # `transformers serve` has completions, too, but accepts no stop tokens and removes special tokens.
    settings = dataclasses.replace(
        config(tmp_path, server), sampler="native", native=NativeConfig(model=model, backend="completions")
    )
    with pytest.raises(UserError, match=r"refuses the request \(422\): Unexpected fields") as caught:
        run(settings)
    assert "native.backend 'completions' needs a server that takes vLLM's parameters" in str(caught.value)
    assert "\n" not in str(caught.value)
