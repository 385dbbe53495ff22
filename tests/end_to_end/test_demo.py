"""The whole demo at a smoke size: a micro model, real sequences, real trainings and scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from beginner import make_beginner

from reflectioncoder.cli.main import main
from reflectioncoder.config.demo import DemoConfig
from reflectioncoder.config.study import run_settings
from reflectioncoder.config.toml import to_toml
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.demo import demo_study, describe_demo, run_demo, to_look_at
from reflectioncoder.errors import UserError

ROWS = ("before", "plain", "reflection", "answers", "plain_equal_tokens")


def test_the_rows_differ_in_data_objective_and_tokens_only() -> None:
    study = demo_study(DemoConfig())
    assert tuple(study.variants) == ROWS
    assert (study.reference, study.token_reference) == ("plain", "plain_equal_tokens")
    changed = {key for variant in study.variants.values() for key in variant.get("train", {})}
    assert changed == {"data", "objective"}
    assert study.variants["plain_equal_tokens"]["tokens_of"] == "reflection"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": 0}, "problems = 0: must be at least 1"),
        ({"sequences": 9, "problems": 8}, "sequences = 9: must be at most problems = 8"),
    ],
)
def test_bad_sizes_are_one_line(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        demo_study(DemoConfig(**changes))  # type: ignore[arg-type]


def test_a_folder_of_something_else_is_refused_before_a_model_is_made(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(TrainConfig()))
    with pytest.raises(UserError, match="holds the output of another command"):
        run_demo(DemoConfig(output=str(tmp_path)))


def test_the_description_names_the_model_that_must_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    assert describe_demo(DemoConfig()).startswith(f"pretrain: the model micro into {tmp_path}/micro-")


SMOKE = DemoConfig(problems=3, sequences=2, passes=1, heldout=4, seeds=(3,))


@pytest.mark.slow
def test_the_demo_makes_every_row_its_page_and_its_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = run_settings(demo_study(SMOKE), "plain", 3).builds[""]
    demo = dataclasses.replace(SMOKE, model=make_beginner(tmp_path, planned), output=str(tmp_path / "demo"))
    results = run_demo(demo)
    assert [one.state for one in results.outcomes] == ["done"] * 5
    assert [row.name for row in results.rows] == list(ROWS)
    passes = {row.name: row.passes for row in results.rows if row.name in ("plain", "reflection", "answers")}
    # Three plain samples, and two sequences of each of two problems: each problem's plain sample is seen once.
    assert passes["plain"] == 1 and passes["reflection"] == passes["answers"] == pytest.approx(7 / 3)
    written = json.loads((tmp_path / "demo" / "study.json").read_text())
    assert set(written["variants"]) == set(ROWS) and written["verdict"][1] == "5 of 5 runs are done."
    assert written["verdict"][0].startswith("ReflectionCoder solves ") and "equal tokens (" in written["verdict"][0]
    table = (tmp_path / "demo" / "table.md").read_text()
    assert all(f"- {line}" in table for line in written["verdict"])
    for line in to_look_at(demo):
        assert Path(line.split()[-1]).exists()
    capsys.readouterr()
    flags = [
        f"--{key}={getattr(demo, key)}" for key in ("problems", "sequences", "passes", "heldout", "model", "output")
    ]
    assert main(["demo", *flags, "--seeds", "3"]) == 0  # all is there: nothing runs again
    shown = capsys.readouterr().out
    assert "ReflectionCoder" in shown and "equal tokens" in shown and "a sequence: reflectioncoder inspect" in shown
    with pytest.raises(UserError, match="holds a study whose variant"):
        run_demo(dataclasses.replace(demo, passes=2))
