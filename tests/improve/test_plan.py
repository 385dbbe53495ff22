"""Which steps the rounds of a loop have, and what they read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from places import ROOT

from reflectioncoder.config.improve import ImproveConfig
from reflectioncoder.config.study import StudyConfig
from reflectioncoder.config.toml import load
from reflectioncoder.improve.improve import first_rounds
from reflectioncoder.improve.plan import RoundsPlan, plan_rounds
from reflectioncoder.study.plan import make_plan

BASE: dict[str, Any] = {
    "output": "out",
    "start": "base",
    "build": {"problems": "procedural_micro", "levels": [2], "count": 20},
    "train": {"data": ["{build}/sequences.jsonl", "plain.jsonl", "{build}/passed.jsonl"]},
    "generate": {"task": "heldout_micro", "levels": [2]},
    "scores": {"final": {"generate": {"seed": 3}}},
}


def plan(last: int = 3, **changes: Any) -> RoundsPlan:
    return plan_rounds(ImproveConfig(**{**BASE, **changes}), last, lambda _: "")


def place(key: str, name: str = "") -> str:
    return f"out/steps/{key}/output{name}"


def data(found: RoundsPlan, number: int) -> tuple[str, ...]:
    return tuple(found.steps[found.runs[number].train].settings.data)


def test_each_round_attempts_with_the_model_of_the_round_before() -> None:
    found = plan()
    zero, one, two, three = found.runs
    assert (zero.builds, zero.train, list(zero.scores)) == ((), "", ["stopping", "final"])
    models = [found.steps[run.builds[0]].settings.attempts.model for run in (one, two, three)]
    assert models == ["base", place(one.train), place(two.train)]
    assert [found.steps[run.builds[0]].settings.seed for run in (one, two, three)] == [0, 1, 2]
    assert found.steps[three.builds[0]].needs == (two.train,)
    for run in found.runs:
        for name, (decoded, checked) in run.scores.items():
            assert found.steps[decoded].settings.model == found.model(run.number, "base")
            assert found.steps[decoded].settings.seed == {"stopping": 0, "final": 3}[name]
            assert found.steps[checked].needs == (decoded,)
    assert len(found.steps) == 4 * 4 + 3 * 2  # four scored models with two scores, three builds and trainings


def test_a_round_trains_the_first_model_anew_on_the_data_of_all_rounds() -> None:
    found = plan()
    builds = [run.builds[0] for run in found.runs[1:]]
    assert data(found, 1) == (place(builds[0], "/sequences.jsonl"), "plain.jsonl", place(builds[0], "/passed.jsonl"))
    sequences, passed = ([place(key, f"/{name}.jsonl") for key in builds] for name in ("sequences", "passed"))
    assert data(found, 3) == (*sequences, "plain.jsonl", *passed)
    step = found.steps[found.runs[3].train]
    assert step.settings.model == "base" and step.needs == tuple(builds)


def test_a_round_can_go_on_from_the_last_model_and_on_its_own_data() -> None:
    found = plan(train_from="last", keep_data=False)
    one, two = found.runs[1:3]
    step = found.steps[two.train]
    assert step.settings.model == place(one.train) and set(step.needs) == {one.train, two.builds[0]}
    assert data(found, 2) == (
        place(two.builds[0], "/sequences.jsonl"), "plain.jsonl", place(two.builds[0], "/passed.jsonl")
    )  # fmt: skip
    assert found.steps[one.train].settings.model == "base"


def test_fewer_rounds_are_a_part_of_more() -> None:
    more, fewer = plan(3), plan(2)
    assert first_rounds(more, 2) == fewer and first_rounds(more, 2).steps == fewer.steps


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"rounds": 9, "patience": 1, "min_gain": 2.0, "keep_models": "best", "output": "out"}, True),
        ({"start": "other"}, False),
        ({"fresh_problems": False}, False),
        ({"build": {**BASE["build"], "workers": 3}}, True),
        ({"build": {**BASE["build"], "count": 21}}, False),
    ],
)
def test_what_decides_a_round_changes_its_steps(changes: dict[str, Any], same: bool) -> None:
    assert (plan(2).steps.keys() == plan(2, **changes).steps.keys()) == same


def test_a_server_and_vllm_get_the_model_of_each_round() -> None:
    chat = {"model": "{model}", "base_url": "http://localhost:1/v1"}
    served = {**BASE["build"], "attempts": {"backend": "server"}, "chat": chat}
    found = plan(2, build=served, generate={**BASE["generate"], "backend": "server", "chat": chat})
    one, two = found.runs[1:]
    asked = [found.steps[run.builds[0]].settings.chat.model for run in (one, two)]
    assert asked == ["base", place(one.train)] and found.steps[two.builds[0]].needs == (one.train,)
    assert [found.steps[run.scores["final"][0]].settings.chat.model for run in found.runs] == [
        "base", place(one.train), place(two.train)
    ]  # fmt: skip
    spread = plan(2, build={**BASE["build"], "engine": "ray", "attempts": {"backend": "vllm"}})
    made = [spread.steps[run.builds[0]].settings for run in spread.runs[1:]]
    assert [(one.engine, one.attempts.backend) for one in made] == [("ray", "vllm")] * 2
    assert [one.attempts.model for one in made] == ["base", place(spread.runs[1].train)]


def test_the_shipped_configuration_is_a_loop() -> None:
    config = load(ImproveConfig, ROOT / "configs" / "improve.toml")
    found = plan_rounds(config, config.rounds, lambda _: "")
    stopping, final = (found.steps[found.runs[1].scores[name][0]].settings for name in ("stopping", "held_out"))
    build = found.steps[found.runs[1].builds[0]].settings
    assert (config.start, build.problems, stopping.task, final.task) == (
        "micro", "procedural_micro", "heldout_micro", "heldout_micro"
    )  # fmt: skip
    assert stopping.seed != final.seed and final.limit >= 500


def test_the_control_has_the_problems_of_the_loop() -> None:
    config = load(ImproveConfig, ROOT / "configs" / "improve.toml")
    loop = plan_rounds(config, 3, lambda _: "")
    control = make_plan(load(StudyConfig, ROOT / "configs" / "studies" / "improve_control.toml"), lambda _: "")
    (run,) = control.runs
    mine, theirs = ([found.steps[key].settings for key in keys] for found, keys in (
        (loop, [one.builds[0] for one in loop.runs[1:]]), (control, run.builds)
    ))  # fmt: skip
    for key in ("problems", "levels", "count", "seed"):
        assert [getattr(one, key) for one in mine] == [getattr(one, key) for one in theirs]
    one, other = loop.steps[loop.runs[1].train].settings, control.steps[run.train].settings
    changed = {"data": (), "model": "", "seed": 0}
    assert dataclasses.replace(one, **changed) == dataclasses.replace(other, **changed, upsample=1)
    scored = loop.steps[loop.runs[1].scores["held_out"][0]].settings, control.steps[run.scores["score"][0]].settings
    assert dataclasses.replace(scored[0], model="") == dataclasses.replace(scored[1], model="")
