"""The whole demo at a smoke size, with the real model, real sequences and real scores."""

import dataclasses
import json
from pathlib import Path

import pytest
import tiny
import torch
from training import At, interrupt

from reflectioncoder import demo
from reflectioncoder.config.evaluate import DemoConfig
from reflectioncoder.demo import ARMS, DEMO_TASKS, describe_demo, evaluate_config, run_demo, train_configs
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate import compare as comparison
from reflectioncoder.evaluate import evaluate as evaluation
from reflectioncoder.evaluate.results import Score
from reflectioncoder.evaluate.stats import Comparison
from reflectioncoder.report import page
from reflectioncoder.train import train as training

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


def test_a_demo_is_known_by_its_settings_not_by_the_spelling_of_its_folder(tmp_path, monkeypatch):
    def begin(*_):
        raise UserError("begun")

    monkeypatch.setattr(demo, "_Stages", begin)
    monkeypatch.chdir(tmp_path)
    for output in ("out", "./out", str(tmp_path / "out")):
        with pytest.raises(UserError, match="begun"):
            run_demo(DemoConfig(output=output, problems=3))
    with pytest.raises(UserError, match="holds a demo with another configuration"):
        run_demo(DemoConfig(output="out", problems=4))
    (tmp_path / "out" / "config.toml").write_text("")  # another program's
    with pytest.raises(UserError, match="holds a demo with another configuration"):
        run_demo(DemoConfig(output="out"))


def test_the_arms_differ_in_data_and_objective_only():
    arms = train_configs(DemoConfig())
    a, b = (vars(arms[name]) for name in ("after", "instruction_tuned"))
    assert {key for key in a if a[key] != b[key]} == {"output", "data", "objective"}
    assert "45,000 tokens" in describe_demo(DemoConfig())


def test_a_demo_that_was_stopped_within_an_arm_goes_on_there(tmp_path, monkeypatch, capfd):
    """Tiny models, and no scores: only the arms of training run."""
    base = tiny.save(tmp_path / "model", tiny.llama(258, dtype=torch.float32))

    def small(demo):
        changes = {"model": base, "precision": "float32", "save_steps": 1, "max_length": 4096}
        return {arm: dataclasses.replace(config, **changes) for arm, config in train_configs(demo).items()}

    whole, interrupting = training.train, [True]

    def stopped(config):
        after = int(config.output.endswith("instruction")) + 2
        return whole(config, callbacks=[At(after, interrupt)] if interrupting[0] else [])

    monkeypatch.setattr(demo, "train_configs", small)
    monkeypatch.setattr(training, "train", stopped)
    monkeypatch.setattr(
        evaluation, "evaluate", lambda config: Score(config.generate.task, 0.5, 0.0, 1.0, 2, 0, {}, 0.0)
    )
    monkeypatch.setattr(comparison, "compare", lambda *_: Comparison(2, 0.5, 0.5, 0.0, 0.0, 1.0, 0, 0, 1.0))
    monkeypatch.setattr(page, "write_report", lambda root: root / "report.html")
    settings = DemoConfig(output=str(tmp_path / "demo"), problems=4, plain=1, tokens=20_000, batch_size=2, levels=(1,))
    with pytest.raises(UserError, match="interrupted after step 2 of"):
        run_demo(settings)
    first = tmp_path / "demo" / "train" / "reflection"
    assert [path.name for path in first.glob("checkpoint-*")] == ["checkpoint-1"]
    # as if it had been killed when its model was in place, but before that was recorded
    interrupting[0] = False
    whole(dataclasses.replace(small(settings)["after"], resume=True))
    before = (first / "model.safetensors").stat().st_mtime_ns
    interrupting[0] = True
    with pytest.raises(UserError, match="interrupted after step 3 of"):
        run_demo(settings)
    assert (first / "model.safetensors").stat().st_mtime_ns == before  # not trained again
    interrupting[0] = False
    run_demo(settings)
    assert "continuing from" in capfd.readouterr().err
    log = (tmp_path / "demo/train/instruction/log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in log]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 2
