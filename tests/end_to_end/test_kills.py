"""build, generate and evaluate that are killed and started again give the files of a run that was not.

`train` has tests of its own in train/test_output.py. The demo consists of these commands.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from killing import in_child, killed_after, killed_at_move
from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.construct.build import build
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.evaluate import evaluate
from reflectioncoder.generate.completions import Completion
from reflectioncoder.generate.generate import generate
from reflectioncoder.generate.registry import BACKENDS
from reflectioncoder.tasks.registry import get_task, task_options

pytestmark = pytest.mark.slow

LIMIT = 6


class Slow:
    """A back end that answers every prompt with its problem's name, a few milliseconds each."""

    paid = False
    fingerprint = "slow"

    def __init__(self, config: GenerateConfig, task: Any, *_: Any) -> None:
        self.wanted = {(prompt.task_id, 0): f"hash of {prompt.task_id}" for prompt in task.prompts()}

    def load(self) -> None:
        time.sleep(0.01)

    def complete(self, missing: Sequence[tuple[str, int]], keep: Callable[[Completion, int], None]) -> None:
        for key in missing:
            time.sleep(0.01)
            keep(Completion(*key, f"def answer():\n    return {key[0]!r}\n", "raw", self.wanted[key], finish="end"), 5)


@pytest.fixture(scope="module", autouse=True)
def back_end() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BACKENDS, "_entries", {**BACKENDS, "slow": Slow})
        yield


def building(folder: Path) -> None:
    build(BuildConfig(output=str(folder / "out"), count=3, workers=1), Console(file=io.StringIO()))


def generating(folder: Path) -> None:
    generate(GenerateConfig(task="handwritten", backend="slow", limit=LIMIT, output=str(folder / "out" / "c.jsonl")))


def evaluating(folder: Path) -> None:
    completions = folder / "completions.jsonl"
    if not completions.exists():
        task = get_task("handwritten", task_options(GenerateConfig(task="handwritten", limit=LIMIT)))
        rows = [{"task_id": prompt.task_id, "completion": "x = 1\n"} for prompt in task.prompts()]
        completions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = GenerateConfig(task="handwritten", limit=LIMIT)
    evaluate(EvaluateConfig(settings, str(completions), output=str(folder / "out"), workers=1, seconds=5.0))


VERBS = {"build": building, "generate": generating, "evaluate": evaluating}
# Files whose content depends on the run, not on its result.
LEAVE_OUT = (".", "c.toml", "c.versions.json", "config.", "ledger.", "problems", "score.json")


def contents(folder: Path) -> dict[str, str]:
    """The files of an output, without what says when and where they were made."""
    found = {}
    for path in sorted((folder / "out").iterdir()):
        if path.is_file() and not path.name.startswith(LEAVE_OUT):
            text = path.read_bytes().decode("utf-8", "backslashreplace")
            if path.name == "results.jsonl":
                rows = [json.loads(line) for line in text.splitlines()]
                text = json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
            found[path.name] = text
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, str], float]]:
    """The output of a verb that was not killed, and its seconds."""
    known: dict[str, tuple[dict[str, str], float]] = {}

    def get(name: str) -> tuple[dict[str, str], float]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            started = time.monotonic()
            VERBS[name](folder)
            known[name] = contents(folder), time.monotonic() - started
        return known[name]

    return get


def check_readable(folder: Path) -> None:
    """Every line of every file that can be seen after a kill is whole, but for the last one of a growing file."""
    for path in (folder / "out").glob("[!.]*.json*"):
        lines = path.read_text(encoding="utf-8").split("\n")
        for line in lines[:-1] if path.suffix == ".jsonl" else ["".join(lines)]:
            if line:
                json.loads(line)


def kill_often(name: str, folder: Path, whole: Callable[[str], tuple[dict[str, str], float]], kills: int) -> None:
    expected, seconds = whole(name)
    rng = random.Random(f"kill {name}")
    done = 0
    while done < kills:
        if killed_after(lambda: VERBS[name](folder), rng.uniform(0, min(seconds, 3.0))):
            assert contents(folder) == expected
            shutil.rmtree(folder / "out")
        else:
            done += 1
            if (folder / "out").exists():
                check_readable(folder)
    VERBS[name](folder)
    assert contents(folder) == expected


@pytest.mark.parametrize("name", VERBS)
def test_a_command_killed_at_random_moments_gives_the_same_files(name: str, tmp_path: Path, whole: Any) -> None:
    kill_often(name, tmp_path, whole, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_a_command_killed_thirty_times_gives_the_same_files(name: str, tmp_path: Path, whole: Any) -> None:
    kill_often(name, tmp_path, whole, 30)


@pytest.mark.parametrize("name", VERBS)
def test_a_command_killed_between_writing_and_renaming_gives_the_same_files(
    name: str, tmp_path: Path, whole: Any
) -> None:
    expected, _ = whole(name)
    for number in range(1, 40):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = killed_at_move(lambda folder=folder: VERBS[name](folder), number)
        if not ended:
            check_readable(folder) if (folder / "out").exists() else None
            VERBS[name](folder)
        assert contents(folder) == expected
        if ended:
            assert number > 2
            return
    pytest.fail("the command never ended")


@pytest.mark.parametrize("name", VERBS)
def test_of_two_at_once_one_is_refused_and_the_output_is_whole(name: str, tmp_path: Path, whole: Any) -> None:
    expected, _ = whole(name)
    said = tmp_path / "said"

    def one() -> None:
        try:
            VERBS[name](tmp_path)
        except UserError as error:
            with said.open("a") as out:
                out.write(f"{error}\n")

    if name == "evaluate":
        evaluating(tmp_path)  # makes the completions
        shutil.rmtree(tmp_path / "out")
    children = [in_child(one) for _ in range(3)]
    for child in children:
        os.waitpid(child, 0)
    lines = said.read_text().splitlines() if said.exists() else []
    assert all("is writing to it" in line or "is using it" in line for line in lines), lines
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "file"), [("build", "sequences.jsonl"), ("evaluate", "results.jsonl"), ("generate", "c.toml")]
)
def test_another_programs_file_is_not_replaced(name: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text("mine = 1\n")
    with pytest.raises(UserError, match=rf"{file}.* (did not write|not written by)"):
        VERBS[name](tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file]
    assert (tmp_path / "out" / file).read_text() == "mine = 1\n"


def test_an_input_is_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "results.jsonl"
    source.write_text(json.dumps({"task_id": "x", "completion": ""}) + "\n")
    with pytest.raises(UserError, match=r"problem|would overwrite it"):
        evaluate(EvaluateConfig(GenerateConfig(task="handwritten"), str(source), output=str(tmp_path), partial=True))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "instruction": "Write f.", "tests": ["assert f() == 1"]}) + "\n")
    with pytest.raises(UserError, match=r"task .*rows\.jsonl: the output would overwrite it"):
        generate(GenerateConfig(task=str(rows), backend="slow", output=str(rows)))
    problems = tmp_path / "out" / "sequences.jsonl"
    problems.parent.mkdir()
    problems.write_text(rows.read_text())
    with pytest.raises(UserError, match=r"problems .*sequences\.jsonl: the output would overwrite it"):
        build(BuildConfig(problems=str(problems), output=str(tmp_path / "out")), Console(file=io.StringIO()))
