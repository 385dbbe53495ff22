"""Mutated data files, result folders and ledgers end every command with status 0, 1 or 2, one line, and no traceback.

The files of an earlier build, training run and evaluation are damaged in their JSON and in their bytes, and commands
read them. Programs of the files are not run: the steps that would run them are replaced, as other tests cover them.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reflectioncoder.cli.main import main
from reflectioncoder.construct.conversation.scheduler import Ended
from reflectioncoder.construct.ledger.ledger import Entry, Ledger
from reflectioncoder.dialogues.training_files import read_training
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.results import Result

ARCHIVE = Path(__file__).parents[1] / "end_to_end" / "written_by_ea0b0a7.tar.xz"
SEED = 20_261_130
HANGS = 60  # seconds that one command may take on a busy machine
DEEP = 20_000
RAW = [
    "9" * 5000,
    "[" * DEEP,
    '{"a":' * DEEP,
    "[" * 900 + "]" * 900,
    "1e999",
    "NaN",
    "-0",
    '"\\ud83d"',
    "nul",
    "'a'",
    "",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    "",
    " ",
    "\ud83d",
    "a\x00b",
    "\u2028",
    "x" * 3000,
    [],
    {},
    [[]],
    [1],
]
VALUES += [
    ["a", None],
    {"a": {"b": 1}},
    "/",
    "..",
    "../../etc/passwd",
    "%s",
    "{0}",
    ["assert f(1) == 2"],
    "a\nb",
    "\ufeff",
]


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def late(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {seconds} s, in {frame}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged_json(dice: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced, removed or repeated."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        how = dice.random()
        if how < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.2:
            return {**value, str(dice.choice(VALUES)): value[key]}
        return {**value, key: damaged_json(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.85:
        place = dice.randrange(len(value))
        how = dice.random()
        if how < 0.2:
            return value[:place] + value[place + 1 :]
        if how < 0.3:
            return [*value, value[place]]
        return [*value[:place], damaged_json(dice, value[place]), *value[place + 1 :]]
    return dice.choice(VALUES)


def damaged(dice: random.Random, data: bytes) -> bytes:
    """The bytes of a file with one or two faults."""
    for _ in range(dice.choice((1, 1, 2))):
        how = dice.random()
        lines = data.split(b"\n")
        at = dice.randrange(len(lines))
        if how < 0.55:  # one value in the JSON of a line, or of the whole file
            with suppress(ValueError, RecursionError):
                lines[at] = json.dumps(damaged_json(dice, json.loads(lines[at]))).encode()
                data = b"\n".join(lines)
                continue
            with suppress(ValueError, RecursionError):
                data = json.dumps(damaged_json(dice, json.loads(data)), indent=1).encode()
        elif how < 0.7:  # what is no JSON, or more than a parser takes
            line, raw = lines[at], dice.choice(RAW).encode()
            place = line.find(b":", dice.randrange(len(line) + 1)) + 1
            lines[at] = raw if dice.random() < 0.4 else line[:place] + raw + line[place:][dice.randrange(9) :]
            data = b"\n".join(lines)
        elif how < 0.8:
            data = data[: dice.randrange(len(data) + 1)]
        elif how < 0.95:
            place = dice.randrange(len(data) + 1)
            data = data[:place] + dice.randbytes(dice.randrange(1, 5)) + data[place + dice.randrange(4) :]
        else:
            heads = [
                b"",
                b"\x1f\x8b\x08",
                b"PAR1",
                b"\xff\xfe",
                b"\xef\xbb\xbf",
                b"[",
                b"{",
                b"\x00" * 9,
                b"PK\x03\x04",
            ]
            data = dice.choice(heads) + (data if dice.random() < 0.5 else b"")
    return data


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


def judge(line: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    with no_longer_than(HANGS):
        status = main(line)
    errors = capsys.readouterr().err
    assert status in (0, 1, 2), (line, status)
    assert "Traceback" not in errors, (line, errors)
    if status == 2:
        assert errors.split("\n")[-2].startswith("reflectioncoder "), (line, errors)
        assert len(errors) < 5000, (line, len(errors))
    return status


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
    "generate": (["problems.jsonl"], ["generate", "--task", "FILE", "--dry-run"]),
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


def stub_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the steps that run programs by ones that reject every problem and pass every completion."""

    def reflect(config: object, problems: Sequence[Any], ledger: Ledger, console: object) -> Ended:
        for problem in problems:
            ledger.put(Entry(problem.id, "rejected", "stub", problem.instruction[:9]))
        return Ended()

    def check(task: Any, completions: Sequence[Any], *_: object, **__: object) -> list[Result]:
        return [Result(one.task_id, one.sample, True, "ok", "", 0.0) for one in completions]

    monkeypatch.setattr("reflectioncoder.construct.build._reflect", reflect)
    monkeypatch.setattr("reflectioncoder.construct.build.reflect_by_chat", reflect)
    monkeypatch.setattr("reflectioncoder.evaluate.evaluate.check_all", check)


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


@pytest.mark.parametrize(("fuzz", "inputs"), [(damage_and_run, 104), (damage_ledgers, 24)])
def test_no_damaged_file_ends_in_a_traceback(
    fuzz: Fuzz,
    inputs: int,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fuzz(inputs, archive, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("fuzz", "inputs"), [(damage_and_run, 1300), (damage_ledgers, 300)])
def test_no_damaged_file_of_many_ends_in_a_traceback(
    fuzz: Fuzz,
    inputs: int,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fuzz(inputs, archive, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("inputs", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_no_damaged_training_file_ends_in_a_traceback(inputs: int, archive: Path, tmp_path: Path) -> None:
    damage_training_files(inputs, archive, tmp_path)
