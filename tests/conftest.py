"""Shared fixtures (tokenizer, trained tiny model, real data sets), marks, and the order and distribution of tests."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import blocks
import pytest
import tiny
from places import DATA
from transformers import PreTrainedTokenizerFast

from reflectioncoder.dialogues.dialogue import Dialogue

TESTS = Path(__file__).parent
# The longest files run first; otherwise, with several workers, one of them might run alone at the end.
LONGEST = (
    "end_to_end/test_demo.py",
    "tasks/test_evalplus.py",
    "end_to_end/test_kills.py",
    "cli/test_file_fuzz.py",
    "study/test_study.py",
    "improve/test_improve.py",
    "train/ranks/test_distributed.py",
    "construct/engines/test_on_ray.py",
    "end_to_end/test_benchmarks.py",
    "train/test_lora.py",
    "end_to_end/test_serve.py",
    "end_to_end/test_bootstrap.py",
    "study/test_study.py",
    "train/test_training_options.py",
    "train/test_train.py",
    "train/test_output.py",
    "train/test_on_policy.py",
    "train/test_study_rows.py",
    "construct/attempts/test_build_attempts.py",
    "cli/test_model_fuzz.py",
    "construct/samplers/test_native.py",
    "construct/samplers/test_native_completions.py",
    "construct/test_build_chat.py",
    "tasks/test_multipl_e.py",
    "tasks/test_multipl_e_answers.py",
    "sandbox/test_soak.py",
    "sandbox/test_hostile.py",
)
MARKS = {"data": "data", "learnt": "slow", "base": "slow"}  # fixture: mark of its tests; the last two fixtures train
SPREAD = (
    "tests/end_to_end/test_benchmarks.py",
    "tests/cli/test_file_fuzz.py",
)  # its tests share no fixtures and may run on different workers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, and mark tests by their fixtures."""
    for item in items:
        for name in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[name])
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(TESTS).as_posix(), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all tests of a file on one worker, as they share fixtures; distribute the files of `SPREAD` test by test."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(SPREAD) else str(super()._split_scope(nodeid))

    return ByFile(config, log)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.build_tokenizer()


@pytest.fixture(scope="session")
def learnt() -> list[Dialogue]:
    """The dialogues that `model` has memorized."""
    return blocks.lessons()


@pytest.fixture(scope="session")
def model(learnt: list[Dialogue], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny model that reproduces the dialogues of `learnt`; trained once for all workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tiny.memorised(learnt, tmp_path_factory.mktemp("learnt"))
    folder = tmp_path_factory.getbasetemp().parent / "learnt"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return str(folder) if folder.exists() else tiny.memorised(learnt, folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model and data to train it on (see `training.config`); tests leave it as it is."""
    return tiny.model_and_data(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no real data sets in {DATA}: set REFLECTIONCODER_DATA to the folder of data sets")
    return DATA
