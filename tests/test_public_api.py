"""`import reflectioncoder` is cheap, and each public name is the same object in any order of imports."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import reflectioncoder
from reflectioncoder.registry import Registry


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_is_light() -> None:
    run(
        "import sys; before = set(sys.modules); import reflectioncoder; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "assert not new & {'torch', 'numpy', 'transformers', 'rich', 'IPython', 'tyro', 'json'}, new"
    )


@pytest.mark.parametrize("name", ["masking", "rows"])
def test_masks_and_rows_are_computed_without_torch(name: str) -> None:
    run(f"import sys, reflectioncoder.train.batch.{name}; assert not {{'torch', 'transformers'}} & set(sys.modules)")


def test_every_public_name_is_there_and_listed() -> None:
    assert set(reflectioncoder.__all__) <= set(dir(reflectioncoder))
    for name in reflectioncoder.__all__:
        value = getattr(reflectioncoder, name)
        assert callable(value) or isinstance(value, Registry), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        reflectioncoder.nothing  # noqa: B018


@pytest.mark.parametrize(
    "first", ["", "import reflectioncoder.evaluate.evaluate as e; ", "import reflectioncoder.evaluate; "]
)
def test_a_verb_can_be_called_whatever_was_imported_before(first: str) -> None:
    printed = run(
        f"{first}from reflectioncoder import evaluate, EvaluateConfig\n"
        "from reflectioncoder.errors import UserError\n"
        "try:\n    evaluate(EvaluateConfig(k=(0,)))\nexcept UserError as error:\n    print(error)\n"
        "import reflectioncoder.evaluate.stats as stats; print(stats.wilson.__name__)"
    )
    assert "k = [0]" in printed
    assert printed.endswith("wilson\n")


@pytest.mark.parametrize("name", ["generate", "evaluate"])
def test_a_verb_survives_pickling_and_shows_its_arguments(name: str) -> None:
    verb = getattr(reflectioncoder, name)
    assert pickle.loads(pickle.dumps(verb)) is verb
    assert "config" in inspect.signature(verb).parameters


@pytest.mark.slow
def test_type_checkers_see_the_names(tmp_path: Path) -> None:
    program = tmp_path / "user.py"
    program.write_text(
        "from reflectioncoder import EvaluateConfig, Interpreter, Problem, build, evaluate\n"
        "reveal_type(evaluate(EvaluateConfig()).pass_at_1)\n"
        "with Interpreter() as interpreter:\n    reveal_type(interpreter.run('1').ok)\n"
        "Problem(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(program)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert '"float | None"' in done.stdout or "Union[builtins.float, None]" in done.stdout, done.stdout
    assert "builtins.bool" in done.stdout or '"bool"' in done.stdout, done.stdout
    assert "Problem" in done.stdout
    assert "error" in done.stdout
