"""The whole demo at a smoke size: real model, real sequences, real scores."""

import json

import pytest

from reflectioncoder.config.evaluate import DemoConfig
from reflectioncoder.demo import ARMS, TASKS, describe, run_demo, train_configs
from reflectioncoder.errors import UserError


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    config = DemoConfig(
        output=str(tmp_path_factory.mktemp("demo")),
        problems=6,
        plain=1,
        tokens=1500,
        heldout=4,
        handwritten=2,
        humaneval=2,
        batch_size=2,
        levels=(1,),
    )
    return config, run_demo(config)


def test_the_summary_has_every_arm_on_every_task(smoke, tmp_path):
    config, summary = smoke
    from pathlib import Path

    written = json.loads((Path(config.output) / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert 1 <= written["sequences"] <= config.problems
    for task, n in zip(TASKS, (4, 2, 2), strict=True):
        assert list(written[task]) == list(ARMS)
        for arm in ARMS:
            score = written[task][arm]
            assert score["n"] == n
            assert 0 <= score["low"] <= score["pass_at_1"] <= score["high"] <= 1
    tokens = written["training_tokens"]
    assert config.tokens <= tokens["after"] <= tokens["instruction_tuned"]
    assert written["peak_mb"] > 500
    assert (Path(config.output) / "report.html").stat().st_size > 10_000


def test_a_second_run_does_nothing_again_and_another_configuration_is_refused(smoke):
    import dataclasses

    config, summary = smoke
    assert run_demo(config) == summary
    with pytest.raises(UserError, match="holds a demo with another configuration"):
        run_demo(dataclasses.replace(config, tokens=7))


def test_the_arms_differ_in_data_and_objective_only():
    arms = train_configs(DemoConfig())
    a, b = (vars(arms[name]) for name in ("after", "instruction_tuned"))
    assert {key for key in a if a[key] != b[key]} == {"output", "data", "objective"}
    assert "45,000 tokens" in describe(DemoConfig())
