"""A real vLLM server with a trained model gets the ids of `prompt_ids`, stops where answers end, and serves builds.

Needs vLLM: run `make vllm`, or install `vllm` on a machine with a GPU. vLLM hands the chat template a list of parts for
every string, because the template reads lists.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from blocks import NUMBERS, config, rejects, run
from serving import VllmServed

from reflectioncoder.config.build import ChatConfig
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.dialogues.dialogue import Dialogue, read_jsonl
from reflectioncoder.dialogues.tokens import prompt_ids
from reflectioncoder.errors import UserError
from reflectioncoder.generate.generate import generate
from reflectioncoder.models.load import load_model_and_tokenizer, load_tokenizer
from reflectioncoder.train.output import write_model

pytest.importorskip("vllm", reason="vLLM is not installed; run: make vllm (pip install vllm with a GPU)")
pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServed]:
    """A server with the model of `learnt`, saved as `train` saves one."""
    folder = tmp_path_factory.mktemp("vllm")
    write_model(*load_model_and_tokenizer(model, "float32", "cpu"), folder / "model")
    with VllmServed(str(folder / "model"), folder / "log.txt") as served:
        yield served


def ask(server: VllmServed, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The answer to a greedy chat request, with the ids of prompt and answer."""
    request = {"model": "served", "messages": messages, "max_tokens": 4, "temperature": 0, "return_token_ids": True}
    answer = httpx2.post(f"{server.url}/chat/completions", json={**request, **more}, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert (found["model"], found["choices"][0]["message"]["role"]) == ("served", "assistant")
    return found


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("messages", "instruction"),
    [
        ([user("hi")], "hi"),
        ([user("")], ""),
        ([user(" a\r\n\tb \n\n")], " a\r\n\tb \n\n"),
        ([user("x = 12 + 345, né 中文 🙂")], "x = 12 + 345, né 中文 🙂"),
        ([user(PARTS)], "a\nb"),
        ([{"role": "system", "content": "Be brief."}, user("hi")], "Be brief.\n\nhi"),
        ([{"role": "developer", "content": "Be brief."}, user(PARTS)], "Be brief.\n\na\nb"),
        # the template breaks special tokens up, so that text cannot forge them
        ([user("a <|user|> </s> <s>")], "a <| user|> < /s> < s>"),
    ],
)
def test_the_model_receives_the_ids_of_a_prompt(
    server: VllmServed, messages: list[dict[str, Any]], instruction: str
) -> None:
    expected = prompt_ids(instruction, load_tokenizer(server.model), "")
    assert ask(server, messages)["prompt_token_ids"] == expected
    assert expected.count(expected[0]) == 1  # one beginning of the sequence


def test_an_earlier_answer_may_be_null(server: VllmServed) -> None:
    ask(server, [user("hi"), {"role": "assistant", "content": None}, user("so")])


def test_an_answer_is_that_of_transformers_and_ends_with_its_message(server: VllmServed) -> None:
    answer = ask(server, [user("Write `add_3`.")], max_tokens=100)["choices"][0]
    model, tokenizer = load_model_and_tokenizer(server.model, "float32", "cpu")
    prompt = prompt_ids("Write `add_3`.", tokenizer, "")
    whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=100)  # type: ignore[operator]
    expected, ids = whole[0, len(prompt) :].tolist(), tokenizer.get_vocab()
    assert answer["token_ids"] == expected
    assert expected[-2:] == [ids["<|endofblock|>"], ids["<|endofmessage|>"]]
    assert answer["finish_reason"] == "stop"
    assert answer["message"]["content"] == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("prompt", ["ids", "text"])
def test_a_build_writes_what_the_model_has_learnt(
    server: VllmServed, learnt: list[Dialogue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    result = run(behind(server, tmp_path, monkeypatch, prompt=prompt))
    assert result.funnel == {"problems": 2, "sequences": 2}
    assert [dialogue.messages for dialogue in read_jsonl(result.path)] == [dialogue.messages for dialogue in learnt]


def test_a_build_names_an_unknown_model(server: VllmServed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not know model 'other'"):
        run(behind(server, tmp_path, monkeypatch, served="other"))


def test_a_prompt_that_is_too_long_rejects_its_problem_and_no_other(
    server: VllmServed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = behind(server, tmp_path, monkeypatch)
    problems = Path(settings.problems)
    lines = problems.read_text().splitlines(keepends=True)
    problems.write_text(lines[0] + lines[1].replace("Write", "Write it. " * 200 + "Write"))
    assert run(settings).funnel == {"problems": 2, "answer_too_long": 1, "sequences": 1}
    assert "512" in rejects(settings.output)["p1"]["detail"]


def test_generate_stores_a_prompt_that_is_too_long_and_names_a_limit_that_leaves_no_room(
    server: VllmServed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    rows = [{"id": f"p{n}", "instruction": "hi " * n, "tests": ["assert True"]} for n in (1, 600)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = ChatConfig(base_url=server.url, model="served", backoff=0.01, timeout=300.0)
    settings = GenerateConfig(
        task=str(tmp_path / "task.jsonl"),
        output=str(tmp_path / "c.jsonl"),
        backend="server",
        max_new_tokens=20,
        chat=chat,
    )
    with pytest.raises(UserError, match="leaves no room for a prompt"):
        generate(dataclasses.replace(settings, max_new_tokens=600))
    assert generate(settings).new == 2
    stored = [json.loads(line) for line in Path(settings.output).read_text().splitlines()]
    errors = {row["task_id"]: row.get("error", "").partition(":")[0] for row in stored}
    assert errors == {"p1": "", "p600": "too_long"}
    with pytest.raises(UserError, match="does not know model 'other'"):
        generate(
            dataclasses.replace(
                settings, output=str(tmp_path / "d.jsonl"), chat=dataclasses.replace(chat, model="other")
            )
        )


def behind(
    server: VllmServed, folder: Path, monkeypatch: pytest.MonkeyPatch, served: str = "served", **changes: Any
) -> Any:
    """Settings of a build with the server."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    settings = config(folder, server.model, list(NUMBERS), backend="completions", **changes)
    known = {"base_url": server.url, "model": served, "backoff": 0.01, "timeout": 300.0}
    return dataclasses.replace(settings, chat=dataclasses.replace(settings.chat, **known))
