"""The configuration of a loop: what a round's settings are, and every mistake named before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reflectioncoder.cli.main import main
from reflectioncoder.config.improve import ImproveConfig, round_settings
from reflectioncoder.config.toml import load, to_toml
from reflectioncoder.errors import UserError

BASE: dict[str, Any] = {
    "start": "micro",
    "build": {"problems": "procedural_micro", "levels": [2], "seed": 5, "attempts": {"samples": 2, "temperature": 0.5}},
    "train": {"batch_size": 4},
    "generate": {"task": "heldout_micro", "levels": [2], "seed": 7},
    "evaluate": {"seconds": 3.0},
    "scores": {"final": {"generate": {"seed": 0, "limit": 9}, "evaluate": {"seconds": 2.0}}},
}


def config(**changes: Any) -> ImproveConfig:
    return ImproveConfig(**{**BASE, **changes})


def test_a_round_has_the_keys_of_its_commands() -> None:
    first, third = (round_settings(config(), number) for number in (1, 3))
    assert first.build is not None and third.build is not None and first.train is not None
    assert (first.build.sampler, first.build.attempts.model, first.build.attempts.samples) == ("attempts", "{model}", 2)
    assert (first.build.seed, third.build.seed) == (5, 7)
    assert (first.train.model, first.train.data, first.train.batch_size) == ("{model}", ("{build}",), 4)
    assert [score.name for score in first.scores] == ["stopping", "final"]
    own, final = first.scores
    assert (own.generate.seed, own.generate.limit, own.evaluate.seconds) == (7, 0, 3.0)
    assert (final.generate.seed, final.generate.limit, final.evaluate.seconds) == (0, 9, 2.0)
    assert final.generate.task == "heldout_micro"
    assert round_settings(config(), 0).build is None and round_settings(config(), 0).train is None
    same = round_settings(config(fresh_problems=False), 3).build
    assert same is not None and same.seed == 5


def test_a_model_that_writes_whole_sequences_attempts_too() -> None:
    made = round_settings(config(build={"sampler": "native", "native": {"samples": 3}}), 1).build
    assert made is not None and (made.native.model, made.native.samples) == ("{model}", 3)


def test_a_server_may_be_asked_for_each_rounds_model() -> None:
    served = {"attempts": {"backend": "server"}, "chat": {"model": "{model}", "base_url": "http://localhost:1/v1"}}
    made = round_settings(config(build=served, fresh_problems=False), 1).build
    assert made is not None and (made.chat.model, made.attempts.model) == ("{model}", "")


def test_the_written_configuration_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(config()))
    assert to_toml(load(ImproveConfig, tmp_path / "config.toml")) == to_toml(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "key 'rounds': needs at least 1"),
        ({"patience": -1}, "key 'patience': must be at least 0"),
        ({"min_gain": -0.5}, "key 'min_gain': must be at least 0"),
        ({"build": {"attemps": {}}}, "unknown key 'build.attemps'; did you mean 'attempts'"),
        ({"train": {"epoch": 3}}, "unknown key 'train.epoch'; did you mean 'epochs'"),
        ({"scores": {"final": {"generat": {}}}}, "unknown key 'scores.final.generat'; did you mean 'generate'"),
        ({"scores": {"stopping": {}}}, "key 'scores.stopping': is the score of [generate]"),
        ({"build": {"output": "x"}}, "key 'build.output': is set by the loop"),
        ({"build": {"sampler": "mutation"}}, "key 'build.sampler': 'mutation' asks no model that learns"),
        ({"build": {"attempts": {"model": "m"}}}, "key 'build.attempts.model': is the model of each round; set start"),
        ({"train": {"model": "m"}}, "key 'train.model': is set by the loop; set start"),
        ({"train": {"data": ["mine.jsonl"]}}, "key 'train.data': names no {build}"),
        ({"train": {"data": ["{build}", "{bild}"]}}, "unknown placeholder {bild}; did you mean {build}?"),
        ({"train": {"eval_data": ["{build}"]}}, "key 'train.eval_data': takes no placeholder"),
        ({"generate": {"model": "m"}}, "key 'generate.model': is the model of each round"),
        ({"generate": {"backend": "server"}}, "[generate]: a server has the same model in every round"),
        (
            {"scores": {"final": {"generate": {"backend": "server"}}}},
            "[scores.final]: a server has the same model in every round",
        ),
        (
            {"fresh_problems": False, "build": {"attempts": {"backend": "server"}, "chat": {"model": "m"}}},
            "key 'build.attempts.backend': the server has the same model and the same problems in every round",
        ),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        config(**changes)
    assert message in str(raised.value)


def test_the_file_is_named_with_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text('start = "micro"\n[build]\ncuont = 3\n')
    assert main(["improve", str(tmp_path / "mine.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"reflectioncoder improve: configuration file {tmp_path}/mine.toml: unknown key 'build.cuont'; "
        "did you mean 'count'?"
    )
