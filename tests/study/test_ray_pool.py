"""A study on a Ray cluster of this machine has the results of one without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import blocks
import pytest
import tiny
from known import known_answers

from reflectioncoder.cli.main import main

ray = pytest.importorskip("ray", reason="Ray is not installed; run: make setup")

from reflectioncoder.construct.engines.on_ray import OBJECT_STORE  # noqa: E402

TEXT = """
output = "OUT"
jobs = 2
engine = "ENGINE"
[train]
model = "MODEL"
[generate]
task = "TASK"
device = "cpu"
precision = "float32"
max_new_tokens = 60
[variants.base]
trained = false
"""


@pytest.fixture
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this test, whatever else runs on the machine."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise workers wait for everything else on a busy machine
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    size = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": OBJECT_STORE}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **size)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_on_ray_has_the_results_of_one_on_this_machine(tmp_path: Path, own_cluster: None) -> None:
    model = tiny.memorised(known_answers(), tmp_path / "model")
    task = blocks.write_problems(tmp_path / "own.jsonl", [3, 5])
    found = []
    for engine in ("ray", "local"):
        out = tmp_path / engine
        text = TEXT.replace("OUT", str(out)).replace("MODEL", model).replace("TASK", task).replace("ENGINE", engine)
        (tmp_path / f"{engine}.toml").write_text(text)
        assert main(["study", str(tmp_path / f"{engine}.toml")]) == 0
        results = json.loads((out / "study.json").read_text())
        found.append((results["variants"]["base"]["cells"], sorted(path.name for path in out.glob("steps/*"))))
    assert found[0] == found[1]
    assert found[0][0]["score"]["value"]["mean"] == 0.5
