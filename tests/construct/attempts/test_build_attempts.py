"""`build --sampler attempts`: files, resuming after a kill, samples, errors, and a real model."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import attempting
import pytest
import tiny
from attempting import Remembered
from killing import ended, in_child
from rich.console import Console

from reflectioncoder.config.build import AttemptsConfig, BuildConfig
from reflectioncoder.construct.build import BuildResult, build
from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.dialogues.training_files import read_training
from reflectioncoder.errors import UserError
from reflectioncoder.files.folders import files_of
from reflectioncoder.generate.registry import BACKENDS

pytestmark = pytest.mark.slow

FILES = ("sequences.jsonl", "passed.jsonl", "instructions.jsonl", "rejects.jsonl", "funnel.json", "README.md")
FUNNEL = {
    "problems": 7, "no_code": 1, "no_usable_failure": 1, "passed_at_once": 1, "repair_too_large": 1, "input_output": 1,
    "sequences": 2,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def back_end() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BACKENDS, "_entries", {**BACKENDS, "remembered": Remembered})
        yield


@pytest.fixture(autouse=True)
def fresh() -> None:
    Remembered.asked, Remembered.die_after, Remembered.finish = [], 0, "end"


def settings(folder: Path, **attempts: object) -> BuildConfig:
    problems = folder / "problems.jsonl"
    if not problems.exists():
        attempting.write_problems(problems)
    return BuildConfig(
        sampler="attempts", problems=str(problems), workers=1, output=str(folder / "out"), formats=("jsonl",),
        seconds=1.0,
        attempts=AttemptsConfig(**{"backend": "remembered", **attempts}),  # type: ignore[arg-type]
    )  # fmt: skip


def run(config: BuildConfig) -> BuildResult:
    return build(config, Console(file=io.StringIO(), width=200))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    Remembered.asked = []
    run(settings(folder))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "out" / name).read_bytes() for name in FILES}


def test_what_fails_is_a_sequence_and_what_passes_a_plain_sample(reference: Path) -> None:
    assert json.loads((reference / "out" / "funnel.json").read_text()) == FUNNEL
    sequences = read_jsonl(reference / "out" / "sequences.jsonl")
    assert [item.extra["id"] for item in sequences] == ["double", "gains"]
    (passed,) = read_jsonl(reference / "out" / "passed.jsonl")
    assert passed.extra["id"] == "last"
    assert passed.final_answer == f"```python\n{attempting.ROWS['last'][3]}```"
    rejects = [json.loads(line)["id"] for line in (reference / "out" / "rejects.jsonl").read_text().splitlines()]
    assert rejects == ["spin", "prose", "wipe", "count"]
    # training on the folder reads the sequences, their last rounds, and the plain samples
    assert [path.name for path in files_of(str(reference / "out"), "train")][-1] == "passed.jsonl"
    assert len(read_training(reference / "out")) == 5


def test_a_build_that_is_killed_while_decoding_makes_no_attempt_twice(reference: Path, tmp_path: Path) -> None:
    config = settings(tmp_path)
    Remembered.die_after = 3
    assert not ended(in_child(lambda: run(config)))
    Remembered.die_after = 0
    run(config)
    assert [id for id, _ in Remembered.asked] == list(attempting.ROWS)[3:]
    assert files(tmp_path) == files(reference)


def test_samples_have_ids_of_their_own_and_equal_ones_are_kept_once(tmp_path: Path) -> None:
    result = run(dataclasses.replace(settings(tmp_path, samples=2, temperature=0.5), count=3))
    assert Remembered.asked == [(name, k) for name in ("double", "gains", "last") for k in (0, 1)]
    sequences = read_jsonl(tmp_path / "out" / "sequences.jsonl")
    assert [item.extra["id"] for item in sequences] == ["double#1", "gains#1"]
    assert [item.extra["id"] for item in read_jsonl(tmp_path / "out" / "passed.jsonl")] == ["last#1"]
    assert result.funnel == {"problems": 6, "passed_at_once": 1, "near_duplicate": 3, "sequences": 2}


def test_a_cut_answer_is_no_attempt(tmp_path: Path) -> None:
    Remembered.finish = "length"
    result = run(dataclasses.replace(settings(tmp_path), count=1))
    # the fence after the code is closed, so nothing of the code is missing
    assert result.sequences == 1


def test_another_model_does_not_add_to_the_attempts_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(settings(tmp_path), count=2)
    Remembered.die_after = 1
    assert not ended(in_child(lambda: run(config)))
    Remembered.die_after = 0
    monkeypatch.setattr(Remembered, "fingerprint", "other weights")
    with pytest.raises(UserError, match="its attempts were made by another model; choose another output"):
        run(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 2}, "several samples of greedy decoding are all the same"),
        ({"samples": 0}, "attempts.samples = 0: give a number above 0"),
        ({"largest_repair": 0.0}, r"attempts.largest_repair = 0.0: give a share in \(0, 1\]"),
        ({"backend": "transformers", "model": "nowhere/nothing/x"}, "nowhere/nothing/x"),
        ({"backend": "server"}, "chat.base_url"),
    ],
)
def test_bad_settings_are_one_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        run(settings(tmp_path, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_real_model_gives_what_its_known_answers_give(reference: Path, tmp_path: Path) -> None:
    some = [item for item in attempting.answers() if "double" in item.final_answer or "last" in item.final_answer]
    model = tiny.memorised(some, tmp_path / "model")
    rows = [json.loads(line) for line in (reference / "problems.jsonl").read_text().splitlines()]
    (tmp_path / "problems.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in rows if row["id"] in ("double", "last"))
    )
    config = settings(tmp_path, backend="transformers", model=model, precision="float32", device="cpu")
    assert run(config).sequences == 1
    for name, id in (("sequences.jsonl", "double"), ("passed.jsonl", "last")):
        (mine,) = read_jsonl(tmp_path / "out" / name)
        (theirs,) = [item for item in read_jsonl(reference / "out" / name) if item.extra["id"] == id]
        assert mine.messages == theirs.messages
        assert mine.extra["provenance"]["model"] == model  # type: ignore[index]
