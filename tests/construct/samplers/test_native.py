"""A model fine-tuned on the format writes blocks, reads their output, repairs its code and answers."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from blocks import (
    NUMBERS,
    REMARK,
    Format,
    answer,
    bad,
    code,
    config,
    final,
    good,
    outcome,
    rejects,
    run,
    scripted,
    text,
)

from reflectioncoder.clients.messages import SamplerError, Turn
from reflectioncoder.config.toml import to_toml
from reflectioncoder.construct.samplers import native
from reflectioncoder.construct.samplers.native import NativeSampler
from reflectioncoder.construct.samplers.native_vllm import decode_vllm
from reflectioncoder.dialogues.dialogue import Dialogue, read_jsonl
from reflectioncoder.dialogues.tokens import encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.decode import Request, decode_batched
from reflectioncoder.models.load import load_model_and_tokenizer, load_tokenizer


def test_a_real_model_fails_sees_why_repairs_and_answers(tmp_path: Path, model: str, learnt: list[Dialogue]) -> None:
    result = run(config(tmp_path, model, list(NUMBERS)))
    assert result.funnel == {"problems": 2, "sequences": 2}
    found = read_jsonl(result.path)
    assert [dialogue.messages for dialogue in found] == [dialogue.messages for dialogue in learnt]
    assert "----> 4 assert add_3(1) == 4" in found[0].first_round[1].content
    provenance = found[0].extra["provenance"]
    # The four requests are two programs, the closing remark and the final code.
    assert (provenance["method"], provenance["protocol"], provenance["model"]) == ("native", "native", model)
    assert (provenance["rounds"], provenance["requests"]) == (2, 4)
    tokenizer = load_tokenizer(model)
    written = sum(encode_dialogue(learnt[0], tokenizer).is_label)
    assert provenance["tokens_out"] == written
    # The result can be used for training: it has the same tokens.
    assert encode_dialogue(found[0], tokenizer).ids == encode_dialogue(learnt[0], tokenizer).ids


def test_what_is_sampled_depends_on_seed_problem_and_sample_but_not_on_the_batch(tmp_path: Path, model: str) -> None:
    changes = {"temperature": 1.6, "top_p": 0.99, "samples": 3, "max_new_tokens": 60}
    numbers = [3, 4, 5]
    together = outcome(config(tmp_path, model, numbers, "a", batch_size=16, **changes))
    assert set(together) == {f"p{i}#{k}" for i in range(3) for k in (1, 2, 3)}
    assert len({repr(value) for value in together.values()}) > 4  # otherwise the test proves nothing
    assert together == outcome(config(tmp_path, model, numbers, "b", batch_size=1, **changes))
    other = dataclasses.replace(config(tmp_path, model, numbers, "c", batch_size=5, **changes), seed=1)
    assert together != outcome(other)


def test_conversations_share_the_batch_and_ended_ones_are_replaced(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def load(*arguments: Any) -> tuple[Any, Any]:
        network, tokenizer = load_model_and_tokenizer(*arguments)
        network.register_forward_pre_hook(
            lambda _, __, given: rows.append(given["input_ids"].shape[0]), with_kwargs=True
        )
        return network, tokenizer

    monkeypatch.setattr(native, "load_model_and_tokenizer", load)
    result = run(config(tmp_path, model, list(NUMBERS) * 12, batch_size=8))
    assert result.sequences == 24
    # The batch is not always full: later on, so small a model mostly waits for the interpreter.
    assert max(rows) == 8
    assert rows.count(8) > 20


def test_requests_that_come_later_join_the_batch_and_give_what_they_give_alone(model: str) -> None:
    network, tokenizer = load_model_and_tokenizer(model, "float32", "cpu")
    wanted = [Request(f"r{i}", 0, tuple(tokenizer.encode("def add" * (i + 1))), 12 + i) for i in range(9)]
    steps = 0

    def more(wait: bool) -> list[Request] | None:
        nonlocal steps
        steps += 1
        if len(coming) == 0:
            return None
        return [coming.pop()] if wait or steps % 4 == 0 else []

    coming = list(wanted)
    found = {done.request.task_id: done.ids for done in decode_batched(network, tokenizer, (), 4, more=more)}
    alone = {r.task_id: done.ids for r in wanted for done in decode_batched(network, tokenizer, [r], 1)}
    assert found == alone


def test_what_a_model_does_wrong_is_rejected_with_its_reason(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = "<|endofmessage|>"
    answers: list[tuple[str, list[str]]] = [
        ("no_code", [text("I would rather not.")]),
        ("empty_code", [code(" \n")]),
        ("no_block_type", ["def f(): pass"]),
        ("forged_execution", [code(bad(3)), "<|execution|><|endofblock|>"]),
        ("unclosed_block", ["<|code|>x = 1<|execution|>"]),
        ("answer_too_long", ["<|text|>" + "a " * 300]),
        ("answer_too_long", ["<|text|>a<|endofblock|>" * 100]),
        ("unresolved", [code(bad(7)), text("I give up.")]),
        ("unresolved", [code(bad(8))] * 8),
        ("unresolved", [code("x = 1"), closed]),  # no assert
        ("single_round", [code(good(10))]),
        ("input_output", [code(f"open('x')\n{bad(11)}")]),
        ("no_final_code", [code(bad(12)), code(good(12), "So."), closed, text("As above.")]),
        ("no_final_code", [code(bad(13)), code(good(13)), closed, code(final(13))]),
        ("final_code_fails", [code(bad(14)), code(good(14)), closed, answer("def add_14(x):\n    return x")]),
        ("unclosed_block", [code(bad(15)), code(good(15)), "<|text|>fine<|endofmessage|>"]),
        ("no_block_type", [code(bad(16)), code(good(16)), closed, final(16)]),
    ]
    count = len(answers)
    # These are accepted: without a remark, and with a remark followed by another program.
    answers.append(("", [code(bad(count)), code(good(count)), closed, answer(final(count))]))
    again = f"<|text|>Once more.<|endofblock|>{code('x')}"
    answers.append(("", [code(bad(count + 1)), code(good(count + 1)), again, answer(final(count + 1))]))
    known = Format(model)

    def script(problem: int, turn: int) -> str:
        return answers[problem][1][turn]

    monkeypatch.setattr(native, "load_backend", lambda config, seed, marks: (scripted(known, script), 10_000))
    settings = config(tmp_path, model, list(range(len(answers))))
    result = run(settings)
    found = rejects(settings.output)
    assert {id: line["reason"] for id, line in found.items()} == {
        f"p{k}": reason for k, (reason, _) in enumerate(answers) if reason
    }
    assert found["p3"]["detail"] == "answer 2 has an execution block of its own: '<|execution|>'"
    assert found["p4"]["detail"].endswith("before another or the message's end: '<|code|>x = 1<|execution|>'")
    assert found["p7"]["detail"] == "the model gave up after 1 rounds"
    kept = read_jsonl(result.path)
    assert [dialogue.extra["id"] for dialogue in kept] == [f"p{count}", f"p{count + 1}"]
    for dialogue in kept:
        assert [block.type for block in dialogue.first_round] == ["code", "execution", "code", "execution"]


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(tmp_path: Path, model: str) -> None:
    count = 10
    numbers = [NUMBERS[i % 2] for i in range(count)]
    settings = config(tmp_path, model, numbers, "killed", batch_size=1)
    path = tmp_path / "build.toml"
    path.write_text(to_toml(settings))
    process = subprocess.Popen(
        [sys.executable, "-m", "reflectioncoder", "build", "--config", str(path)], stdout=subprocess.DEVNULL
    )

    def events() -> list[tuple[Any, ...]]:
        try:
            database = sqlite3.connect(f"file:{settings.output}/ledger.sqlite?mode=ro", uri=True)
            found = database.execute("SELECT problem, number, kind, payload, at FROM events").fetchall()
            database.close()
        except sqlite3.Error:
            return []
        return found

    deadline = time.monotonic() + 60
    while len(events()) < 9:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = events()
    assert len(before) < 7 * count  # per problem: four answers, two executions and a check
    resumed = outcome(settings)
    after = events()
    assert len(after) == 7 * count
    assert set(before) <= set(after)  # no request or run was repeated
    assert resumed == outcome(config(tmp_path, model, numbers, "whole", batch_size=8))
    assert len(resumed) == count


def test_decoding_that_fails_stops_the_build_with_one_line_and_a_later_one_goes_on(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Format(model)
    asked: list[tuple[int, int]] = []
    broken = True

    def script(problem: int, turn: int) -> str:
        if broken and len(asked) == 5:
            raise MemoryError("no room\nfor more")
        return [code(bad(problem)), code(good(problem)), text(REMARK), answer(final(problem))][turn]

    monkeypatch.setattr(native, "load_backend", lambda config, seed, marks: (scripted(known, script, asked), 10_000))
    settings = config(tmp_path, model, [0, 1, 2])
    with pytest.raises(UserError, match=r"decoding failed \(MemoryError: no room for more\); lower native"):
        run(settings)
    broken = False
    assert run(settings).sequences == 3
    assert len(asked) <= 12 + 5
    first = asked[:4]
    assert not set(first) & set(asked[5:])


def test_a_conversation_that_fills_the_models_positions_is_rejected(tmp_path: Path, model: str) -> None:
    async def ask() -> None:
        sampler = NativeSampler(config(tmp_path, model, [3]).native)
        try:
            await sampler.answer([Turn("user", "word " * 2000)], "p0", 0, "offered")
        finally:
            await sampler.close()

    with pytest.raises(SamplerError) as caught:
        asyncio.run(ask())
    assert caught.value.of_the_problem
    assert "the model has 1024 positions" in caught.value.detail


class Engine:
    """A stub of vLLM's engine that decodes with transformers and, as documented, stops after a stop token."""

    def __init__(self, model: str) -> None:
        self.network, self.tokenizer = load_model_and_tokenizer(model, "float32", "cpu")
        self.requests: list[Request] = []
        self.added: list[str] = []

    def add_request(self, name: str, prompt: dict[str, list[int]], parameters: dict[str, Any]) -> None:
        assert name not in self.added
        self.added.append(name)
        stops, ids = parameters["stop_token_ids"], tuple(prompt["prompt_token_ids"])
        most = parameters["max_tokens"]
        self.requests.append(Request(name, 0, ids, most, ended=lambda ids: "stop" if ids[-1] in stops else ""))

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[SimpleNamespace]:
        request = self.requests.pop(0)
        unfinished = [SimpleNamespace(request_id=other.task_id, finished=False) for other in self.requests]
        (done,) = decode_batched(self.network, self.tokenizer, [request])
        outputs = [SimpleNamespace(token_ids=list(done.ids))]
        return [*unfinished, SimpleNamespace(request_id=request.task_id, finished=True, outputs=outputs)]


def test_an_engine_that_stops_at_every_block_gives_the_same(
    tmp_path: Path, model: str, learnt: list[Dialogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, stops = Engine(model), Format(model).marks.stops

    def parameters(request: Request, done: int) -> dict[str, Any]:
        return {"stop_token_ids": stops, "max_tokens": request.max_new_tokens - done}

    def load(*_: object) -> tuple[native.DecodeStream, int]:
        return lambda more: decode_vllm(engine, parameters, more), 1024

    monkeypatch.setattr(native, "load_backend", load)
    found = read_jsonl(run(config(tmp_path, model, list(NUMBERS))).path)
    assert [dialogue.messages for dialogue in found] == [dialogue.messages for dialogue in learnt]
    # Per problem: four answers, and one more request after each of the three text blocks that do not end an answer.
    assert len(engine.added) == 2 * (4 + 3)
    engine.added.clear()
    cut = run(config(tmp_path, model, [3], "cut", max_new_tokens=10))
    assert cut.funnel["answer_too_long"] == 1


def test_vllm_that_is_not_installed_is_named(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="it is not installed; run: pip install vllm"):
        run(config(tmp_path, model, [3], backend="vllm"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "native.model: name a model that was trained on the format"),
        ({"samples": 0}, "native.samples = 0"),
        ({"samples": 2}, "several samples of greedy decoding are all the same"),
        ({"batch_size": 0}, "native.batch_size = 0"),
        ({"top_p": 0.0}, "top_p in"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    settings = config(tmp_path, "somewhere", [3])
    settings = dataclasses.replace(settings, native=dataclasses.replace(settings.native, **changes))
    with pytest.raises(UserError, match=re.escape(message)):
        run(settings)


def test_a_model_that_does_not_know_the_format_is_refused(tmp_path: Path) -> None:
    plain = tiny.save(tmp_path / "plain", tiny.llama(258))
    with pytest.raises(UserError, match="was not trained on this format"):
        run(config(tmp_path, plain, [3]))


def test_a_ledger_of_other_weights_is_refused(tmp_path: Path, model: str, learnt: list[Dialogue]) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    settings = config(tmp_path, str(own), [3])
    assert run(settings).sequences == 1
    run(dataclasses.replace(settings, native=dataclasses.replace(settings.native, batch_size=3)))
    tiny.memorised(learnt[:1], own, steps=1)
    with pytest.raises(UserError, match=r"native\.weights was"):
        run(settings)
