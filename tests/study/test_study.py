"""A whole study with real commands on a tiny model: killed, continued, with a variant that fails; and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import blocks
import pytest
import tiny
from known import known_answers

from reflectioncoder.cli.main import main
from reflectioncoder.dialogues.dialogue import write_jsonl
from reflectioncoder.files.owned import held

# `base` knows two of four problems; training with a learning rate of 0.1 leaves it none; `broken` cannot be trained.
TEXT = """
title = "Tiny <study>"
output = "OUT"
reference = "base"
keep_models = false
jobs = 2
[train]
model = "MODEL"
data = ["DATA"]
objective = "instruction"
device = "cpu"
precision = "float32"
report_to = ["none"]
batch_size = 2
epochs = 3
warmup_ratio = 0.0
learning_rate = 0.1
[generate]
task = "TASK"
device = "cpu"
precision = "float32"
max_new_tokens = 60
[evaluate]
rounds = 1
[variants.base]
label = "as it is"
trained = false
paper = {HumanEval = 75.0}
[variants.wrecked]
[variants.broken]
train = {max_length = 1}
"""


def write_config(folder: Path, model: str, text: str = TEXT) -> Path:
    write_jsonl(folder / "data.jsonl", known_answers())
    task = blocks.write_problems(folder / "own.jsonl", [3, 4, 5, 6])
    for name, value in (("OUT", folder / "out"), ("MODEL", model), ("DATA", folder / "data.jsonl"), ("TASK", task)):
        text = text.replace(name, str(value))
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def record(step: Path) -> dict:
    return json.loads((step / "step.json").read_text())


pytestmark = pytest.mark.slow  # the first test of this file waits for the study


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a study that was killed while it trained and then run again, and the steps done before the kill."""
    folder = tmp_path_factory.mktemp("study")
    config = write_config(folder, tiny.memorised(known_answers(), folder / "model"))
    process = subprocess.Popen([sys.executable, "-m", "reflectioncoder", "study", str(config)])
    out = folder / "out"
    until = time.monotonic() + 900
    while not list(out.glob("runs/base/seed-0/evaluate/step.json")):  # by then a training is under way, or has ended
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = sorted(path.parent.name for path in out.glob("steps/*/step.json"))
    assert main(["study", str(config)]) == 1  # one variant fails
    return folder, before


@pytest.fixture
def done(studied: tuple[Path, list[str]]) -> Path:
    return studied[0] / "out"


def test_a_killed_study_goes_on_and_repeats_nothing(studied: tuple[Path, list[str]]) -> None:
    folder, before = studied
    out = folder / "out"
    assert [name for name in before if name.startswith("evaluate")]
    for name in before:
        if not name.startswith("train"):
            assert record(out / "steps" / name)["attempts"] == 1
    wrecked = out / "runs" / "wrecked" / "seed-0"
    states = {step: record(wrecked / step)["state"] for step in ("train", "generate", "evaluate")}
    assert set(states.values()) == {"done"}


def test_the_scores_are_those_of_the_verdicts(done: Path) -> None:
    found = json.loads((done / "study.json").read_text())
    rates = {name: row["cells"].get("score", {}).get("value") for name, row in found["variants"].items()}
    for name in ("base", "wrecked"):
        lines = (done / "runs" / name / "seed-0" / "evaluate" / "output" / "results.jsonl").read_text().splitlines()
        passed = [json.loads(line)["passed"] for line in lines]
        assert rates[name]["mean"] == sum(passed) / 4
    assert (rates["base"]["mean"], rates["wrecked"]["mean"], rates["broken"]) == (0.5, 0.0, None)
    (difference,) = found["variants"]["wrecked"]["cells"]["score"]["differences"]
    assert (difference["value"]["mean"], difference["won"], difference["lost"]) == (-0.5, 0.0, 2.0)


def test_what_debugging_reaches_stands_beside_the_first_answers(done: Path) -> None:
    cell = json.loads((done / "study.json").read_text())["variants"]["base"]["cells"]["score"]
    lines = (done / "runs" / "base" / "seed-0" / "evaluate" / "output" / "results_after.jsonl").read_text().splitlines()
    reached = sum(json.loads(line)["passed"] for line in lines) / 4
    assert cell["after"]["mean"] == reached and cell["gap"]["mean"] == reached - 0.5
    assert "gap, points" in (done / "table.md").read_text()


def test_costs_are_counted_in_passes_and_tokens(done: Path) -> None:
    row = json.loads((done / "study.json").read_text())["variants"]["wrecked"]
    result = json.loads((done / "runs" / "wrecked" / "seed-0" / "train" / "output" / "result.json").read_text())
    assert row["tokens"] == result["tokens"] > 0
    assert row["passes"] == 3.0  # two samples of different instructions, three epochs
    assert row["seconds"] > row["train_seconds"] > 0


def test_a_failed_run_is_shown_with_its_log_and_tried_again(
    studied: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = studied
    out = folder / "out"
    table = (out / "table.md").read_text()
    assert "| broken | 0 of 1 |" in table
    assert "- broken, seed 0: train: reflectioncoder train: data" in table
    broken = out / "runs" / "broken" / "seed-0" / "train"
    assert "all 2 samples are longer than max_length = 1" in (broken / "log.txt").read_text()
    attempts = {path.parent.name: record(path.parent)["attempts"] for path in out.glob("steps/*/step.json")}
    assert main(["study", str(folder / "study.toml")]) == 1
    printed = capsys.readouterr()
    assert "train failed for broken, seed 0: reflectioncoder train: data" in printed.err
    assert "as it is" in printed.out and "50.0 [" in printed.out
    again = {path.parent.name: record(path.parent)["attempts"] for path in out.glob("steps/*/step.json")}
    assert {name for name in again if again[name] != attempts[name]} == {os.path.basename(os.readlink(broken))}


def test_the_page_needs_no_other_file_and_escapes_texts(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert "<h1>Tiny &lt;study&gt;</h1>" in page and "as it is" in page and "75.0" in page
    assert "Worse than as it is beyond the noise" in page or "Not told apart from as it is" in page
    assert (
        "src=" not in page and "@import" not in page and "http" not in page.split("<main>")[1].split("config.toml")[0]
    )


def test_models_are_deleted_once_they_are_scored(done: Path) -> None:
    trained = done / "runs" / "wrecked" / "seed-0" / "train"
    assert record(trained)["model_deleted"] and not list(trained.glob("output/*.safetensors"))
    assert (trained / "output" / "log.jsonl").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 3", "epochs = 4", "holds a study whose variant 'wrecked' has train.epochs = 3.0, not 4.0"),
        (
            "[variants.wrecked]",
            "[variants.wrecked]\ntrain = {epochs = 4.0}",
            "'wrecked' has train.epochs = 3.0, not 4.0",
        ),
        ("max_new_tokens = 60", "max_new_tokens = 61", "'base' has scores.score.generate.max_new_tokens = 60, not 61"),
    ],
)
def test_another_study_in_the_folder_is_refused(
    studied: tuple[Path, list[str]], old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = studied
    other = folder / "other.toml"
    other.write_text((folder / "study.toml").read_text().replace(old, new))
    assert main(["study", str(other)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "choose another output" in line


def test_the_dry_run_says_what_is_left(studied: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = studied
    assert main(["study", str(folder / "study.toml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 runs (3 variants, 1 seeds)") and "1 of them to do; 3 of 9 steps" not in printed
    assert main(["study", str(folder / "study.toml"), "--dry-run", "--seeds", "0,1"]) == 0
    more = capsys.readouterr().out
    result = json.loads((folder / "out/runs/wrecked/seed-0/train/output/result.json").read_text())
    assert f"{result['tokens']:,} tokens through the model" in more


def test_before_anything_ran_the_dry_run_counts_tokens_and_names_what_cannot_be_trained(
    studied: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = studied
    assert main(["study", str(folder / "study.toml"), "--output", str(folder / "new"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((folder / "out/runs/wrecked/seed-0/train/output/result.json").read_text())
    assert f"train: 2 steps, {result['tokens']} tokens through the model and 1 steps whose tokens are not" in printed
    assert "all 2 samples are longer than max_length = 1 tokens" in printed
    assert not (folder / "new").exists()


# --- what is refused before anything runs -----------------------------------------------------------------------------


def test_a_missing_model_is_one_line_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, str(tmp_path / "none"))
    assert main(["study", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reflectioncoder study: variant 'base', generate: model ") and "no such directory" in line
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_study_or_command_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.toml").write_text('[variants.x]\nlabel = "x"\n')
    config = write_config(tmp_path, str(tmp_path / "none"))
    assert main(["study", str(config)]) == 2
    assert "holds another study, of the variants x; choose another output" in capsys.readouterr().err
    (out / "config.toml").write_text("count = 3\n")
    assert main(["study", str(config)]) == 2
    assert "holds the output of another command" in capsys.readouterr().err
    (out / "config.toml").unlink()
    (out / "table.md").write_text("mine\n")
    assert main(["study", str(config)]) == 2
    assert "holds table.md, which reflectioncoder study did not write" in capsys.readouterr().err


def test_of_two_at_once_the_second_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, str(tmp_path / "none"))
    with held(tmp_path / "out"):
        assert main(["study", str(config)]) == 2
    assert "another run" in capsys.readouterr().err


def test_a_study_needs_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 2
    assert "there are no variants; name a configuration file" in capsys.readouterr().err
