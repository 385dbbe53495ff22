"""A training run and an evaluation written by commit ea0b0a7 can be resumed, and all three give the same results.

`written_by_ea0b0a7.tar.xz` contains the inputs, three interrupted runs of that commit (`build_killed` after 5 of 12
problems, `run_killed` after step 3 of 6, `evaluation_killed` after 3 of 8 verdicts), and the same runs completed
(`build`, `run`, `evaluation`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import EvaluateConfig
from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.construct.build import build
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.compare import compare
from reflectioncoder.evaluate.evaluate import evaluate

ARCHIVE = Path(__file__).parent / "written_by_ea0b0a7.tar.xz"
SAME_PYTHON = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="needs Python 3.11: the ledger in the archive was written by it"
)


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack the archive into the working directory, as its configurations use relative paths."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@SAME_PYTHON
def test_a_build_has_the_same_bytes_apart_from_its_wordings(earlier: Path) -> None:
    """Wordings have version 2, and some sequences have a wrong repair first; all else is as it was."""
    expected = {path.name: path.read_bytes() for path in (earlier / "build").glob("*.json*")}
    shutil.rmtree(earlier / "build")
    build(BuildConfig(output="build", count=12, workers=1, formats=("jsonl",)), Console(file=io.StringIO()))
    names = {"instructions.jsonl", "rejects.jsonl", "contamination.jsonl", "funnel.json"}
    for name in names:
        assert (earlier / "build" / name).read_bytes() == expected[name], name
    found = (earlier / "build" / "sequences.jsonl").read_bytes()
    compared = 0
    texts = (found, expected["sequences.jsonl"])
    rows = [[json.loads(line) for line in text.decode().split("\n") if line] for text in texts]
    for new, old in zip(*rows, strict=True):
        provenance = new.pop("provenance")
        assert provenance.pop("wording_version") == "2"
        was = old.pop("provenance")
        if provenance.pop("wrong_repairs", 0):
            continue
        assert provenance == was
        compared += 1
        for message in (new["messages"][:2], old["messages"][:2]):
            message[0]["content"] = []
            message[1]["content"] = [block for block in message[1]["content"] if block["type"] != "text"]
        assert new == old
    assert compared > 5


@SAME_PYTHON
def test_a_build_with_earlier_wordings_is_not_mixed_with_new_ones(earlier: Path) -> None:
    config = load(BuildConfig, earlier / "build_killed" / "config.toml")
    with pytest.raises(UserError, match="wording_version"):
        build(dataclasses.replace(config, output="build_killed"), Console(file=io.StringIO()))


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [True, False])
def test_a_training_run_has_the_same_losses_resumed_or_from_the_start(earlier: Path, resumed: bool) -> None:
    from reflectioncoder.train.train import train

    config = load(TrainConfig, earlier / "run_killed" / "config.toml")
    expected = [json.loads(line) for line in (earlier / "run" / "log.jsonl").read_text().split("\n") if line]
    if resumed:
        shutil.rmtree(earlier / "run")
        shutil.move(earlier / "run_killed", earlier / "run")
        train(dataclasses.replace(config, resume=True), lambda _: None)
    else:
        train(dataclasses.replace(config, output="again"), lambda _: None)
    found = [
        json.loads(line) for line in Path("run" if resumed else "again", "log.jsonl").read_text().split("\n") if line
    ]
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine) == list(theirs)
        for name in mine.keys() - {"seconds", "tokens_per_second"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name  # rounding depends on the processor


@pytest.mark.parametrize("resumed", [True, False])
def test_an_evaluation_has_the_same_verdicts_resumed_or_from_the_start(earlier: Path, resumed: bool) -> None:
    config = load(EvaluateConfig, earlier / "evaluation" / "config.toml")
    output = "evaluation_killed" if resumed else "again"
    checked: list[int] = []
    score = evaluate(dataclasses.replace(config, output=output), None, lambda done, of: checked.append(done))
    assert (score.pass_at_1, score.n) == (0.625, 8)
    names = ("task_id", "sample", "passed", "outcome", "error", "groups")
    old, new = (
        [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().split("\n") if line]
        for folder in ("evaluation", output)
    )
    assert [[row[name] for name in names] for row in new] == [[row[name] for name in names] for row in old]
    same = ("task", "pass_at_1", "low", "high", "n", "not_run", "k", "tests", "completions", "prompts", "parts")
    facts = [json.loads((Path(folder) / "score.json").read_text()) for folder in ("evaluation", output)]
    assert list(facts[0]) == list(facts[1])
    assert [facts[0][name] for name in same] == [facts[1][name] for name in same]
    assert compare("evaluation", output).difference == 0
