"""What several test files share: a tiny tokenizer, and the folder of real data where it is there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import blocks
import pytest
import tiny
from places import DATA
from transformers import PreTrainedTokenizerFast

from reflectioncoder.dialogues.dialogue import Dialogue

TESTS = Path(__file__).parent
# With several workers the longest files go first, so that none of them is left alone at the end.
LONGEST = (
    "end_to_end/test_demo.py",
    "train/ranks/test_distributed.py",
    "construct/engines/test_on_ray.py",
    "sandbox/test_hostile.py",
    "train/test_lora.py",
    "end_to_end/test_serve.py",
    "end_to_end/test_bootstrap.py",
    "train/test_training_options.py",
    "train/test_train.py",
    "tasks/test_evalplus.py",
    "construct/samplers/test_native.py",
    "construct/samplers/test_native_completions.py",
    "construct/test_build_chat.py",
    "tasks/test_multipl_e.py",
    "sandbox/test_soak.py",
)
MARKS = {"data": "data", "learnt": "slow", "base": "slow"}  # what a fixture says of its tests; the last two train
SPREAD = ("end_to_end/test_benchmarks.py",)  # tests that share nothing and take long: each goes where there is room


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, which share fixtures, on one worker, and mark tests as their fixtures say."""
    places = [item.path.relative_to(TESTS).as_posix() for item in items]
    for item, place in zip(items, places, strict=True):
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid if place in SPREAD else place))
        for name in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[name])
    rank = {place: number for number, place in enumerate((*LONGEST[:5], *SPREAD, *LONGEST[5:]))}
    order = sorted(range(len(items)), key=lambda i: rank.get(places[i], len(rank)))
    items[:] = [items[i] for i in order]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.build_tokenizer()


@pytest.fixture(scope="session")
def learnt() -> list[Dialogue]:
    """Dialogues that `model` knows by heart."""
    return blocks.lessons()


@pytest.fixture(scope="session")
def model(learnt: list[Dialogue], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny model that writes the dialogues of `learnt`; trained once for all workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tiny.memorised(learnt, tmp_path_factory.mktemp("learnt"))
    folder = tmp_path_factory.getbasetemp().parent / "learnt"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return str(folder) if folder.exists() else tiny.memorised(learnt, folder)


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the folder of real data sets, {DATA}, is not there; set REFLECTIONCODER_DATA")
    return DATA
