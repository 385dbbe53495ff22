"""Helpers for tests of models that write blocks: dialogues to memorize, builds of them, and scripted decoding."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from reflectioncoder.config.build import BuildConfig, ChatConfig, NativeConfig
from reflectioncoder.construct.build import BuildResult, build
from reflectioncoder.construct.samplers import native
from reflectioncoder.dialogues.dialogue import Block, Dialogue, read_jsonl, reflection_dialogue
from reflectioncoder.dialogues.tokens import special_ids
from reflectioncoder.dialogues.written_blocks import Marks
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.models.decode import Decoded, More, Request
from reflectioncoder.models.load import load_tokenizer

NUMBERS = (3, 4)
REMARK = "All asserts pass."


def bad(k: int) -> str:
    return f"def add_{k}(x):\n    return -1\n\nassert add_{k}(1) == {k + 1}"


def good(k: int) -> str:
    return f"def add_{k}(x):\n    return x + {k}\n\nassert add_{k}(1) == {k + 1}"


def final(k: int) -> str:
    return f"def add_{k}(x):\n    return {k} + x"


def lessons() -> list[Dialogue]:
    """Dialogues for a model to memorize; the execution blocks come from a real interpreter."""
    found = []
    with Interpreter() as interpreter:
        for k in NUMBERS:
            failed, passed = interpreter.run(bad(k)), interpreter.run(good(k))
            assert failed.exception == "AssertionError"
            assert passed.ok
            blocks = [
                Block("code", bad(k)), Block("execution", failed.text), Block("text", f"It must add {k}."),
                Block("code", good(k)), Block("execution", passed.text), Block("text", REMARK),
            ]  # fmt: skip
            found.append(reflection_dialogue(f"Test it. Write `add_{k}`.", blocks, f"Write `add_{k}`.", final(k)))
    return found


def write_problems(path: Path, numbers: list[int]) -> str:
    rows = [
        {"id": f"p{i}", "instruction": f"Write `add_{k}`.", "tests": [f"assert add_{k}(2) == {k + 2}"]}
        for i, k in enumerate(numbers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(folder: Path, model: str, numbers: list[int], output: str = "out", **changes: Any) -> BuildConfig:
    prompts = folder / "prompts.toml"
    prompts.write_text('reflection = "Test it. {problem}"\n')
    known: dict[str, Any] = {"precision": "float32", "device": "cpu", "max_new_tokens": 200, "temperature": 0.0}
    problems = write_problems(folder / "own.jsonl", numbers)
    return BuildConfig(
        output=str(folder / output), problems=problems, sampler="native", workers=1, near_duplicates=1.1,
        chat=ChatConfig(prompts=str(prompts)), native=NativeConfig(model=model, **{**known, **changes}),
    )  # fmt: skip


def run(settings: BuildConfig) -> BuildResult:
    return build(settings, Console(file=io.StringIO(), width=200))


def rejects(output: str) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in map(json.loads, (Path(output) / "rejects.jsonl").open())}


def outcome(settings: BuildConfig) -> dict[str, Any]:
    """Everything that a build reports about its problems, except durations."""
    result = run(settings)
    kept = {d.extra["id"]: d.messages for d in read_jsonl(result.path)} if result.sequences else {}
    lost = {id: (line["reason"], line["sequence"] and line["sequence"]["messages"]) for id, line in
            rejects(settings.output).items()}  # fmt: skip
    return {**kept, **lost}


class Format:
    """Tokenizes text in which special tokens are written by name."""

    def __init__(self, model: str) -> None:
        self.tokenizer = load_tokenizer(model)
        self.special = special_ids(self.tokenizer)
        self.marks = Marks.of(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        found: list[int] = []
        for piece in re.split(r"(<\|\w+\|>|</s>)", text):
            if piece == "</s>":
                found.append(int(self.tokenizer.eos_token_id))
            elif piece in self.special:
                found.append(self.special[piece])
            else:
                found += self.tokenizer.encode(piece, add_special_tokens=False)
        return found


Script = Callable[[int, int], str]


def spoken(request: Request, said: str, known: Format) -> Decoded:
    """Answer a request with the text `said`, checking after each token whether it ends, as real decoding does."""
    ids: list[int] = []
    reason = ""
    assert request.ended is not None
    for id in known.ids(said):
        ids.append(id)
        reason = request.ended(ids) or ("length" if len(ids) >= request.max_new_tokens else "")
        if reason:
            break
    assert reason
    return Decoded(request, tuple(ids), "", reason)


def scripted(known: Format, script: Script, asked: list[tuple[int, int]] | None = None) -> native.DecodeStream:
    """Replace decoding by a script that maps (problem, turn) to a text."""

    def backend(more: More) -> Iterator[Decoded]:
        while (requests := more(True)) is not None:
            for request in requests:
                problem, _, turn = request.task_id.partition(":")
                place = int(problem[1:]), int(turn)
                if asked is not None:
                    asked.append(place)
                yield spoken(request, script(*place), known)

    return backend


def code(text: str, before: str = "") -> str:
    return (f"<|text|>{before}<|endofblock|>" if before else "") + f"<|code|>{text}<|endofblock|>"


def text(content: str) -> str:
    return f"<|text|>{content}<|endofblock|><|endofmessage|>"


def answer(content: str) -> str:
    return text(f"```python\n{content}\n```")
