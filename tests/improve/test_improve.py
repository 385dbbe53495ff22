"""A whole loop with real commands on a tiny model: killed, continued; without sequences; and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import attempting
import blocks
import pytest
import tiny
from known import known_answers

from reflectioncoder.cli.main import main
from reflectioncoder.files.owned import held

# The model knows its wrong answers to `double` and `gains`, its right one to `last`, and the answers to two of the four
# problems of each score. Its learning rate is too small to change any of that.
TEXT = """
title = "Tiny <loop>"
output = "OUT"
start = "MODEL"
rounds = 5
patience = 2
keep_models = "best"
jobs = 2
[build]
problems = "PROBLEMS"
repeats = 0
workers = 1
formats = ["jsonl"]
[build.attempts]
precision = "float32"
device = "cpu"
max_new_tokens = 90
[train]
device = "cpu"
precision = "float32"
report_to = ["none"]
batch_size = 8
max_steps = 1
save_steps = 0
warmup_ratio = 0.0
learning_rate = 1e-9
[generate]
task = "TASK"
device = "cpu"
precision = "float32"
max_new_tokens = 60
"""
ATTEMPTED = ("double", "gains", "last")


def write_problems(path: Path, names: tuple[str, ...]) -> str:
    attempting.write_problems(path)
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if json.loads(row)["id"] in names))
    return str(path)


def write_config(folder: Path, model: str, names: tuple[str, ...] = ATTEMPTED, text: str = TEXT) -> Path:
    task = blocks.write_problems(folder / "held_out.jsonl", [3, 4, 5, 6])
    problems = write_problems(folder / "problems.jsonl", names)
    for name, value in (("OUT", folder / "out"), ("MODEL", model), ("PROBLEMS", problems), ("TASK", task)):
        text = text.replace(name, str(value))
    (folder / "loop.toml").write_text(text)
    return folder / "loop.toml"


def record(step: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((step / "step.json").read_text())
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that knows answers by heart; see above."""
    wrong = [one for one in attempting.answers() if any(f"def {name}(" in one.final_answer for name in ATTEMPTED)]
    return tiny.memorised([*wrong, *known_answers()], tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def looped(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a loop that was killed in round 1 and then run again, and the steps done before the kill."""
    folder = tmp_path_factory.mktemp("loop")
    config = write_config(folder, model)
    out = folder / "out"
    process = subprocess.Popen([sys.executable, "-m", "reflectioncoder", "improve", str(config)])
    until = time.monotonic() + 900
    while not list(out.glob("rounds/1/build/step.json")):  # by then the first training is about to start
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = sorted(path.parent.name for path in out.glob("steps/*/step.json"))
    assert main(["improve", str(config)]) == 0
    return folder, before


@pytest.mark.slow
def test_a_killed_loop_goes_on_and_ends_by_its_score(looped: tuple[Path, list[str]]) -> None:
    folder, before = looped
    out = folder / "out"
    assert [name for name in before if name.startswith("build")]
    assert all(record(out / "steps" / name)["attempts"] == 1 for name in before)
    found = json.loads((out / "improve.json").read_text())
    assert found["ended"] == "Ended after round 2: 2 rounds in a row without a gain."
    made = [(one["attempts"], one["passed"], one["sequences"]) for one in found["rounds"]]
    assert made == [(None, None, None), (3, 1, 2), (3, 1, 2)]
    assert [one["scores"]["stopping"]["mean"] for one in found["rounds"]] == [0.5, 0.5, 0.5]
    assert found["rounds"][2]["differences"]["stopping"]["value"]["mean"] == 0.0


@pytest.mark.slow
def test_each_round_learns_from_the_attempts_of_all(looped: tuple[Path, list[str]]) -> None:
    rounds = looped[0] / "out" / "rounds"
    seen = [json.loads((rounds / f"{n}/train/output/result.json").read_text())["instructions"] for n in (1, 2)]
    assert seen == [3, 3]  # double, gains and last
    lines = (rounds / "2/train/config.toml").read_text().splitlines()
    (data,) = [line for line in lines if line.startswith("data =")]
    assert data.count("/steps/build-") == 2
    sampled = (rounds / "2/build/config.toml").read_text()
    assert f"/{(rounds / '1/train').resolve().name}/output" in sampled


@pytest.mark.slow
def test_the_best_and_the_last_model_are_kept_and_nothing_is_repeated(
    looped: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = looped
    rounds = folder / "out" / "rounds"
    assert not list(rounds.glob("1/train/output/*.safetensors")) and record(rounds / "1/train")["model_deleted"]
    assert list(rounds.glob("2/train/output/*.safetensors"))
    records = {path: path.read_bytes() for path in folder.glob("out/steps/*/step.json")}
    assert main(["improve", str(folder / "loop.toml"), "--dry-run"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["improve", str(folder / "loop.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == 0
    assert {path: path.read_bytes() for path in folder.glob("out/steps/*/step.json")} == records
    assert "Tiny &lt;loop&gt;" in (folder / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps = 1", "max_steps = 2", "holds a loop that has train.max_steps = 1, not 2"),
        ("rounds = 5", "train_from = 'last'", "holds a loop that has train_from = 'start', not 'last'"),
    ],
)
def test_another_loop_in_the_folder_is_refused(
    looped: tuple[Path, list[str]], old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = looped[0] / "other.toml"
    other.write_text((looped[0] / "loop.toml").read_text().replace(old, new))
    assert main(["improve", str(other)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "choose another output" in line


@pytest.mark.slow
def test_a_model_that_makes_no_mistake_ends_the_loop(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, model, ("last",))
    line = "Round 1 made no sequence from 1 attempts (passed at once 1), so the loop ends."
    for _ in range(2):  # the second run finds the first one's attempts
        assert main(["improve", str(config)]) == 1
        out, err = capsys.readouterr()
        assert line in err and line in out and "build failed" not in err
    assert record(next(tmp_path.glob("out/rounds/1/build")))["attempts"] == 1
    assert not list(tmp_path.glob("out/steps/train-*"))


# --- what is refused before anything runs -----------------------------------------------------------------------------


def refused(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()  # saving a model shows its progress
    for more in ([], ["--dry-run"]):
        assert main(["improve", str(config), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
    assert not (config.parent / "out" / "steps").exists()
    return str(line).removeprefix("reflectioncoder improve: ")


def empty_model(folder: Path) -> str:
    """The files of a model that are looked at before anything runs."""
    return tiny.save(folder / "model", tiny.llama(258))


def test_a_missing_first_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, str(tmp_path / "none"))
    assert refused(config, capsys).startswith("round 0, generate: model ")
    config.write_text(config.read_text().replace("start =", "title =", 1).replace("title", "# title", 1))
    assert "key 'start' is missing: name the first model" in refused(config, capsys)


def test_what_is_trained_on_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = empty_model(tmp_path)
    config = write_config(tmp_path, model)
    text = config.read_text()
    problems, held_out = tmp_path / "problems.jsonl", tmp_path / "held_out.jsonl"
    held_out.write_text(held_out.read_text() + problems.read_text().splitlines(keepends=True)[1])
    message = "1 of its 5 held-out problems are among the training problems of [build]"
    assert refused(config, capsys).startswith(f"[generate]: {message}")
    config.write_text(text.replace(str(held_out), str(problems)))
    assert "3 of its 3 held-out problems are among the training problems" in refused(config, capsys)
    blocks.write_problems(tmp_path / "other.jsonl", [5, 6])
    config.write_text(text.replace(str(held_out), str(tmp_path / "other.jsonl")))
    config.write_text(f'{config.read_text()}[scores.final.generate]\ntask = "{held_out}"\n')
    assert refused(config, capsys).startswith(f"[scores.final]: {message}")


def test_what_stops_the_loop_is_not_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, empty_model(tmp_path))
    text = f"{config.read_text()}[scores.final.generate]\nbatch_size = 9\n"
    config.write_text(text)
    message = refused(config, capsys)
    assert message.startswith("[scores.final]: has all 4 problems of the score that stops the loop ([generate])")
    blocks.write_problems(tmp_path / "final.jsonl", [6, 7])
    config.write_text(text.replace("batch_size = 9", f'task = "{tmp_path}/final.jsonl"'))
    assert main(["improve", str(config), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "1 problems of the stopping score are in a reported score and do not count in it" in printed
    assert "at most 5 rounds" in printed and "build: 5 steps, at most 300 answers of at most 90 tokens each" in printed


def test_blocks_need_a_model_that_knows_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, empty_model(tmp_path))
    config.write_text(config.read_text().replace("[build.attempts]", '[build.attempts]\nrepair = "self"'))
    message = refused(config, capsys)
    assert message.startswith(f"start {tmp_path}/model: does not know the special tokens")


def test_folders_in_use_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, str(tmp_path / "none"))
    out = tmp_path / "out"
    with held(out):
        assert main(["improve", str(config)]) == 2
    assert "another run" in capsys.readouterr().err
    out.mkdir(exist_ok=True)
    (out / "table.md").write_text("mine\n")
    assert "holds table.md, which reflectioncoder improve did not write" in refused(config, capsys)
    (out / "config.toml").write_text('seeds = [1]\n[variants.x]\nlabel = "x"\n')
    assert "holds the output of another command; choose another output" in refused(config, capsys)
    assert (out / "table.md").read_text() == "mine\n"
