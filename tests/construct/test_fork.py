"""A fork reuses records that changed settings do not affect, repeats no request, and leaves the old build unchanged."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from blocks import bad, final, good
from chatserver import ChatServer, completion, failure
from rich.console import Console

from reflectioncoder.cli.main import main
from reflectioncoder.clients.messages import Answer
from reflectioncoder.config.build import AttemptsConfig, BuildConfig, ChatConfig, NativeConfig
from reflectioncoder.construct.build import BuildResult, build
from reflectioncoder.construct.conversation.conversation import Checked, ConversationRules, Event
from reflectioncoder.construct.fork import ANSWER_LIMITS, TOUCHES, Change, change_of, kept, problem_digest
from reflectioncoder.construct.inputs import build_fingerprint
from reflectioncoder.construct.ledger.ledger import Entry, Ledger, progress
from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import CellResult
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.problem import Problem

pytestmark = pytest.mark.slow


def fenced(code: str) -> str:
    return f"It must be so.\n```python\n{code}\n```"


def place(request: dict[str, Any]) -> tuple[int, int]:
    """Return the number of the problem that a request is about, and the number of answers so far."""
    k = re.search(r"`add_(\d+)`", request["messages"][1]["content"])
    assert k is not None
    return int(k.group(1)), sum(message["role"] == "assistant" for message in request["messages"])


def model(number: int, request: dict[str, Any]) -> bytes:
    """Answer with one wrong program, then a right one.

    Exceptions: problem 1 has three more wrong programs, problem 2 draws a random number, and problem 3 has empty
    answers.
    """
    k, turn = place(request)
    codes = [bad(k), *([bad(k)] * 3 if k == 1 else []), good(k), final(k)]
    if k == 2:
        codes[0] = f"import random\nrandom.random()\n{bad(2)}"
    if k == 3:
        return completion("")
    return completion(fenced(codes[turn]))


def write_problems(path: Path, numbers: list[int], **texts: str) -> str:
    rows = [
        {
            "id": f"p{k}",
            "instruction": texts.get(f"p{k}", f"Write `add_{k}`."),
            "tests": [f"assert add_{k}(2) == {k + 2}"],
        }
        for k in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(output: Path, problems: str, url: str, chat: dict[str, Any] | None = None, **changes: Any) -> BuildConfig:
    known = {"base_url": url, "model": "m", "backoff": 0.01, "timeout": 5.0, "retries": 1, **(chat or {})}
    given = {"sampler": "chat", "workers": 1, "near_duplicates": 1.1, "io_names": ("random",), **changes}
    return BuildConfig(output=str(output), problems=problems, chat=ChatConfig(**known), **given)


def run(settings: BuildConfig) -> tuple[BuildResult, str]:
    console = Console(file=io.StringIO(), width=200)
    result = build(settings, console)
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def sequences(output: Path) -> list[Any]:
    return [dialogue.messages for dialogue in read_jsonl(output / "sequences.jsonl")]


def reasons(output: Path) -> dict[str, str]:
    return {line["id"]: line["reason"] for line in map(json.loads, (output / "rejects.jsonl").open())}


def said_once(requests: list[dict[str, Any]]) -> bool:
    """Whether all requests are different."""
    return max(Counter(json.dumps(request, sort_keys=True) for request in requests).values()) == 1


@pytest.mark.parametrize("budget", [0, 9])
def test_changed_filters_are_applied_anew_and_no_answer_is_asked_for_again(tmp_path: Path, budget: int) -> None:
    problems = write_problems(tmp_path / "own.jsonl", [0, 1, 2, 4])
    old, new, fresh = tmp_path / "old", tmp_path / "new", tmp_path / "fresh"
    changed: dict[str, Any] = {"io_names": ("input",), "max_rounds": 6, "repeats": 1}
    with ChatServer(model) as server:
        chat = {"budget_requests": budget, "in_flight": 2}
        run(config(old, problems, server.url, chat, max_rounds=2))
        asked = len(server.requests)
        # Requests: 3 each for problems 0 and 4, 1 for problem 2 (random number), 2 rounds of problem 1.
        assert asked == budget or asked == 3 + 2 + 1 + 3
        before = contents(old)
        assert budget or reasons(old) == {"p1": "unresolved", "p2": "input_output"}
        with pytest.raises(UserError, match=r"max_rounds was 2, is 6.*or add --fork NEW_DIRECTORY"):
            run(config(old, problems, server.url, **changed))
        result, said = run(config(old, problems, server.url, fork=str(new), **changed))
        assert f"taken over from {old}: 0 finished problems, {asked} answers of" in said
        assert result.path == new / "sequences.jsonl"
        whole = 3 + 6 + 3 + 3
        assert len(server.requests) == whole
        assert said_once(server.requests)
        assert contents(old) == before
        assert progress(new).requests == whole - asked  # only the fork's own requests count
        run(config(old, problems, server.url, fork=str(new), **changed))  # repeated: nothing to do
        run(config(new, problems, server.url, **changed))  # the same without --fork
        assert len(server.requests) == whole
        run(config(fresh, problems, server.url, **changed))
    assert sequences(new) == sequences(fresh)
    assert len(sequences(new)) == 4
    assert reasons(new) == reasons(fresh) == {}


def test_stricter_rules_end_recorded_conversations_where_they_would_have_ended(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", [0, 1, 2])
    old, new = tmp_path / "old", tmp_path / "new"
    with ChatServer(model) as server:
        run(config(old, problems, server.url, io_names=("input",)))
        asked = len(server.requests)
        result, _ = run(config(old, problems, server.url, max_rounds=3, fork=str(new)))
        assert len(server.requests) == asked
    assert reasons(new) == {"p1": "unresolved", "p2": "input_output"}
    assert result.sequences == 1


def test_of_a_changed_problem_file_only_the_changed_problems_are_asked(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", [0, 4, 5, 6])
    old, new = tmp_path / "old", tmp_path / "new"
    with ChatServer(model) as server:
        run(config(old, problems, server.url))
        asked = len(server.requests)
        with pytest.raises(UserError, match=r"problem_texts was .*--fork"):
            run(config(old, write_problems(Path(problems), [6, 5, 7, 0], p5="Do write `add_5`."), server.url))
        other = write_problems(tmp_path / "renamed.jsonl", [6, 5, 7, 0], p5="Do write `add_5`.")
        result, said = run(config(old, other, server.url, fork=str(new)))
        assert "taken over from " in said and "2 finished problems, 0 answers of 0 others" in said
        assert Counter(place(request)[0] for request in server.requests[asked:]) == {5: 3, 7: 3}
    assert result.funnel == {"problems": 4, "sequences": 4}
    kept = read_jsonl(new / "sequences.jsonl")
    assert [(item.extra["id"], item.extra["source"]) for item in kept] == [(f"p{k}", "renamed") for k in (6, 5, 7, 0)]


def test_what_a_model_refused_to_say_is_not_asked_again_for_other_filters(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", [0, 3])
    with ChatServer(model) as server:
        run(config(tmp_path / "old", problems, server.url))
        asked = len(server.requests)
        run(config(tmp_path / "old", problems, server.url, repeats=0, fork=str(tmp_path / "new")))
        assert len(server.requests) == asked
    assert reasons(tmp_path / "new") == {"p3": "answer_empty"}


def test_a_raised_limit_touches_only_what_ran_into_it(tmp_path: Path) -> None:
    problems, slow = write_problems(tmp_path / "own.jsonl", [0, 1, 2]), "while True:\n    pass"

    def script(_: int, request: dict[str, Any]) -> bytes:
        k, turn = place(request)
        if k == 1 and turn == 1 and request["max_tokens"] == 50:
            return completion("```python\ndef add", "length")
        codes = [slow if k == 2 else bad(k), good(k), final(k)]
        return completion(fenced(codes[turn]))

    with ChatServer(script) as server:
        run(config(tmp_path / "a", problems, server.url, {"max_tokens": 50}, seconds=0.4))
        assert reasons(tmp_path / "a") == {"p1": "answer_too_long"}
        asked = len(server.requests)
        assert asked == 3 + 2 + 3
        run(config(tmp_path / "a", problems, server.url, {"max_tokens": 80}, seconds=0.4, fork=str(tmp_path / "b")))
        assert [place(request) for request in server.requests[asked:]] == [(1, 1), (1, 2)]
        asked = len(server.requests)
        run(config(tmp_path / "b", problems, server.url, {"max_tokens": 80}, seconds=0.5, fork=str(tmp_path / "c")))
        # The program that timed out is run again, and the answers after it are requested again.
        assert [place(request) for request in server.requests[asked:]] == [(2, 1), (2, 2)]
    assert reasons(tmp_path / "b") == reasons(tmp_path / "c") == {}


def test_what_leaves_nothing_to_take_over_is_said_before_anything_is_paid(tmp_path: Path) -> None:
    problems, old, new = write_problems(tmp_path / "own.jsonl", [0]), tmp_path / "old", tmp_path / "new"
    prompts = tmp_path / "prompts.toml"
    prompts.write_text('reanswer = "Now: {problem}"')
    with ChatServer(model) as server:
        with pytest.raises(UserError, match="no such file; --fork takes over the results of the build in --output"):
            run(config(old, problems, server.url, fork=str(new)))
        run(config(old, problems, server.url))
        for changed, message in (
            (config(old, problems, server.url, {"model": "n"}, fork=str(new)), "chat.model decides every answer"),
            (config(old, problems, server.url, {"prompts": str(prompts)}, fork=str(new)), "prompt_texts decides"),
            (config(old, problems, server.url, {"max_tokens": 9}, fork=str(new)), "nothing to take over"),
            (config(old, problems, server.url, sampler="mutation", fork=str(new)), "nothing to take over"),
            (config(old, problems, server.url, fork=str(new)), "has the same settings; to resume it leave out --fork"),
            (config(old, problems, server.url, repeats=0, fork=str(old)), "is the directory of the old build"),
        ):
            with pytest.raises(UserError, match=message) as caught:
                run(changed)
            assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=r"chat.model decides every answer, so nothing can be taken over\)"):
            run(config(old, problems, server.url, {"model": "n"}))
        assert not new.exists()
        same = config(old, problems, server.url)
        with (
            Ledger(old, build_fingerprint(same, load_problems(problems))),
            pytest.raises(UserError, match="a build is using it; wait for it or stop it"),
        ):
            run(config(old, problems, server.url, repeats=0, fork=str(new)))
        run(config(new, problems, server.url, repeats=0))
        with pytest.raises(UserError, match="holds a build of its own; name a new directory"):
            run(config(old, problems, server.url, repeats=0, fork=str(new)))
        assert len(server.requests) == 6


def test_a_server_that_dies_in_a_fork_leaves_what_was_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems, dead = write_problems(tmp_path / "own.jsonl", [0, 1, 4]), threading.Event()

    def script(number: int, request: dict[str, Any]) -> Any:
        return failure(401) if dead.is_set() else model(number, request)

    with ChatServer(script) as server:
        run(config(tmp_path / "old", problems, server.url, max_rounds=2))
        asked = len(server.requests)
        again = config(tmp_path / "old", problems, server.url, fork=str(tmp_path / "new"))
        dead.set()
        with pytest.raises(UserError, match="the key in OPENAI_API_KEY"):
            run(again)
        assert main(["build", "status", str(tmp_path / "new")]) == 0
        assert re.search(rf"taken over +0 finished problems, {asked} answers of 3 others, from {tmp_path}/old\n",
                         capsys.readouterr().out)  # fmt: skip
        dead.clear()
        result, _ = run(again)
        assert len(server.requests) == asked + 1 + 4  # the refused request, and the rest of problem 1
    assert result.sequences == 3


def test_a_fork_of_planted_bugs_gives_the_bytes_of_a_new_build(tmp_path: Path) -> None:
    def made(name: str, **changes: Any) -> Path:
        run(
            BuildConfig(
                **{"output": str(tmp_path / name), "count": 4, "seed": 5, "levels": (1,), "workers": 1} | changes
            )
        )
        return tmp_path / (changes.get("fork") or name)

    made("old")
    forked = made("old", count=6, near_duplicates=0.5, fork=str(tmp_path / "new"))
    fresh = made("fresh", count=6, near_duplicates=0.5)
    for name in ("sequences.jsonl", "instructions.jsonl", "rejects.jsonl", "funnel.json", "README.md"):
        assert (forked / name).read_bytes() == (fresh / name).read_bytes()
    assert (progress(forked).forked or {})["finished"] == 4
    assert 'output = "' + str(forked) in (forked / "config.toml").read_text()


def test_a_damaged_ledger_gives_one_line_and_no_new_directory(tmp_path: Path) -> None:
    problems, old = write_problems(tmp_path / "own.jsonl", [0]), tmp_path / "old"
    for content in (b"", b"no database" * 500):
        old.mkdir(exist_ok=True)
        (old / "ledger.sqlite").write_bytes(content)
        with pytest.raises(UserError, match="the file is damaged") as caught:
            run(config(old, problems, "http://127.0.0.1:9/v1", fork=str(tmp_path / "new")))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_every_setting_is_one_that_a_build_has_and_what_is_not_listed_decides_all(tmp_path: Path) -> None:
    known = set()
    for sampler in ("mutation", "chat"):
        settings = BuildConfig(sampler=sampler, chat=ChatConfig(model="m"))  # type: ignore[arg-type]
        known |= build_fingerprint(settings, []).keys()
    known |= {f"native.{name}" for name in vars(NativeConfig())}
    known |= {f"attempts.{name}" for name in vars(AttemptsConfig())}
    known |= {"added_filters"}  # there only where one is added
    known |= {"decontaminate_fields", "decontaminate_split", "libraries"}  # there only where they are set
    assert TOUCHES.keys() | {*ANSWER_LIMITS} <= known
    everything = {"seed", "sampler", "chat.model", "chat.temperature", "native.weights", "prompt_texts", "new"}
    for key in everything:
        assert change_of({key: 1}, {key: 2}) == Change(False, "all", "none")
    for key in ("near_duplicates", "decontaminate", "problem_texts", "count", "fields"):
        assert change_of({key: 1}, {key: 2}) == Change(True, "all", "all")
    assert change_of({"repeats": 1}, {}) == Change(False, "all", "all")
    assert change_of({"seconds": 1}, {"seconds": 2}) == Change(False, "within limits", "all")
    assert change_of({"seconds": 2}, {"seconds": 1}) == Change(False, "none", "all")
    assert change_of({"seconds": 1, "python": "a"}, {"seconds": 2, "python": "b"}) == Change(False, "none", "all")
    assert change_of({"chat.max_tokens": 1}, {"chat.max_tokens": 2}) == Change(False, "all", "within limits")
    assert change_of({"chat.max_tokens": 2}, {"chat.max_tokens": 1}) == Change(False, "all", "none")


def test_what_stays_of_a_record_is_what_would_come_again() -> None:
    problem = Problem("p", "Write `add_0`.", None, ("assert add_0(2) == 2",))
    failed = CellResult("error", "AssertionError", "AssertionError")
    events: list[Event] = [
        Answer(fenced(bad(0))), failed, Answer(fenced(good(0))), CellResult("ok", ""), Answer(fenced(final(0))),
        Checked(""),
    ]  # fmt: skip
    done = Entry("p", "done", payload={})
    assert kept(problem, done, events, Change(), ConversationRules()) == (done, events)
    assert kept(problem, done, events, Change(False), ConversationRules()) == (None, events)
    assert kept(problem, done, events, Change(False), ConversationRules(max_rounds=1)) == (None, events[:2])
    assert kept(problem, done, events, Change(False, "none"), ConversationRules()) == (None, events[:1])
    assert kept(problem, done, events, Change(False, "all", "none"), ConversationRules()) == (None, [])
    assert kept(problem, done, events, Change(False, "within limits"), ConversationRules()) == (None, events)
    late: list[Event] = [*events[:3], CellResult("timeout", "")]
    assert kept(problem, None, late, Change(False, "within limits"), ConversationRules()) == (None, events[:3])
    empty = Entry("p", "rejected", "answer_empty")
    assert kept(problem, empty, events[:2], Change(False), ConversationRules()) == (empty, events[:2])
    assert kept(problem, empty, events[:2], Change(False), ConversationRules(max_rounds=1)) == (None, events[:2])
    assert kept(problem, empty, events[:2], Change(False, "none"), ConversationRules()) == (None, events[:1])


def test_a_problem_is_known_by_its_text_and_tests_not_by_its_labels() -> None:
    problem = Problem("p", "Do it.", "def f(): ...", ("assert f",), "f", "a", "MIT", 1)
    assert problem_digest(problem) == problem_digest(
        Problem("q", "Do it.", "def f(): ...", ("assert f",), "f", "b", "", 2)
    )
    others = [
        Problem("p", "Do it!", "def f(): ...", ("assert f",), "f"), Problem("p", "Do it.", None, ("assert f",), "f"),
        Problem("p", "Do it.", "def f(): ...", (), "f"), Problem("p", "Do it.", "def f(): ...", ("assert f",)),
    ]  # fmt: skip
    assert problem_digest(problem) not in {problem_digest(other) for other in others}
    assert problem_digest(Problem("p", "\ud800")) != problem_digest(Problem("p", "\ud801"))
