"""The whole of `studies/bootstrap.py` at a smoke size with a tiny model, and the numbers in its tables."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from places import ROOT

from reflectioncoder.config.build import BuildConfig, NativeConfig
from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import Block, reflection_dialogue, write_jsonl
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.procedural import problems as procedural

SCRIPT = ROOT / "studies" / "bootstrap.py"
CONFIGS = ROOT / "configs" / "bootstrap"


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module
    spec.loader.exec_module(module)
    return module


def run(output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    model = output / "tiny"
    if not model.exists():
        tiny.save(model, tiny.llama(len(tiny.tokenizer()), dtype=torch.float32))
    return subprocess.run([sys.executable, *words_of(output, *more)], capture_output=True, text=True, timeout=900)


def run_here(bootstrap: ModuleType, output: Path, *more: str) -> int:
    """Like `run`, but in this process, which saves the imports of torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words_of(output, *more))
        return int(bootstrap.main())


def words_of(output: Path, *more: str) -> list[str]:
    sizes = "--sequences 4 --tokens 600 --max-length 8000".split()
    sizes += "--problems 2 --samples 2 --temperatures 0.7 --max-new-tokens 12".split()
    return [str(SCRIPT), "--output", str(output / "runs"), "--model", str(output / "tiny"), *sizes, *more]


@pytest.mark.slow
def test_the_whole_chain_and_again_without_doing_anything_twice(
    bootstrap: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    found: dict[str, Any] = json.loads(first.stdout.splitlines()[-1])
    assert found["first_source"] == 4
    assert found["training"]["tokens"] >= 600
    (native,) = found["runs"]
    # Twelve tokens are too few for a program; every conversation is counted under a reason.
    assert (native["conversations"], sum(native["reasons"].values()), native["yield"]) == (4, 4, 0)
    assert 0 < native["tokens"] <= 4 * 12
    assert [(row["samples"], row["conversations"], row["sequences"]) for row in found["grid"]] == [(1, 2, 0), (2, 4, 0)]
    assert run_here(bootstrap, tmp_path) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if "done before" in line] == [
        "mutation: done before", "interpreter: done before", "native-t0.7: done before",
    ]  # fmt: skip
    second = json.loads(again[-1])
    assert {**second, "seconds": 0} == {**found, "seconds": 0}
    assert run_here(bootstrap, tmp_path, "--tokens", "700") == 2
    assert "interpreter: finished with other settings" in capsys.readouterr().err


def test_no_composition_of_the_first_source_comes_again(bootstrap: ModuleType, tmp_path: Path) -> None:
    first, native = BuildConfig(count=300, seed=0, levels=(1,)), BuildConfig(count=60, seed=1, levels=(1,))
    bootstrap.write_problems(tmp_path, first, native)
    fields = load(BuildConfig, CONFIGS / "native.toml").fields
    old, new = (load_problems(str(tmp_path / f"{name}.jsonl"), fields) for name in ("first", "unseen"))
    others = {problem.id: problem for problem in procedural.procedural_problems(150, 1, "train", (1,))}
    seen = {problem.extra["composition"] for problem in procedural.procedural_problems(300, 0, "train", (1,))}
    assert (len(old), len(new)) == (300, 60)
    assert not seen & {others[problem.id].extra["composition"] for problem in new}
    # Without the exclusion, compositions would repeat.
    assert any(problem.extra["composition"] in seen for problem in list(others.values())[:60])
    # The tests of the first source are the examples in its instructions; the new problems keep all their tests.
    assert all(problem.instruction.split("\n")[-3:] == list(problem.tests) for problem in old)
    same = others[new[0].id]
    assert (new[0].tests, new[0].level, new[0].source) == (same.tests, 1, "procedural")
    assert new[0].instruction.startswith(f"{same.instruction}\nExamples:\nassert ")
    assert set(new[0].instruction.split("\n")[-3:]) < set(same.tests)


def test_fewer_samples_are_the_first_of_each_problem(bootstrap: ModuleType) -> None:
    won = {("a", 2), ("a", 3), ("b", 4)}
    found = [
        bootstrap.Outcome(problem, n, "sequences" if (problem, n) in won else "unresolved", 2, True)
        for problem in "abc"
        for n in range(1, 5)
    ]
    rows = [bootstrap.by_samples(found, n) for n in (1, 2, 4)]
    assert [(row["sequences"], row["conversations"], row["problems_with_one"]) for row in rows] == [
        (0, 3, 0), (1, 6, 0.3333), (3, 12, 0.6667),
    ]  # fmt: skip


def test_a_repair_that_repeats_the_program_counts_as_unchanged(bootstrap: ModuleType, tmp_path: Path) -> None:
    first = "def f(x):\n    return x\n\n# Tests\nassert f(1) == 2"
    repeated = "def f(x):\n    return x\n\n# Retest\nassert f(1) == 2\nprint('OK')"
    repaired = "def f(x):\n    return x + 1\n\nassert f(1) == 2"
    failure = "AssertionError   Traceback (most recent call last)"
    blocks = [
        Block("code", first), Block("execution", failure), Block("code", repeated), Block("execution", failure),
        Block("text", "It must add 1."), Block("code", repaired), Block("execution", ""),
    ]  # fmt: skip
    write_jsonl(tmp_path / "sequences.jsonl", [reflection_dialogue("test it", blocks, "write f", repaired, id="p#2")])
    plain = {"id": "p#1", "reason": "no_code", "sequence": None}
    (tmp_path / "rejects.jsonl").write_text(json.dumps(plain) + "\n")
    assert bootstrap.outcomes(tmp_path) == [
        bootstrap.Outcome("p", 2, "sequences", 3, True, 1),
        bootstrap.Outcome("p", 1, "no_code", 0, False, 0),
    ]


def test_the_configurations_fit_together() -> None:
    first, native = load(BuildConfig, CONFIGS / "mutation.toml"), load(BuildConfig, CONFIGS / "native.toml")
    training = load(TrainConfig, CONFIGS / "interpreter.toml")
    assert {str(Path(path).parent) for path in training.data} == {first.output}
    assert isinstance(native.native, NativeConfig)
    assert (native.native.model, native.sampler) == (training.output, "native")
    assert native.seed != first.seed
