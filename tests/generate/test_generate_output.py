"""The file of completions: what a killed run left is continued, and other programs' files are left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tiny
import torch

from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.evaluate import describe_evaluation, evaluate
from reflectioncoder.generate.generate import describe_generation, generate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("model"), tiny.llama(258, dtype=torch.float32))


@pytest.fixture
def config(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateConfig:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"q{k}", "instruction": f"Write `f{k}`.", "tests": [f"assert f{k}() == {k}"]} for k in (1, 2)]
    Path("task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GenerateConfig(model, "task.jsonl", "c.jsonl", max_new_tokens=2, precision="float32", device="cpu")


def killed(config: GenerateConfig) -> Path:
    """What a run leaves that was killed before its first completion."""
    path = generate(config).path
    state = path.with_suffix(".model.json")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"begun": False}))
    path.write_bytes(b"")
    return path


def both_refuse(config: GenerateConfig) -> str:
    """The message with which the dry run and the run refuse settings."""
    with pytest.raises(UserError) as planned:
        describe_generation(config)
    with pytest.raises(UserError) as ran:
        generate(config)
    assert str(planned.value) == str(ran.value)
    return str(planned.value)


def test_a_run_that_was_killed_before_its_first_completion_goes_on_with_any_settings(config: GenerateConfig) -> None:
    path = killed(config)
    assert generate(config).new == 2
    path = killed(config)
    assert generate(dataclasses.replace(config, max_new_tokens=3)).new == 2
    path.write_bytes(path.read_bytes()[:20])  # killed within the first line
    assert "max_new_tokens = 3, not 2" in both_refuse(config)
    assert generate(dataclasses.replace(config, max_new_tokens=3)).new == 2


def test_completions_that_are_gone_are_not_made_again_unasked(config: GenerateConfig) -> None:
    path = generate(config).path
    path.write_bytes(b"")
    assert both_refuse(config) == (
        "c.jsonl: is empty, but c.model.json says that completions were in it; restore it, or delete it to start again"
    )
    path.unlink()
    assert generate(config).new == 2


@pytest.mark.parametrize("name", ["c.jsonl", "c.toml", "c.model.json"])
@pytest.mark.parametrize("content", ["", '{"fingerprint": 1}'])
def test_files_of_other_programs_are_left_alone(config: GenerateConfig, name: str, content: str) -> None:
    Path(name).write_text(content)
    assert "c." in (message := both_refuse(config)) and "choose another" in message
    assert Path(name).read_text() == content
    assert sorted(path.name for path in Path().iterdir()) == sorted([name, "task.jsonl"])


def test_damaged_records_are_one_line(config: GenerateConfig) -> None:
    generate(config)
    Path("c.model.json").write_text("{oops")
    assert "c.model.json: not a record of generate" in both_refuse(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "none.jsonl"}, "none.jsonl: no such file"),
        ({"model": "runs/none"}, "model runs/none: "),
        ({"prompt_style": "chat"}, "has no chat template"),
        ({"output": "task.jsonl"}, "the output would overwrite it"),
        ({"semantics": "release", "task": "humaneval"}, "release"),
    ],
)
def test_the_dry_run_refuses_what_the_run_refuses(
    config: GenerateConfig, changes: dict[str, str], message: str
) -> None:
    assert message in both_refuse(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    assert [path.name for path in Path().iterdir()] == ["task.jsonl"]


def test_the_dry_run_counts_what_is_there_and_changes_nothing(config: GenerateConfig) -> None:
    assert describe_generation(config) == "would write 2 x 1 completions to c.jsonl"
    assert [path.name for path in Path().iterdir()] == ["task.jsonl"]
    path = generate(config).path
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(lines[0] + b"\n" + lines[1][:9])
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert describe_generation(config) == "would write 2 x 1 completions to c.jsonl, of which 1 are there"
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before
    moved = dataclasses.replace(config, task="./task.jsonl", output="../" + Path().absolute().name + "/c.jsonl")
    assert generate(moved).new == 1


def evaluation_refuses(config: EvaluateConfig) -> str:
    with pytest.raises(UserError) as planned:
        describe_evaluation(config, "m")
    with pytest.raises(UserError) as ran:
        evaluate(config)
    assert str(planned.value) == str(ran.value)
    return str(planned.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": "none.jsonl"}, "none.jsonl: No such file"),
        ({"completions": "bad.jsonl"}, "bad.jsonl, line 2: not JSON"),
        ({"completions": "few.jsonl"}, "no completion for 1 problems"),
        ({"completions": "few.jsonl", "partial": True, "k": (2,)}, "fewer samples"),
        ({"completions": ""}, "model runs/none: "),
        ({"output": "mine"}, "holds results.jsonl, which reflectioncoder evaluate did not write"),
        ({"output": "empty"}, "holds config.toml, which reflectioncoder evaluate did not write"),
        ({"libraries": ("nonesuch",)}, "no library named 'nonesuch'"),
        ({"generate": GenerateConfig(task="none.jsonl")}, "none.jsonl: no such file"),
    ],
)
def test_the_dry_run_of_an_evaluation_refuses_what_it_refuses(
    config: GenerateConfig, changes: dict[str, object], message: str
) -> None:
    line = json.dumps({"task_id": "q1", "completion": "x = 1"})
    Path("few.jsonl").write_text(line + "\n")
    Path("bad.jsonl").write_text(line + "\n{oops\n")
    Path("all.jsonl").write_text(line + "\n" + line.replace("q1", "q2") + "\n")
    for name in ("mine/results.jsonl", "empty/config.toml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    before = sorted(Path().rglob("*"))
    usual = EvaluateConfig(dataclasses.replace(config, model="runs/none"), "all.jsonl", "out")
    assert message in evaluation_refuses(dataclasses.replace(usual, **changes))  # type: ignore[arg-type]
    assert [path for path in Path().rglob("*") if path.is_file() and path not in before] == []


def test_an_evaluation_is_the_same_whichever_way_its_task_is_named(config: GenerateConfig) -> None:
    lines = [json.dumps({"task_id": name, "completion": f"def f{name[1]}(): return 1"}) for name in ("q1", "q2")]
    Path("all.jsonl").write_text("\n".join(lines))
    usual = EvaluateConfig(config, "all.jsonl", "out", workers=1)
    assert evaluate(usual).pass_at_1 == 0.5
    other = dataclasses.replace(usual, generate=dataclasses.replace(config, task=str(Path("task.jsonl").absolute())))
    assert describe_evaluation(other, "m").startswith("would score all.jsonl on ")
    assert evaluate(other).pass_at_1 == 0.5
