"""Mutated data files, result folders and ledgers end every command with status 0, 1 or 2, one line, and no traceback.

The files of an earlier build, training run and evaluation are damaged in their JSON and in their bytes, and commands
read them. Programs of the files are not run: the steps that would run them are replaced, as other tests cover them.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from damage import HANGS, RAW, SEED, damaged, damaged_json, judge, no_longer_than

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.construct.conversation.scheduler import Ended
from reflectioncoder.construct.ledger.ledger import Entry, Ledger
from reflectioncoder.construct.reflect import WITHOUT_CONVERSATION
from reflectioncoder.dialogues.training_files import read_training
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.results import Result
from reflectioncoder.generate.backend import Keep, SampleKey
from reflectioncoder.generate.completions import Completion
from reflectioncoder.generate.generate import generate
from reflectioncoder.generate.registry import BACKENDS

ARCHIVE = Path(__file__).parents[1] / "end_to_end" / "written_by_ea0b0a7.tar.xz"


def damage_ledger(dice: random.Random, path: Path) -> None:
    """Damage a ledger in its bytes, or in the JSON of one of its rows."""
    if dice.random() < 0.4:
        path.write_bytes(damaged(dice, path.read_bytes()))
        return
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error):
        table = dice.choice([name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")])
        columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        column, how = dice.choice(columns), dice.random()
        rows = database.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall()
        if how < 0.1:
            database.execute(f'DROP TABLE "{table}"')
        elif how < 0.2:
            database.execute(f'DELETE FROM "{table}"')
        elif rows:
            row, old = dice.choice(rows)
            new: Any = dice.choice([None, -1, 2**62, b"\x00\xff", "x", *RAW])
            with suppress(ValueError, TypeError):
                new = json.dumps(damaged_json(dice, json.loads(old))) if how < 0.7 else new
            database.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (new, row))
        database.commit()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(folder, filter="data")
    shutil.rmtree(folder / "run_killed")
    for large in ("run/model.safetensors", "run/tokenizer.json"):
        (folder / large).unlink()
    answers = {"problem": "p/0", "number": 0, "text": "```python\nx = 1\n```", "tokens_in": 1, "tokens_out": 2}
    (folder / "answers.jsonl").write_text(json.dumps(answers) + "\n")
    (folder / "prompts.toml").write_text('version = "a"\nreflection = ["Solve {problem}"]\nno_code = "none"\n')
    plain = {
        "task_id": "t/0",
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(c): ...",
    }
    (folder / "references.jsonl").write_text(json.dumps({**plain, "entry_point": "f"}) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(BACKENDS._entries, "transformers", Lazy)
        generate(GenerateConfig(task="problems.jsonl", output="made.jsonl"))
    return folder


# name: (files of which one is damaged, words of the command)
COMMANDS: dict[str, tuple[Sequence[str], list[str]]] = {
    "inspect": (["data.jsonl", "build/sequences.jsonl"], ["inspect", "FILE", "2"]),
    "problems": (["problems.jsonl"], ["build", "--problems", "FILE", "--output", "new", "--count", "9"]),
    "sequences as problems": (
        ["build/sequences.jsonl"],
        "build --problems FILE --fields messages --output new --sampler chat --chat.model m"
        " --chat.base_url http://127.0.0.1:9/v1".split(),
    ),
    "references": (
        ["references.jsonl", "problems.jsonl"],
        ["build", "--count", "2", "--decontaminate", "FILE", "--output", "new"],
    ),
    "replay": (
        ["answers.jsonl", "prompts.toml"],
        "build --sampler replay --chat.replay answers.jsonl --chat.prompts prompts.toml --problems problems.jsonl"
        " --output new".split(),
    ),
    "completions": (
        ["completions.jsonl", "problems.jsonl"],
        ["evaluate", "problems.jsonl", "--completions", "completions.jsonl", "--output", "new", "--partial"],
    ),
    "an evaluation goes on": (
        ["evaluation_killed/unfinished.jsonl", "completions.jsonl"],
        ["evaluate", "problems.jsonl", "--completions", "completions.jsonl", "--output", "evaluation_killed"],
    ),
    "generate": (["problems.jsonl"], ["generate", "--task", "FILE", "--output", "new.jsonl"]),
    "a generation goes on": (
        ["made.jsonl", "made.toml", "made.model.json", "made.versions.json", "problems.jsonl"],
        ["generate", "--task", "problems.jsonl", "--output", "made.jsonl"],
    ),
    "dry run of a generation": (
        ["made.jsonl", "made.toml", "made.model.json", "problems.jsonl"],
        ["generate", "--task", "problems.jsonl", "--output", "made.jsonl", "--dry-run"],
    ),
    "dry run of a build": (
        ["answers.jsonl", "prompts.toml", "problems.jsonl", "references.jsonl"],
        "build --sampler replay --chat.replay answers.jsonl --chat.prompts prompts.toml --problems problems.jsonl"
        " --decontaminate references.jsonl --output new --dry-run".split(),
    ),
    "dry run of an evaluation": (
        ["completions.jsonl", "problems.jsonl", "evaluation/score.json", "evaluation/config.toml"],
        "evaluate problems.jsonl --completions completions.jsonl --output evaluation --partial --dry-run".split(),
    ),
    "compare": (
        ["evaluation/results.jsonl", "evaluation/score.json"],
        ["compare", "evaluation", "completed", "--json"],
    ),
    "table": (["evaluation/score.json"], ["table", "evaluation"]),
    "report of an evaluation": (
        [
            "evaluation/results.jsonl",
            "evaluation/score.json",
            "evaluation/config.toml",
            "evaluation/config.versions.json",
        ],
        ["report", "evaluation"],
    ),
    "report of a run": (
        ["run/log.jsonl", "run/config.toml", "run/config.versions.json", "run/result.json"],
        ["report", "run"],
    ),
    "report of a build": (
        ["build/sequences.jsonl", "build/funnel.json", "build/rejects.jsonl", "build/config.toml"],
        ["report", "build"],
    ),
}


class Lazy:
    """A decoding back end that completes every prompt with `pass`."""

    paid = False
    fingerprint = "lazy"

    def __init__(self, config: GenerateConfig, task: Any, *_: object) -> None:
        self.wanted = {(prompt.task_id, k): "hash" for prompt in task.prompts() for k in range(config.samples)}

    def load(self) -> None:
        """There is nothing to load."""

    def complete(self, missing: Sequence[SampleKey], keep: Keep) -> None:
        for task_id, sample in missing:
            keep(Completion(task_id, sample, "pass", "pass", "hash"), 1)


def stub_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the steps that run programs by ones that reject every problem and pass every completion."""

    def reflect(config: object, problems: Sequence[Any], ledger: Ledger, console: object) -> Ended:
        for problem in problems:
            ledger.put(Entry(problem.id, "rejected", "stub", problem.instruction[:9]))
        return Ended()

    def check(task: Any, completions: Sequence[Any], *_: object, **__: object) -> list[Result]:
        return [Result(one.task_id, one.sample, True, "ok", "", 0.0) for one in completions]

    def interpreter(*_: object, **__: object) -> Any:
        return nullcontext()

    for module in ("construct.build", "evaluate.evaluate"):
        monkeypatch.setattr(f"reflectioncoder.{module}.Interpreter", interpreter)
    monkeypatch.setitem(BACKENDS._entries, "transformers", Lazy)
    monkeypatch.setitem(WITHOUT_CONVERSATION, "mutation", reflect)  # type: ignore[arg-type]
    monkeypatch.setattr("reflectioncoder.construct.build.reflect_by_chat", reflect)
    monkeypatch.setattr("reflectioncoder.evaluate.evaluate.check_all", check)
    monkeypatch.setattr("reflectioncoder.tasks.base.Task.interpreter", lambda *_, **__: nullcontext())


def damage_and_run(
    inputs: int, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage a file for each input in turn, and run its command."""
    monkeypatch.chdir(tmp_path)
    stub_the_programs(monkeypatch)
    dice = random.Random(SEED + inputs)
    seen = []
    for turn in range(inputs):
        name = list(COMMANDS)[turn % len(COMMANDS)]
        files, words = COMMANDS[name]
        file = dice.choice(list(files))
        for old in tmp_path.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for part in {Path(item).parts[0] for item in (*files, *words, "problems.jsonl", "completions.jsonl")}:
            source = archive / part
            if source.is_dir():
                shutil.copytree(source, tmp_path / part)
            elif source.is_file():
                shutil.copy(source, tmp_path / part)
        if name == "compare":
            shutil.copytree(archive / "evaluation", tmp_path / "completed")
        (tmp_path / file).write_bytes(damaged(dice, (archive / file).read_bytes()))
        try:
            seen.append(judge([file if word == "FILE" else word for word in words], capsys))
        except BaseException:
            shutil.copy(tmp_path / file, tmp_path.parent / "damaged")
            print(f"input {turn}: {name}, {file}, kept as {tmp_path.parent / 'damaged'}")
            raise
    assert 0.1 * inputs < seen.count(2) < 0.9 * inputs  # many inputs are bad, and many are harmless


def damage_ledgers(
    inputs: int, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stub_the_programs(monkeypatch)
    dice = random.Random(SEED + inputs)
    for turn in range(inputs):
        shutil.rmtree(tmp_path / "build_killed", ignore_errors=True)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        shutil.copytree(archive / "build_killed", tmp_path / "build_killed")
        damage_ledger(dice, tmp_path / "build_killed" / "ledger.sqlite")
        again = ["build", "--config", "build_killed/config.toml", "--output", "build_killed"]
        line = (["build", "status", "build_killed"], again, [*again, "--fork", "new"])[turn % 3]
        judge(line, capsys)


def damage_training_files(inputs: int, archive: Path, tmp_path: Path) -> None:
    dice = random.Random(SEED + inputs)
    read = 0
    for turn in range(inputs):
        file = archive / ("data.jsonl", "build/sequences.jsonl")[turn % 2]
        path = tmp_path / "damaged.jsonl"
        path.write_bytes(damaged(dice, file.read_bytes()))
        with no_longer_than(HANGS):
            message = ""
            try:
                read += bool(read_training(path))
            except UserError as error:
                message = str(error)
            assert "\n" not in message
            message.encode()
    assert 0.1 * inputs < read < 0.95 * inputs


Fuzz = Callable[..., None]


@pytest.mark.parametrize(
    ("fuzz", "inputs"),
    [
        (damage_and_run, 52),
        (damage_ledgers, 24),
        pytest.param(damage_and_run, 700, marks=pytest.mark.slow),
        pytest.param(damage_ledgers, 200, marks=pytest.mark.slow),
    ],
)
def test_no_damaged_file_ends_in_a_traceback(
    fuzz: Fuzz,
    inputs: int,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fuzz(inputs, archive, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("inputs", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_damaged_training_file_ends_in_a_traceback(inputs: int, archive: Path, tmp_path: Path) -> None:
    damage_training_files(inputs, archive, tmp_path)
