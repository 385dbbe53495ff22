"""The study of word problems in seconds: its variants train and are scored, and dropped blocks cost no tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
from places import ROOT

from reflectioncoder import build, evaluate, train
from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.config.study import StudyConfig, run_settings
from reflectioncoder.config.toml import load

STUDY = ROOT / "configs/studies/arithmetic.toml"
PROBLEMS = 3


@pytest.mark.slow
def test_every_variant_runs_and_each_share_of_dropped_blocks_takes_fewer_tokens(tmp_path: Path) -> None:
    study = load(StudyConfig, STUDY)
    model = tiny.save(tmp_path / "model", tiny.build_llama(258))
    made = run_settings(study, "reflection", 1).builds[""]
    built = build(dataclasses.replace(made, count=PROBLEMS, workers=1, output=str(tmp_path / "build")))
    assert built.sequences == PROBLEMS
    tokens, steps = {}, {}
    for name in study.variants:
        run = run_settings(study, name, 1).train
        if run is None:
            continue
        data = tuple(text.replace("{build}", str(tmp_path / "build")) for text in run.data)
        small = dataclasses.replace(
            run, model=model, data=data, batch_size=PROBLEMS, max_length=8000, output=str(tmp_path / name), device="cpu"
        )
        done = train(small, lambda _: None)
        tokens[name], steps[name] = done.tokens, done.steps
    assert steps["plain"] == steps["reflection"] == steps["drop_50"] == 4  # as many passes over the instructions
    order = [tokens[name] for name in ("drop_0", "drop_25", "drop_50", "drop_75", "drop_100", "plain")]
    assert order == sorted(order, reverse=True) and len(set(order)) == 6
    score = run_settings(study, "drop_50", 1).scores[0]
    generate = dataclasses.replace(
        score.generate, model=str(tmp_path / "drop_50"), limit=2, max_new_tokens=8, device="cpu"
    )
    scored = evaluate(dataclasses.replace(score.evaluate, generate=generate, output=str(tmp_path / "score"), workers=1))
    assert (scored.n, scored.task) == (2, "arithmetic_heldout")


def test_the_study_scores_problems_that_no_training_sees_and_its_model_is_a_configuration() -> None:
    study = load(StudyConfig, STUDY)
    for name in study.variants:
        run = run_settings(study, name, 2)
        (score,) = run.scores
        assert score.generate.task == "arithmetic_heldout"
        for made in run.builds.values():
            assert (made.problems, made.levels, made.seed) == ("arithmetic", score.generate.levels, 2)
    model = load(PretrainConfig, ROOT / "configs/micro-arithmetic.toml")
    assert model.output == study.train["model"] and set(study.generate["levels"]) <= set(model.levels)
