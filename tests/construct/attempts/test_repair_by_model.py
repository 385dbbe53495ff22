"""Attempts that a chat model repairs: the conversation begins with the attempt and what it really printed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attempting
import pytest
from attempting import Remembered
from chatserver import ChatServer, completion
from rich.console import Console

from reflectioncoder.config.build import AttemptsConfig, BuildConfig, ChatConfig
from reflectioncoder.construct.build import BuildResult, build
from reflectioncoder.dialogues.dialogue import fenced, read_jsonl
from reflectioncoder.errors import IncompleteError
from reflectioncoder.generate.registry import BACKENDS

REPAIRED = "def double(n):\n    return 2 * n\n\nassert double(3) == 6"


@pytest.fixture(autouse=True)
def back_end() -> Iterator[None]:
    Remembered.asked, Remembered.die_after, Remembered.finish = [], 0, "end"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BACKENDS, "_entries", {**BACKENDS, "remembered": Remembered})
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield


def run(folder: Path, url: str, **chat: Any) -> BuildResult:
    problems = folder / "problems.jsonl"
    attempting.write_problems(problems)
    config = BuildConfig(
        sampler="attempts", problems=str(problems), count=3, workers=1, seconds=1.0, formats=("jsonl",),
        output=str(folder / "out"), attempts=AttemptsConfig(backend="remembered", repair="chat"),
        chat=ChatConfig(base_url=url, model="m", backoff=0.01, retries=1, **chat),
    )  # fmt: skip
    return build(config, Console(file=io.StringIO(), width=200))


def test_a_chat_model_repairs_what_failed_and_is_not_asked_about_what_passed(tmp_path: Path) -> None:
    def model(_: int, request: dict[str, Any]) -> bytes:
        messages = request["messages"]
        if "gains" in messages[1]["content"]:
            return completion("I give up.")
        turn = sum(message["role"] == "assistant" for message in messages)
        said = ("", f"It adds 2; it must multiply.\n\n{fenced(REPAIRED)}", fenced("def double(x):\n    return x * 2"))
        return completion(said[turn])

    with ChatServer(model) as server:
        result = run(tmp_path, server.url)
        asked = [request["messages"] for request in server.requests]
    assert result.funnel == {"problems": 3, "no_code": 1, "passed_at_once": 1, "sequences": 1}
    (sequence,) = read_jsonl(result.path)
    attempt, printed, analysis, repaired, last = sequence.first_round
    assert attempt.content.startswith(attempting.ROWS["double"][3])
    assert "AssertionError" in printed.content
    assert (analysis.content, repaired.content) == ("It adds 2; it must multiply.", REPAIRED)
    assert last.content == ""
    assert sequence.final_answer == fenced("def double(x):\n    return x * 2")
    provenance = sequence.extra["provenance"]
    assert [provenance[key] for key in ("method", "repair", "repaired_by")] == ["attempts", "chat", "m"]  # type: ignore[index]
    first = next(messages for messages in asked if "double" in messages[1]["content"])
    assert attempting.ROWS["double"][3] in first[2]["content"]
    assert "AssertionError" in first[3]["content"]
    assert not any("`last" in messages[1]["content"] for messages in asked)


def test_a_build_whose_server_failed_goes_on_with_the_same_attempts(tmp_path: Path) -> None:
    with ChatServer(lambda _, request: completion("I give up.")) as server:
        with pytest.raises(IncompleteError):
            run(tmp_path, "http://127.0.0.1:9/v1", timeout=1.0)
        asked = list(Remembered.asked)
        result = run(tmp_path, server.url)
    assert asked == Remembered.asked == [("double", 0), ("gains", 0), ("last", 0)]
    assert result.funnel == {"problems": 3, "no_code": 2, "passed_at_once": 1, "sequences": 0}
