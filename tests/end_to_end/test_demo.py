"""The whole demo at a smoke size, with the real model, real sequences and real scores."""

import dataclasses
import json
from pathlib import Path

import pytest

from reflectioncoder import demo
from reflectioncoder.config.evaluate import DemoConfig
from reflectioncoder.demo import ARMS, DEMO_TASKS, describe_demo, evaluate_config, run_demo, train_configs
from reflectioncoder.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A demo with few problems, in float32: bfloat16 takes minutes on a CPU without bfloat16 instructions."""

    def quick(demo):
        return {arm: dataclasses.replace(config, precision="float32") for arm, config in train_configs(demo).items()}

    def brief(demo, arm, task):
        config = evaluate_config(demo, arm, task)
        return dataclasses.replace(
            config, generate=dataclasses.replace(config.generate, precision="float32", max_new_tokens=12)
        )

    config = DemoConfig(
        output=str(tmp_path_factory.mktemp("demo")),
        problems=4,
        plain=1,
        tokens=300,
        heldout=2,
        handwritten=1,
        humaneval=1,
        batch_size=1,
        levels=(1,),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "train_configs", quick)
        patch.setattr(demo, "evaluate_config", brief)
        yield config, run_demo(config)


def test_the_summary_has_every_arm_on_every_task(smoke, tmp_path):
    config, summary = smoke
    written = json.loads((Path(config.output) / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert 1 <= written["sequences"] <= config.problems
    for task, n in zip(DEMO_TASKS, (2, 1, 1), strict=True):
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
    config, summary = smoke
    assert run_demo(config) == summary
    with pytest.raises(UserError, match="holds a demo with another configuration"):
        run_demo(dataclasses.replace(config, tokens=7))


def test_the_arms_differ_in_data_and_objective_only():
    arms = train_configs(DemoConfig())
    a, b = (vars(arms[name]) for name in ("after", "instruction_tuned"))
    assert {key for key in a if a[key] != b[key]} == {"output", "data", "objective"}
    assert "45,000 tokens" in describe_demo(DemoConfig())
