"""Which steps a study has, which runs share them, and what makes a step another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from reflectioncoder.config.study import StudyConfig
from reflectioncoder.config.toml import load
from reflectioncoder.errors import UserError
from reflectioncoder.steps.inputs import check_step_inputs, file_digests
from reflectioncoder.study.plan import StudyPlan, make_plan

BASE: dict[str, Any] = {
    "output": "out",
    "seeds": (0, 1),
    "reference": "plain",
    "build": {"count": 20},
    "train": {"data": ["{build}/sequences.jsonl", "{build}/instructions.jsonl"]},
    "variants": {"plain": {"train": {"objective": "instruction"}}, "block": {}},
}


def plan(**changes: Any) -> StudyPlan:
    return make_plan(StudyConfig(**{**BASE, **changes}), lambda _: "")


def keys(found: StudyPlan, verb: str) -> set[str]:
    return {key for key, step in found.steps.items() if step.verb == verb}


def test_steps_that_would_do_the_same_run_once() -> None:
    found = plan()
    assert [(run.variant, run.seed) for run in found.runs] == [
        ("plain", 0), ("block", 0), ("plain", 1), ("block", 1),
    ]  # fmt: skip
    assert {verb: len(keys(found, verb)) for verb in ("build", "train", "generate", "evaluate")} == {
        "build": 1, "train": 4, "generate": 4, "evaluate": 4,
    }  # fmt: skip
    twins = plan(variants={**BASE["variants"], "same": {"label": "the same again"}})
    assert twins.steps.keys() == found.steps.keys() and len(twins.runs) == 6
    assert len(keys(plan(seeded=("train.seed", "build.seed")), "build")) == 2
    base = plan(variants={**BASE["variants"], "base": {"trained": False}})
    assert len(keys(base, "generate")) == 5  # the same for both seeds


def test_a_step_reads_the_outputs_of_those_it_needs() -> None:
    found = plan()
    run = found.runs[0]
    (build,), train, (decoded, checked) = run.builds, run.train, run.scores["score"]
    assert found.steps[train].settings.data[0] == f"out/steps/{build}/output/sequences.jsonl"
    assert found.steps[decoded].settings.model == f"out/steps/{train}/output"
    assert found.steps[checked].settings.completions == f"out/steps/{decoded}/output/completions.jsonl"
    needs = {key: found.steps[key].needs for key in run.steps}
    assert needs == {build: (), train: (build,), decoded: (train,), checked: (decoded,)}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"train": {**BASE["train"], "device": "cpu", "logging_steps": 5}}, {"build", "train", "generate", "evaluate"}),
        ({"output": "elsewhere"}, {"build", "train", "generate", "evaluate"}),
        ({"build": {"count": 20, "seed": 0, "workers": 2}}, {"build", "train", "generate", "evaluate"}),
        ({"evaluate": {"seconds": 2.0}}, {"build", "train", "generate"}),
        ({"generate": {"limit": 7}}, {"build", "train"}),
        ({"train": {**BASE["train"], "learning_rate": 1e-3}}, {"build"}),
        ({"build": {"count": 21}}, set()),
    ],
)
def test_a_setting_that_decides_a_result_changes_its_step_and_those_after(changes: Any, same: set[str]) -> None:
    before, after = plan(), plan(**changes)
    for verb in ("build", "train", "generate", "evaluate"):
        assert (keys(before, verb) == keys(after, verb)) == (verb in same), verb


def test_the_contents_of_input_files_decide_steps(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    config = StudyConfig(train={"data": [str(data)]}, variants={"only": {}})
    found = []
    for text in ("one", "two", "one"):
        data.write_text(text)
        found.append(make_plan(config, file_digests()).steps.keys())
    assert found[0] == found[2] and not found[0] & found[1]


def test_equal_tokens_wait_for_the_other_training() -> None:
    variants = {**BASE["variants"], "equal": {"tokens_of": "block", "train": {"objective": "instruction"}}}
    found = plan(variants=variants)
    for equal, block in zip(found.runs[2::3], found.runs[1::3], strict=True):
        step = found.steps[equal.train]
        assert (step.tokens_of, step.needs[-1]) == (block.train, block.train)


def test_a_variant_can_start_from_the_model_of_another() -> None:
    found = plan(variants={**BASE["variants"], "more": {"train": {"model": "{models.plain}"}}})
    for more, plain in zip(found.runs[2::3], found.runs[0::3], strict=True):
        assert found.steps[more.train].settings.model == f"out/steps/{plain.train}/output"


def test_variants_that_wait_for_each_other_are_an_error() -> None:
    variants = {"plain": {"tokens_of": "block"}, "block": {"train": {"model": "{models.plain}"}}}
    with pytest.raises(UserError, match="variants wait for each other: plain -> block -> plain"):
        plan(variants=variants)


def test_builds_with_a_model_of_this_machine_take_a_device() -> None:
    for build, expected in (
        ({}, False),
        ({"sampler": "attempts"}, True),
        ({"sampler": "native", "native": {"model": "m"}}, True),
        ({"sampler": "chat", "chat": {"model": "m", "base_url": "http://localhost:1/v1"}}, False),
    ):
        found = plan(build=build)
        devices = {step.verb: step.on_device for step in found.steps.values()}
        assert devices == {"build": expected, "train": True, "generate": True, "evaluate": False}
    served = plan(generate={"backend": "server"})
    assert not any(step.on_device for step in served.steps.values() if step.verb == "generate")


def test_a_missing_model_or_file_is_named_with_its_variant(tmp_path: Path) -> None:
    def check(**train: Any) -> None:
        config = StudyConfig(output=str(tmp_path / "out"), train={**BASE["train"], **train}, variants={"only": {}})
        check_step_inputs(make_plan(config, file_digests()))

    check()
    with pytest.raises(UserError, match=r"variant 'only', train: model .*/none: no such directory"):
        check(model=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"variant 'only', train: file .*no\.jsonl: No such file"):
        check(data=[str(tmp_path / "no.jsonl")])


def test_studies_that_share_a_folder_of_steps_share_equal_steps() -> None:
    one = plan(output="one", steps="common")
    two = plan(output="two", steps="common", variants={"plain": BASE["variants"]["plain"]})
    assert two.steps.keys() < one.steps.keys()
    assert {two.folder(key) for key in two.steps} < {one.folder(key) for key in one.steps}


def test_the_example_of_the_manual_is_a_study(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "studying.md").read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "example.toml").write_text(text)
    config = load(StudyConfig, tmp_path / "example.toml")
    found = make_plan(config, lambda _: "")
    assert [run.variant for run in found.runs[:3]] == ["plain", "block", "plain_more"] and len(found.runs) == 9
    assert len(keys(found, "build")) == 1
