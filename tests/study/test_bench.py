"""The studies of the bench at a smoke size: every row of every configuration trains on real builds."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from beginner import make_beginner
from places import ROOT

from reflectioncoder import build, evaluate, train
from reflectioncoder.config.study import StudyConfig, run_settings
from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig

STUDIES = {path.stem: path for path in sorted((ROOT / "configs" / "studies").glob("*.toml"))}
MICRO = [name for name in STUDIES if "[builds.planted]" in STUDIES[name].read_text(encoding="utf-8")]
PROBLEMS, SCORED = 4, 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model, and the outputs of the bench's builds by the name of their placeholder."""
    folder = tmp_path_factory.mktemp("bench")
    builds = run_settings(load(StudyConfig, STUDIES["bench"]), "reflection", 1).builds
    model = make_beginner(folder, dataclasses.replace(builds[""], count=PROBLEMS))
    found = {"model": model, "{build}": str(folder / "build")}
    for name in ("planted", "own"):
        planned = dataclasses.replace(builds[name], count=2, workers=1, output=str(folder / name))
        if name == "own":
            planned = dataclasses.replace(planned, attempts=dataclasses.replace(planned.attempts, model=model))
        assert build(planned).sequences == 2
        found[f"{{builds.{name}}}"] = str(folder / name)
    return found


@pytest.fixture(scope="module")
def losses() -> dict[TrainConfig, float]:
    """The second step's loss by the settings of the rows that were trained; studies share rows."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", MICRO)
def test_every_row_trains(name: str, made: dict[str, str], losses: dict[TrainConfig, float], tmp_path: Path) -> None:
    study = load(StudyConfig, STUDIES[name])
    planned = {variant: run_settings(study, variant, 1).train for variant in study.variants}
    rows = {variant: settings for variant, settings in planned.items() if settings is not None}
    for variant, settings in rows.items():
        assert settings.model in ("micro", "{models.reflection}") and settings.seed == 1
        if settings in losses:
            continue
        data = tuple(re.sub(r"\{[\w.]+\}", lambda found: made[found[0]], text) for text in settings.data)
        changes = {"model": made["model"], "data": data, "max_steps": 2, "output": str(tmp_path / variant)}
        assert train(dataclasses.replace(settings, device="cpu", **changes), lambda _: None).steps == 2
        losses[settings] = json.loads((tmp_path / variant / "log.jsonl").read_text().splitlines()[-1])["loss"]
    assert len({losses[settings] for settings in rows.values()}) > 1


@pytest.mark.slow
def test_a_trained_row_is_scored(made: dict[str, str], tmp_path: Path) -> None:
    score = run_settings(load(StudyConfig, STUDIES["bench"]), "before", 1).scores[0]
    generate = dataclasses.replace(
        score.generate, model=made["model"], limit=SCORED, max_new_tokens=12, device="cpu", output=str(tmp_path / "c")
    )
    how = dataclasses.replace(score.evaluate, generate=generate, output=str(tmp_path / "score"), workers=1)
    assert evaluate(how).n == SCORED


@pytest.mark.parametrize("name", MICRO)
def test_a_study_scores_a_thousand_problems_that_no_training_sees(name: str) -> None:
    study = load(StudyConfig, STUDIES[name])
    assert study.token_reference == "plain_equal_tokens" and len(study.seeds) >= (5 if name == "table2" else 3)
    for variant in study.variants:
        run = run_settings(study, variant, 2)
        (score,) = run.scores
        assert score.generate.limit >= 1000 and score.generate.task == "heldout_micro"
        for planned in run.builds.values():
            assert planned.problems == "procedural_micro" and planned.levels == score.generate.levels
            assert planned.seed == 2
