"""The programs of docs/extending.md run, and each added part takes effect."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from reflectioncoder.config.train import MaskingConfig
from reflectioncoder.errors import UserError
from reflectioncoder.registry import Registry
from reflectioncoder.train.batch.masking import visible_ranges
from reflectioncoder.train.batch.strategies import STRATEGIES

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PROGRAMS = {
    code.split(".py", 1)[0].removeprefix("# "): code
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
}


def run(folder: Path, name: str, *words: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(PROGRAMS[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sequences(folder: Path) -> list[str]:
    return (folder / "sequences.jsonl").read_text(encoding="utf-8").splitlines()


def test_every_program_of_the_page_is_run_here() -> None:
    assert set(PROGRAMS) == {"mine", "task", "domain", "filter", "strategy", "bug_kind", "sampler", "backend"}


@pytest.mark.slow
def test_a_part_is_used_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tmp_path, "mine", "build", "--count", "4", "--workers", "1", "--output", str(out))
    assert json.loads((out / "funnel.json").read_text())["problems"] == 4
    assert "known keys" not in run(tmp_path, "mine", "build", "--help")


@pytest.mark.slow
def test_another_domain_is_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "10 sequences" in run(tmp_path, "domain", str(out))
    for line in map(json.loads, sequences(out)):
        side = int(re.findall(r"\d+", line["messages"][2]["content"][0]["content"])[0])
        assert line["messages"][3]["content"][0]["content"].endswith(f"\nAnswer: {side * side}")
        assert line["provenance"]["mutations"] == ["perimeter"] and side % 5


@pytest.mark.slow
def test_training_from_a_program_knows_its_parts(tmp_path: Path) -> None:
    """`train` may restart the process; a program that calls `main` with its words is not restarted."""
    program = PROGRAMS["mine"] + "\n"
    strategy = (
        "from reflectioncoder.train.batch.strategies import STRATEGIES, Strategy\n"
        "STRATEGIES.add('mine', Strategy(lambda types, rate, config, draw: [True] * len(types)))\n"
    )
    path = tmp_path / "program.py"
    path.write_text(program.replace("\n\n\nif __name__", f"\n\n{strategy}\n\nif __name__"), encoding="utf-8")
    words = ["train", "--masking.strategy", "mine", "--data", str(tmp_path / "none.jsonl")]
    done = subprocess.run([sys.executable, str(path), *words], capture_output=True, text=True)
    assert "none.jsonl" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_bug_kind_with_a_mistake_stops_the_build_with_one_line(tmp_path: Path) -> None:
    for old, new, message in (
        ("use `{number}`", "use `{nothing}`", "bug kind 'constant_off': a template has the unknown field 'nothing'"),
        (
            'src.replace("constant_off"',
            'src.replace("constant"',
            "'constant_off': its mutations have the kind",
        ),
    ):
        path = tmp_path / "kind.py"
        path.write_text(PROGRAMS["bug_kind"].replace(old, new), encoding="utf-8")
        words = [sys.executable, str(path), str(tmp_path / old[:3])]
        done = subprocess.run(words, capture_output=True, text=True)
        assert message in done.stderr.strip().splitlines()[-1]


def test_a_task(tmp_path: Path) -> None:
    assert run(tmp_path, "task", str(tmp_path / "out")) == "doubling: 100%\n"


@pytest.mark.slow
def test_a_filter_rejects_and_is_counted(tmp_path: Path) -> None:
    run(tmp_path, "filter", str(tmp_path / "out"))
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert funnel["long_first_round"] > 0
    kept = [json.loads(line) for line in sequences(tmp_path / "out")]
    assert kept
    assert all(len(row["messages"][1]["content"]) <= 6 for row in kept)
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8")
    assert rejects.count('"long_first_round"') == funnel["long_first_round"]


@pytest.mark.slow
def test_a_masking_strategy_decides_what_the_student_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny
    import torch

    from reflectioncoder.dialogues.dialogue import write_jsonl

    model = tiny.save(tmp_path / "model", tiny.llama(tiny.VOCABULARY, dtype=torch.float32))
    write_jsonl(tmp_path / "data.jsonl", tiny.dialogues())
    assert "4 steps" in run(tmp_path, "strategy", model, str(tmp_path / "data.jsonl"), str(tmp_path / "out"))
    sample = tiny.encoded([("code", 3), ("execution", 2), ("text", 4), ("code", 5)])
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES))  # what is added is removed after this test
    monkeypatch.setattr("reflectioncoder.registry._places", [])
    runpy.run_path(str(tmp_path / "strategy.py"))
    config = MaskingConfig("only_last")
    before, after = ([b - a for a, b in visible_ranges(sample, config, step, 4, 0)] for step in (0, 1))
    assert len(before) == len(after) + 3
    assert after == [before[0], *before[4:]]


@pytest.mark.slow
def test_a_bug_kind_is_planted_and_explained(tmp_path: Path) -> None:
    run(tmp_path, "bug_kind", str(tmp_path / "out"))
    made = sequences(tmp_path / "out")
    assert sum("is ten too large" in line for line in made) > len(made) / 3


def test_a_sampler_writes_a_sequence(tmp_path: Path) -> None:
    assert run(tmp_path, "sampler", str(tmp_path / "out")).endswith("1 sequence\n")
    (line,) = sequences(tmp_path / "out" / "build")
    assert [block["type"] for block in json.loads(line)["messages"][1]["content"]].count("execution") == 2


def test_a_back_end_completes_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run(tmp_path, "backend", str(tmp_path / "out")) == "5 completions, 5 of them new\n"
    assert run(tmp_path, "backend", str(tmp_path / "out")) == "5 completions, 0 of them new\n"


def test_a_build_refuses_parts_that_its_workers_cannot_load(tmp_path: Path) -> None:
    code = PROGRAMS["filter"].replace("count=30", "count=2")
    words = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "put them in a file and import it" in done.stderr
    unguarded = tmp_path / "unguarded.py"
    unguarded.write_text(code.replace('if __name__ == "__main__":', "if True:"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(unguarded), str(tmp_path / "b")], capture_output=True, text=True)
    assert "starts a build when it is loaded; put that under `if __name__ == '__main__':`" in done.stderr


def test_a_registry_keeps_the_names_of_the_package_and_lists_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflectioncoder.registry._places", [])
    registry = Registry("colour", {"red": 1, "green": 2})
    with pytest.raises(UserError, match=r"^colour 'red': the package has one of that name; choose another$"):
        registry.add("red", 3)
    with pytest.raises(UserError, match="a name is made of letters, digits and underscores"):
        registry.add("dark-blue", 3)
    assert registry.adds("blue")(3) == 3
    assert registry.add("blue", 4) == 4  # one's own may be replaced, as in a notebook cell that is run again
    assert dict(registry) == {"red": 1, "green": 2, "blue": 4}
    assert registry.added == ("blue",)
    assert registry.choose("green") == 2
    with pytest.raises(UserError, match="did you mean 'green'"):
        registry.choose("gren")
    with pytest.raises(UserError, match="known: red, green, blue"):
        registry.choose("x")
