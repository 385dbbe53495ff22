"""The bench in seconds: every variant of its configuration is built, trained and scored with a micro model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from places import ROOT

from reflectioncoder import build, evaluate, train
from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.config.study import StudyConfig, run_settings
from reflectioncoder.config.toml import load
from reflectioncoder.pretrain.pretrain import pretrain

BENCH = ROOT / "configs/studies/bench.toml"
PROBLEMS, SCORED = 4, 6


@pytest.mark.slow
def test_every_variant_of_the_bench_runs_and_passes_are_equal(tmp_path: Path) -> None:
    study = load(StudyConfig, BENCH)
    settings = PretrainConfig(
        output=str(tmp_path / "micro"), tokens=30_000, sequences=0, layers=1, width=32, heads=2, batch_tokens=2048
    )
    micro = str(pretrain(settings, lambda _: None))
    built = build(
        dataclasses.replace(
            run_settings(study, "reflection", 1).builds[""],
            count=PROBLEMS,
            workers=1,
            output=str(tmp_path / "build"),
        )
    )
    assert built.sequences == PROBLEMS
    passes = {}
    for name in study.variants:
        run = run_settings(study, name, 1)
        score = run.scores[0]
        model = micro
        if run.train is not None:
            assert run.train.model == "micro" and run.train.seed == 1
            data = tuple(text.replace("{build}", str(tmp_path / "build")) for text in run.train.data)
            done = train(
                dataclasses.replace(
                    run.train, model=micro, data=data, batch_size=PROBLEMS, output=str(tmp_path / name), device="cpu"
                ),
                lambda _: None,
            )
            model = done.output
            passes[name] = done.steps  # a batch is as many samples as there are instructions
        generate = dataclasses.replace(score.generate, model=model, limit=SCORED, max_new_tokens=12, device="cpu")
        scored = evaluate(
            dataclasses.replace(score.evaluate, generate=generate, output=str(tmp_path / f"{name}-score"), workers=1)
        )
        assert scored.n == SCORED
    assert passes["plain"] == passes["reflection"] == 6


def test_the_bench_scores_a_thousand_problems_that_no_training_sees() -> None:
    study = load(StudyConfig, BENCH)
    for name in study.variants:
        run = run_settings(study, name, 2)
        (score,) = run.scores
        assert score.generate.limit >= 1000 and score.generate.task == "heldout_micro"
        for made in run.builds.values():
            assert made.problems == "procedural_micro" and made.levels == score.generate.levels and made.seed == 2
