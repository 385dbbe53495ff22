"""What a training run replaces and deletes in its output folder, and what survives a kill."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rank
from ranks import forked, on_file
from training import At, config, interrupt, log, quiet
from transformers import AutoModelForCausalLM

from reflectioncoder.config.train import LoraConfig
from reflectioncoder.errors import UserError
from reflectioncoder.files.owned import MARKER, held
from reflectioncoder.train.checkpoints import newest_checkpoint
from reflectioncoder.train.consolidate import consolidate
from reflectioncoder.train.output import MODEL
from reflectioncoder.train.train import train


@pytest.fixture(scope="module")
def interrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that was interrupted after the fifth; it has checkpoint-2 and checkpoint-4."""
    output = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, output), quiet, [At(5, interrupt)])
    return output


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, not interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(config(base, output), quiet)
    return output


@pytest.fixture
def run(interrupted: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def losses(output: Path) -> list[tuple[float, ...]]:
    return [tuple(line[name] for name in ("step", "loss", "kl", "grad_norm", "tokens")) for line in log(output)]


def test_what_other_programs_left_stays(base: Path, tmp_path: Path) -> None:
    foreign = ("checkpoint-1/model.safetensors", "checkpoint-7/trainer_state.json", "tokenizer_notes.txt", "previous/a",
               "model-notes.safetensors", "runs.txt")  # fmt: skip
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    train(config(base, tmp_path, max_steps=3), quiet)
    train(config(base, tmp_path, max_steps=3, overwrite=True), quiet)
    assert all((tmp_path / name).read_text() == "mine" for name in foreign)
    assert newest_checkpoint(tmp_path) is None and not list(tmp_path.glob("previous-*"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapter_config.json", "tokenizer.json", "vocab.json", "config.toml", "log.jsonl"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_another_programs_file_in_the_place_of_ours_is_not_replaced(
    base: Path, tmp_path: Path, name: str, overwrite: bool
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"holds {name}, which reflectioncoder train did not write; choose another"):
        train(config(base, tmp_path, overwrite=overwrite), quiet)
    assert tree(tmp_path) == {name: hashlib.sha256(b"mine").hexdigest()}


def test_another_programs_checkpoint_in_the_place_of_ours_is_refused_before_the_first_step(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "weights.bin").write_text("mine")
    with pytest.raises(UserError, match=r"checkpoint-4: was not written by reflectioncoder train; move it"):
        train(config(base, tmp_path), quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize("place", ["model", "model/../model", "link"])
def test_the_output_is_not_the_model_that_is_read(base: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(base / "model")
    output = tmp_path / "link" if place == "link" else base / place
    before = tree(base / "model")
    with pytest.raises(UserError, match="is also the output, which would replace it; choose another output"):
        train(config(base, output, overwrite=True), quiet)
    assert tree(base / "model") == before


def test_the_output_does_not_hold_what_is_read(base: Path, run: Path) -> None:
    before = tree(run)
    with pytest.raises(UserError, match=r"model .*checkpoint-4: the output .* would delete it"):
        train(config(base, run, model=str(run / "checkpoint-4"), overwrite=True), quiet)
    with pytest.raises(UserError, match=r"eval_data .*log\.jsonl: the output would overwrite it"):
        train(config(base, run, eval_data=(str(run / "log.jsonl"),), eval_steps=1, overwrite=True), quiet)
    assert tree(run) == before


def test_another_commands_output_is_refused(base: Path, tmp_path: Path, interrupted: Path) -> None:
    consolidate(interrupted, tmp_path / "out")
    with pytest.raises(UserError, match="holds the output of consolidate; choose another output"):
        train(config(base, tmp_path / "out", overwrite=True), quiet)


def test_a_second_run_in_the_same_output_is_refused(base: Path, tmp_path: Path) -> None:
    with held(tmp_path / "run"), pytest.raises(UserError, match=r"run: another run \(process \d+\) is writing to it"):
        train(config(base, tmp_path / "run"), quiet)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_trained_again_stays_until_the_new_one_is_there(base: Path, tmp_path: Path) -> None:
    train(config(base, tmp_path, max_steps=2), quiet)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="interrupted"):
        train(config(base, tmp_path, max_steps=4, overwrite=True), quiet, [At(3, interrupt)])
    found = tree(tmp_path)
    for name, digest in before.items():
        if name not in (MARKER, "config.toml", "config.versions.json", "log.jsonl", "result.json"):
            assert found[name] == digest, name
    for name in ("config.toml", "log.jsonl", "result.json"):
        assert found[f"previous/{name}"] == before[name]
    with pytest.raises(UserError, match="holds checkpoint-2 of an unfinished run"):
        train(config(base, tmp_path, max_steps=4), quiet)
    train(config(base, tmp_path, max_steps=4, resume=True), quiet)
    assert len(log(tmp_path)) == 4 and not (tmp_path / "previous").exists()
    assert tree(tmp_path)[MODEL] != before[MODEL]


def test_a_file_that_was_changed_after_the_run_is_not_replaced(base: Path, tmp_path: Path) -> None:
    train(config(base, tmp_path, max_steps=1), quiet)
    (tmp_path / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"generation_config\.json has 2 bytes .*: changed after the run; move it away"):
        train(config(base, tmp_path, max_steps=1, overwrite=True), quiet)
    assert (tmp_path / "generation_config.json").read_text() == "{}"


def test_a_run_of_an_earlier_version_is_replaced_without_a_marker(base: Path, tmp_path: Path) -> None:
    train(config(base, tmp_path, max_steps=1), quiet)
    (tmp_path / MARKER).unlink()
    with pytest.raises(UserError, match="holds a finished model"):
        train(config(base, tmp_path, max_steps=1), quiet)
    train(config(base, tmp_path, max_steps=2, overwrite=True), quiet)
    assert len(log(tmp_path)) == 2


NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "progress.json")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", NEEDED)
def test_a_checkpoint_that_lacks_a_file_is_refused_and_the_one_before_it_named(
    base: Path, run: Path, name: str, earlier: bool
) -> None:
    if earlier:  # versions before wrote no manifest, and a checkpoint without progress.json was one they ignored
        for manifest in run.glob("checkpoint-*/manifest.json"):
            manifest.unlink()
        if name == "progress.json":
            return
    (run / "checkpoint-4" / name).unlink()
    what = {MODEL: ".*model.*", "rng_state.pth": "rng_state.*"}.get(name, name) if earlier else name
    with pytest.raises(UserError, match=rf"checkpoint-4: cannot resume from it, {what} is missing; checkpoint-2 is "):
        train(config(base, run, resume=True), quiet)
    assert len(log(run)) == 4  # nothing was touched


@pytest.mark.parametrize("name", NEEDED)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_continues(
    base: Path, run: Path, whole: Path, name: str
) -> None:
    path = run / "checkpoint-4" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(b"{" if name == "progress.json" else data)
    with pytest.raises(UserError, match=r"checkpoint-4: cannot resume .*checkpoint-2 is whole: remove checkpoint-4"):
        train(config(base, run, resume=True), quiet)
    if name == "optimizer.pt":
        shutil.rmtree(run / "checkpoint-4")
        train(config(base, run, resume=True), quiet)
        assert losses(run) == losses(whole)


def test_a_damaged_checkpoint_of_an_earlier_version_gives_one_line(
    base: Path, tmp_path: Path, interrupted: Path
) -> None:
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", "model.safetensors"):
        run = tmp_path / name
        shutil.copytree(interrupted, run)
        (run / "checkpoint-4" / "manifest.json").unlink()
        (run / "checkpoint-4" / name).write_bytes(b"\x80half")
        with pytest.raises(UserError, match=r"checkpoint-4.* cannot be read \(") as caught:
            train(config(base, run, resume=True), quiet)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", ['"x"', '{"[]": 1}', '{"log_history": 1}', '{"stateful_callbacks": 3}', "[1]", "{}"])
def test_a_state_that_is_json_and_no_state_gives_one_line(base: Path, run: Path, state: str) -> None:
    (run / "checkpoint-4" / "manifest.json").unlink()
    (run / "checkpoint-4" / "trainer_state.json").write_text(state)
    said = "trainer_state.json is of step 0, not 4" if state == "{}" else r"cannot be read \("
    with pytest.raises(UserError, match=f"checkpoint-4.*{said}") as caught:
        train(config(base, run, resume=True), quiet)
    assert "\n" not in str(caught.value)


def test_resume_does_not_start_again_where_no_checkpoint_is_complete(base: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "optimizer.pt").touch()
    with pytest.raises(UserError, match="checkpoint-2 is not a complete checkpoint"):
        train(config(base, tmp_path, resume=True), quiet)


def test_a_resumed_run_says_nothing_of_tied_weights(base: Path, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(config(base, run, resume=True), quiet)
    assert "missing keys" not in capfd.readouterr().err


def test_the_best_checkpoint_is_kept_beside_the_last_two(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_data": (str(base / "data.jsonl"),), "eval_steps": 1, "save_steps": 1}
    # the first evaluation is the best: the learning rate is so high that the model gets worse
    wild = config(base, tmp_path, max_steps=6, learning_rate=0.5, warmup_ratio=0.0, keep_best=True, **settings)
    with pytest.raises(UserError, match="interrupted"):
        train(wild, quiet, [At(6, interrupt)])
    evaluations = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    best = min(evaluations, key=lambda line: line["eval_loss"])["step"]
    expected = sorted({best, 4, 5})
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")) == expected
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == tmp_path / f"checkpoint-{best}"


def usable(output: Path, finished: bool) -> None:
    """What is left after a kill: whole checkpoints, a whole log, and no half of a model."""
    for line in (output / "log.jsonl").read_text().split("\n")[:-1] if (output / "log.jsonl").exists() else ():
        json.loads(line)
    assert finished or not (output / MODEL).exists() or AutoModelForCausalLM.from_pretrained(output) is not None


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_killed_between_writing_and_renaming_ends_as_if_nothing_had_happened(
    base: Path, tmp_path: Path, whole: Path, step: int
) -> None:
    """Kills before every rename that a run makes; here every 12th, all of them in the slow test below."""
    _kill_at_moves(base, tmp_path, whole, range(step * 6, 200, 12))


@pytest.mark.slow
def test_a_run_killed_before_any_rename_ends_as_if_nothing_had_happened(
    base: Path, tmp_path: Path, whole: Path
) -> None:
    assert _kill_at_moves(base, tmp_path, whole, range(1, 200)) >= 20  # all that there are


def _kill_at_moves(base: Path, folder: Path, whole: Path, numbers: range) -> int:
    for kills, number in enumerate(numbers):
        output = folder / str(number)
        settings = on_file(config(base, output, resume=True), folder / f"settings-{number}")
        process = forked(rank.killed_at_move, folder / "said", settings, number)
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL, (folder / "said").read_text()
        usable(output, False)
        with suppress(UserError):  # the run is finished
            train(config(base, output, resume=True), quiet)
        assert losses(output) == losses(whole)
        assert tree(output)[MODEL] == tree(whole)[MODEL]
        left = {path.name for path in output.iterdir()}
        assert left == {path.name for path in whole.iterdir()}
        shutil.rmtree(output)
    pytest.fail("the run never ended")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_happened(
    base: Path, tmp_path: Path, whole: Path
) -> None:
    rng, kills, output = random.Random(5), 0, tmp_path / "run"
    settings = on_file(config(base, output, resume=True), tmp_path / "settings")
    while kills < 30:
        process = forked(rank.trained, tmp_path / "said", settings)
        process.join(rng.uniform(0.05, 2.5))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        usable(output, process.exitcode == 0)
        if process.exitcode in (0, 2) and (output / MODEL).exists():
            assert losses(output) == losses(whole) and tree(output)[MODEL] == tree(whole)[MODEL]
            shutil.rmtree(output)
        else:
            assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()


def test_of_two_runs_started_at_once_one_is_refused_and_the_other_is_whole(
    base: Path, tmp_path: Path, whole: Path
) -> None:
    output = tmp_path / "run"
    settings = on_file(config(base, output), tmp_path / "settings")
    processes = [forked(rank.trained, tmp_path / f"said-{i}", settings) for i in range(2)]
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [0, 2]
    said = "".join((tmp_path / f"said-{i}").read_text() for i in range(2))
    assert "is writing to it" in said or "holds a finished model" in said
    assert losses(output) == losses(whole) and tree(output)[MODEL] == tree(whole)[MODEL]


def test_an_adapter_replaces_a_model_and_leaves_none_of_its_files(base: Path, tmp_path: Path) -> None:
    train(config(base, tmp_path, max_steps=1), quiet)
    train(config(base, tmp_path, max_steps=1, overwrite=True, lora=LoraConfig(2, output="adapter")), quiet)
    assert not (tmp_path / MODEL).exists() and (tmp_path / "adapter_model.safetensors").exists()
    train(config(base, tmp_path, max_steps=1, overwrite=True), quiet)
    assert (tmp_path / MODEL).exists() and not (tmp_path / "adapter_config.json").exists()
