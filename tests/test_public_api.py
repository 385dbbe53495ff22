"""`import reflectioncoder` is cheap, and each public name is the same object in any order of imports."""

from __future__ import annotations

import inspect
import pickle
import shutil
import subprocess
import sys
import zipfile
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


BAD = {
    "build": ("BuildConfig(count=0)", "count = 0"),
    "evaluate": ("EvaluateConfig(k=(0,))", "k = [0]"),
    "generate": ("GenerateConfig(samples=0)", "samples and batch_size must be at least 1"),
    "train": ("TrainConfig()", "data"),
}


@pytest.mark.parametrize("first", ["", "package", "module"])
@pytest.mark.parametrize("verb", [pytest.param(verb, marks=[pytest.mark.slow] * (verb == "train")) for verb in BAD])
def test_a_verb_can_be_called_whatever_was_imported_before(verb: str, first: str) -> None:
    config, message = BAD[verb]
    home = {"build": "construct"}.get(verb, verb)
    before = {"": "", "package": f"import reflectioncoder.{home}", "module": f"import reflectioncoder.{home}.{verb}"}
    printed = run(
        f"{before[first]}\nfrom reflectioncoder import *\nimport reflectioncoder.{home}.{verb}\n"
        f"import reflectioncoder as r\nassert r.{verb} is {verb}\n"
        "from reflectioncoder.errors import UserError\n"
        f"try:\n    {verb}({config})\nexcept UserError as error:\n    print(error)\n"
    )
    assert message in printed


@pytest.mark.parametrize("name", ["generate", "evaluate"])
def test_a_verb_survives_pickling_and_shows_its_arguments(name: str) -> None:
    verb = getattr(reflectioncoder, name)
    assert pickle.loads(pickle.dumps(verb)) is verb
    assert "config" in inspect.signature(verb).parameters


@pytest.mark.slow
def test_type_checkers_see_the_names(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    program = tmp_path / "user.py"
    program.write_text(
        "from reflectioncoder import EvaluateConfig, Interpreter, Problem, build, evaluate\n"
        "reveal_type(evaluate(EvaluateConfig()).pass_at_1)\n"
        "with Interpreter() as interpreter:\n    reveal_type(interpreter.run('1').ok)\n"
        "Problem(1)\n"
    )
    done = subprocess.run(
        # the cache of `make lint`, without which the libraries are read for a minute
        [sys.executable, "-m", "mypy", "--cache-dir", str(root / ".mypy_cache"), str(program)],
        capture_output=True, text=True, cwd=root,
    )  # fmt: skip
    assert '"float | None"' in done.stdout or "Union[builtins.float, None]" in done.stdout, done.stdout
    assert "builtins.bool" in done.stdout or '"bool"' in done.stdout, done.stdout
    assert "Problem" in done.stdout
    assert "error" in done.stdout


@pytest.mark.slow
def test_the_wheel_holds_all_files_that_are_not_python(tmp_path: Path) -> None:
    """Problems, page templates and toolchain scripts are read from the installed package."""
    root = Path(__file__).parents[1]
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(root / name, source)
    shutil.copytree(root / "reflectioncoder", source / "reflectioncoder", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["wheel", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = root / "reflectioncoder"
    wanted = {f"reflectioncoder/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    assert {name for name in wanted if "__pycache__" not in name} <= held
    assert {Path(name).suffix for name in held} >= {".py", ".jsonl", ".html", ".js", ".typed"}
