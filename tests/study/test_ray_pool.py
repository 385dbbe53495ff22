"""A study on a Ray cluster of this machine has the results of one without."""

from __future__ import annotations

import json
from pathlib import Path

import blocks
import pytest
import tiny
from known import known_answers

from reflectioncoder.cli.main import main

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


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_on_ray_has_the_results_of_one_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise it waits for everything else on a busy machine
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
