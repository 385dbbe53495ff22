"""A build gives the same bytes for any number of workers, however often it is killed and resumed."""

from __future__ import annotations

import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import pytest
from processes import attended
from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import load, to_toml
from reflectioncoder.construct.build import build
from reflectioncoder.construct.export import FILES
from reflectioncoder.construct.ledger.ledger import Ledger
from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.problems.procedural import problems as procedural

CONFIG = BuildConfig(count=12, seed=5, levels=(1, 2), workers=2)


def settings(output: Path, **changes: object) -> BuildConfig:
    return BuildConfig(**{**vars(CONFIG), "output": str(output), **changes})  # type: ignore[arg-type]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def files(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in (*FILES, "sequences.parquet", "README.md")}


def recorded(output: Path) -> dict[str, str]:
    """The entries in the ledger, read with plain SQLite."""
    try:
        database = sqlite3.connect(f"file:{output / 'ledger.sqlite'}?mode=ro", uri=True)
        rows = database.execute("SELECT id, payload FROM problems").fetchall()
        database.close()
    except sqlite3.Error:
        return {}
    return dict(rows)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reference")
    build(settings(output), quiet())
    return output


def test_files_hold_the_sequences_and_the_funnel_adds_up(reference: Path) -> None:
    problems = {problem.id: problem for problem in procedural.procedural_problems(12, 5, "train", (1, 2))}
    sequences = read_jsonl(reference / "sequences.jsonl")
    plain = read_jsonl(reference / "instructions.jsonl")
    rejects = [json.loads(line) for line in (reference / "rejects.jsonl").read_text().splitlines()]
    funnel = json.loads((reference / "funnel.json").read_text())
    assert len(sequences) >= 8
    kept = [str(sequence.extra["id"]) for sequence in sequences]
    assert Counter(kept + [reject["id"] for reject in rejects]) == Counter(problems.keys())
    assert kept == [id for id in problems if id in kept]  # in the order of the problems
    assert funnel.pop("problems") - funnel.pop("sequences") == sum(funnel.values()) == len(rejects)
    for sequence, answer in zip(sequences, plain, strict=True):
        problem = problems[str(sequence.extra["id"])]
        assert sequence.rounds >= 2
        assert sequence.extra["source"] == "procedural"
        assert answer.extra["id"] == problem.id
        assert answer.messages == sequence.messages[2:]
        assert answer.messages[0].blocks[0].content == problem.instruction
        assert answer.final_answer.startswith("```python\n")
    assert load(BuildConfig, reference / "config.toml").count == 12
    assert (reference / "config.versions.json").is_file()


@pytest.mark.slow
def test_one_worker_gives_the_same_bytes_as_two(reference: Path, tmp_path: Path) -> None:
    build(settings(tmp_path, workers=1), quiet())
    assert files(tmp_path) == files(reference)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def start(output: Path, config: BuildConfig) -> subprocess.Popen[str]:
    toml = output.parent / f"{output.name}.toml"
    toml.write_text(to_toml(config))
    command = [sys.executable, "-m", "reflectioncoder", "build", "--config", str(toml)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=attended)


def until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_twice_and_started_again_gives_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    before: dict[str, str] = {}
    for target in (2, 6):
        process = start(output, settings(output))
        until(lambda target=target: len(recorded(output)) >= target)
        family = children(process.pid)
        family += [grandchild for child in family for grandchild in children(child)]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = recorded(output)
        assert before.items() <= after.items()  # no finished problem is lost
        before = after
        assert len(family) >= 4  # two workers and their interpreters
        until(lambda family=family: not any(map(alive, family)), 15)
    assert len(before) < 12
    console = quiet()
    build(settings(output), console)
    assert f"resuming, {len(before)} problems are finished" in said(console)
    assert before.items() <= recorded(output).items()
    assert files(output) == files(reference)


@pytest.mark.slow
def test_ctrl_c_says_one_line_and_keeps_what_is_finished(reference: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start(output, settings(output))
    until(lambda: len(recorded(output)) >= 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(errors.splitlines()) == 1
    assert "finished work is kept" in errors
    assert 2 <= len(recorded(output)) < 12
    build(settings(output), quiet())
    assert files(output) == files(reference)


def test_a_finished_build_is_not_done_again(reference: Path) -> None:
    console, before = quiet(), files(reference)
    result = build(settings(reference, workers=1), console)  # the number of workers may change
    assert "already finished" in said(console)
    assert result.sequences == result.funnel["sequences"] == len(read_jsonl(result.path))
    assert result.seconds < 5
    assert files(reference) == before
    (reference / "sequences.jsonl").unlink()
    build(settings(reference), quiet())  # a deleted file is restored from the ledger
    assert files(reference) == before
    build(settings(reference, formats=("jsonl", "parquet", "dataset")), quiet())  # as are other formats
    assert len(datasets.load_from_disk(str(reference / "dataset"))) == result.sequences


def test_a_changed_configuration_is_refused_and_changes_nothing(reference: Path) -> None:
    before = files(reference) | {"config": (reference / "config.toml").read_bytes()}
    with pytest.raises(UserError, match=r"other settings \(count was 12, is 13, .*choose another output directory"):
        build(settings(reference, count=13), quiet())
    assert files(reference) | {"config": (reference / "config.toml").read_bytes()} == before


def test_a_second_build_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path, {}), pytest.raises(UserError, match=r"another build .* is using it"):
        build(settings(tmp_path), quiet())


def test_own_problems_are_decontaminated_deduplicated_and_filtered(tmp_path: Path) -> None:
    good = procedural.procedural_problems(2, 5, "train", (1,))
    rows = [{"id": problem.id, "instruction": problem.instruction, "solution": problem.solution,
             "tests": list(problem.tests), "entry_point": problem.entry_point} for problem in good]  # fmt: skip
    spaced = {**rows[0], "id": "copy", "instruction": f"{rows[0]['instruction']} "}
    known = {
        **rows[1],
        "id": "known",
        "instruction": "Count the letters of a text that come after the tenth one in it.",
    }
    reads = {**rows[1], "id": "reads", "solution": f"open\n{rows[1]['solution']}"}
    wrong = {**rows[1], "id": "wrong", "tests": [f"assert {rows[1]['entry_point']} is None"]}
    untested = {**rows[1], "id": "untested", "tests": []}
    source, banned = tmp_path / "own.jsonl", tmp_path / "banned.jsonl"
    problems = [rows[0], spaced, known, reads, wrong, untested, {"id": "bad"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in problems))
    banned.write_text(
        json.dumps({"prompt": "Please count the letters of a text that come after the tenth one!"}) + "\n"
    )
    console = quiet()
    output = tmp_path / "out"
    result = build(settings(output, problems=str(source), count=99, decontaminate=(str(banned),)), console)
    reasons = {line["id"]: line["reason"] for line in map(json.loads, (output / "rejects.jsonl").open())}
    assert reasons == {
        "copy": "near_duplicate",
        "known": "contaminated",
        "reads": "input_output",
        "wrong": "solution_fails_its_tests",
        "untested": "no_tests",
    }
    assert list(result.funnel) == [
        "skipped_rows", "problems", "contaminated", "no_tests", "solution_fails_its_tests", "input_output",
        "near_duplicate", "sequences",
    ]  # fmt: skip
    assert (result.sequences, result.funnel["skipped_rows"], result.funnel["problems"]) == (1, 1, 6)
    (line,) = map(json.loads, (output / "contamination.jsonl").open())
    # Of the nine runs of five words in the benchmark's prompt, all but "please count the letters of" occur.
    assert (line["id"], line["reference"], line["share"]) == ("known", f"file {banned}, line 1", round(8 / 9, 4))
    assert line["example"] == "count the letters of a text that come after the tenth one"
    assert "own.jsonl, line 7: no column 'instruction'" in said(console)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count = 0"),
        ({"problems": "handwritten"}, "never trained on"),
        ({"problems": "none.jsonl"}, "no such file"),
        ({"decontaminate": ("none.jsonl",)}, "no such file"),
        ({"formats": ("csv",)}, "'csv' is not one of jsonl, parquet, dataset"),
    ],
)
def test_bad_input_gives_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(settings(tmp_path, **changes), quiet())
    assert "\n" not in str(caught.value)
