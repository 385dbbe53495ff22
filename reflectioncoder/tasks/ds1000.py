"""DS-1000 (Lai et al., 2023): 1,000 problems of seven data science libraries; `ds1000` and `ds1000_insertion`.

Each problem contains its own test functions. An answer passes if `test_execution`, and `test_string` if there is one,
run to their end. They run in a separate Python environment (`make ds1000`), because the tests were written for certain
library versions, and in sessions forked from a process that has already imported the libraries. Problems of libraries
that are not installed there (TensorFlow, PyTorch) are not run, and never count as failed.

An answer runs in the same process as its tests, so the limits described in `sandbox/session.py` apply: exiting early
does not pass, but an answer can patch functions that the tests call. The data is licensed CC BY-SA 4.0 and contains a
canary. It is read in place and never used for training, and no output may contain its text.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.answers.fences import unix_text
from reflectioncoder.syntax.answers.program import Asked, read_program
from reflectioncoder.tasks.base import Prompt, Task, TaskOptions, Verdict, file_and_digest, not_run
from reflectioncoder.tasks.evalplus.data import read_values

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Isolation, Limits

VERSIONS = {
    "numpy": "1.26.4",
    "pandas": "1.5.3",
    "scipy": "1.12.0",
    "scikit-learn": "1.4.0",
    "matplotlib": "3.8.4",
    "seaborn": "0.13.2",
}
DS1000_PRELOAD = (
    "numpy",
    "pandas",
    "scipy.stats",
    "scipy.optimize",
    "sklearn",
    "matplotlib.pyplot",
    "seaborn",
    "PIL.Image",
)
PYTHON_VARIABLE = "REFLECTIONCODER_DS1000_PYTHON"
STOPS = ("</code>", "# SOLUTION END", "\nEND SOLUTION", "\n```")
REFERENCE_FACTOR = 10.0  # time limit, in multiples of the reference solution's time on this machine
_OURS = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)
_DOWNLOADS = re.compile(r"^from sklearn\.datasets import .*\bfetch_", re.MULTILINE)
_PUT = re.compile(
    r"^(?P<names>.+?) = \.\.\. # put solution in (?:this|these) variables?\n(?P<rest>BEGIN SOLUTION\n<code>\n?)$", re.M
)


class DS1000(Task):
    """The problems, in the completion format or the insertion format.

    The data file (edition of 2024) has completion prompts only. Insertion prompts are derived from them in the format
    of the first edition: `[insert]` marks the place of the solution instead of a comment, and the code after it is
    shown.
    """

    max_new_tokens = 512  # appendix B
    reads_answers = True

    def __init__(self, options: TaskOptions | None = None, insertion: bool = False) -> None:
        """Read the problems.

        Args:
            options: `data` is the folder with `ds1000.jsonl` (or `.jsonl.gz`), or its parent; `limit` counts.
            insertion: use the insertion format.

        Raises:
            UserError: the file is missing, or a row is not a DS-1000 problem.
        """
        options = options or TaskOptions()
        self.name, self.insertion = "ds1000_insertion" if insertion else "ds1000", insertion
        self.path = _data_file(options.data)
        self.tests = file_and_digest(self.path)
        self.problems = dict(list(_read(self.path).items())[: options.limit or None])
        self.python = environment()
        self._reference_seconds: dict[str, float] = {}

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order; completion prompts are those of the data, unchanged (appendix D)."""
        made = []
        for task_id, row in self.problems.items():
            text = _insertion(row) if self.insertion else row["prompt"]
            continuation = f"{text}\n\nThe code at [insert]:\n```python\n" if self.insertion else text
            made.append(Prompt(task_id, text, continuation, STOPS))
        return made

    def part(self, task_id: str) -> str:
        """The library of the problem, such as "Pandas"."""
        return str(self.problems[task_id]["metadata"].get("library", ""))

    def rows(self, row: Any) -> list[Any]:
        """Accept DS-1000's own format as well: an "id", or metadata, and a "code", or a list of them."""
        if not isinstance(row, dict) or "code" not in row or "task_id" in row:
            return [row]
        several = row["code"] if isinstance(row["code"], list) else [row["code"]]
        task_id = row.get("id", row["metadata"].get("problem_id") if isinstance(row.get("metadata"), dict) else None)
        return [{"task_id": str(task_id), "completion": code} for code in several]

    def interpreter(self, limits: Limits, isolation: Isolation = "auto") -> Interpreter:
        """Open an interpreter with the environment's Python, the libraries preloaded and seaborn's data visible."""
        from reflectioncoder.interpreter.interpreter import Interpreter

        if not self.python:
            return Interpreter(limits, isolation, libraries=self.libraries)
        variables, visible = {"MPLBACKEND": "Agg"}, []
        plots = self.path.parent / "seaborn-data"
        if plots.is_dir():  # read-only for programs, which have no network to download it
            visible, variables["SEABORN_DATA"] = [str(plots)], str(plots.resolve())
        preload = [
            name for name in DS1000_PRELOAD if name.partition(".")[0] not in _absent(self.python, DS1000_PRELOAD)
        ]
        wanted = {
            name for row in self.problems.values() for name in _OURS.findall(_code(row))
        } - sys.stdlib_module_names
        wanted -= _absent(self.python, tuple(sorted(wanted)))
        libraries = sorted({*wanted, *self.libraries})
        return Interpreter(limits, isolation, preload, visible, self.python, variables, libraries)

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run the problem's tests on an answer; see `Task.check`.

        After a time-out the reference solution is timed, and the answer is run again if `REFERENCE_FACTOR` times that
        processor time exceeds the limit.

        Returns:
            the verdict; `not_run` if the environment or a library that the problem needs is missing, or if its tests
            download a data set.
        """
        row = self.problems.get(task_id)
        if row is None:
            raise UserError(f"task {self.name}: no problem '{task_id}' in it")
        if not self.python:
            return not_run(f"no environment for DS-1000: run make ds1000, or set {PYTHON_VARIABLE}")
        if _DOWNLOADS.search(row["code_context"]):
            return not_run("its tests download a data set, and programs have no network")
        wanted = tuple(sorted(set(_OURS.findall(row["code_context"]))))
        absent = sorted(_absent(self.python, wanted))
        if absent:
            return not_run(f"{', '.join(absent)}: not installed for {self.python}")
        verdict, _ = _run(row, cut_answer(completion), interpreter, limits)
        if verdict.outcome != "timeout":
            return verdict
        if task_id not in self._reference_seconds:
            generous = dataclasses.replace(limits, seconds=10 * limits.seconds)
            reference, counted = _run(row, row["reference_code"], interpreter, generous)
            if reference.outcome == "infrastructure":
                return reference
            self._reference_seconds[task_id] = counted
        seconds = REFERENCE_FACTOR * self._reference_seconds[task_id]
        if seconds <= limits.seconds:
            return verdict
        return _run(row, cut_answer(completion), interpreter, dataclasses.replace(limits, seconds=seconds))[0]

    def measure_again(self, task_id: str, interpreter: Interpreter) -> None:
        """Have the reference solution timed once more; see `Task.measure_again`."""
        self._reference_seconds.pop(task_id, None)


def _code(row: dict[str, Any]) -> str:
    return f"{row['code_context']}\n{row['reference_code']}"


def cut_answer(completion: str) -> str:
    """Extract the code of an answer: without the tags and fences around it, and up to the first of `STOPS`."""
    text = unix_text(completion)
    if "```" in text or "~~~" in text or "</" in text:
        text = read_program(text, Asked(opened=True)).code.rstrip("\n") or text
    text = re.sub(r"\A\s*(?:BEGIN SOLUTION\s*)?<code>\n?", "", text)
    ends = [place for stop in STOPS if (place := f"\n{text}".find(stop)) >= 0]
    return f"\n{text}"[: min(ends, default=len(text) + 1)][1:]


def environment() -> str:
    """Path of the Python of DS-1000's environment; empty if there is none.

    It is the value of the environment variable `PYTHON_VARIABLE`, or the Python of `.venv-ds1000` in the current
    directory or beside the package.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return named
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        python = folder / ".venv-ds1000" / "bin" / "python"
        if python.is_file():
            return str(python)
    return ""


def installed_versions(python: str) -> dict[str, str]:
    """Versions of the libraries of `VERSIONS` in an environment; empty for a missing one.

    Args:
        python: path of the environment's Python.

    Raises:
        UserError: Python cannot be run.
    """
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({name: have.get(name, '') for name in sys.argv[1:]}))"
    )
    found: dict[str, str] = json.loads(_asked(python, ask, *VERSIONS))
    return found


@cache
def _absent(python: str, modules: tuple[str, ...]) -> frozenset[str]:
    """The top-level modules that an environment lacks."""
    ask = "import importlib.util as u, sys\nprint(*(name for name in sys.argv[1:] if u.find_spec(name) is None))"
    return frozenset(_asked(python, ask, *{name.partition(".")[0] for name in modules}).split())


def _asked(python: str, *words: str) -> str:
    try:
        argv = [python, "-s", "-P", "-c", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"environment of DS-1000, {python}: cannot be run ({error}); run make ds1000") from None


def _run(row: dict[str, Any], solution: str, interpreter: Interpreter, limits: Limits) -> tuple[Verdict, float]:
    """Return the verdict on a solution, and what a time limit counts of its seconds."""
    tests = "test_execution(answer)\n"
    if "def test_string(" in row["code_context"]:
        tests += "test_string(answer)\n"
    with interpreter.session(limits, module=True) as session:  # separate cells: tracebacks show cells
        result = session.run_together([row["code_context"], f"answer = {solution!r}", tests])
        counted = limits.seconds if result.outcome == "timeout" else session.counted_seconds(result.seconds)
    return Verdict(result.ok, result.outcome, result.error, result.seconds), counted


def _insertion(row: dict[str, Any]) -> str:
    """Derive the insertion prompt from the completion prompt."""
    prompt: str = row["prompt"]
    put = _PUT.search(prompt)
    if put:
        names = [name.strip() for name in put["names"].split(",")]
        after = "".join(f"print({name})\n" for name in names)
        return (
            f"{prompt[: put.start()]}{put['rest'].rstrip()}\n[insert]\n</code>\nEND SOLUTION\n<code>\n{after}</code>\n"
        )
    end = "# SOLUTION END" if prompt.rstrip().endswith("# SOLUTION START") else "### END SOLUTION"
    if prompt.rstrip().endswith("<code>"):
        end = "</code>\nEND SOLUTION"
    return f"{prompt.rstrip()}\n[insert]\n{end}\n"


def _data_file(folder: str) -> Path:
    if not folder:
        raise UserError("task ds1000: give the folder of ds1000.jsonl with --data (github.com/xlang-ai/DS-1000, data/)")
    for place in (
        Path(folder) / below / name for below in ("", "ds1000") for name in ("ds1000.jsonl", "ds1000.jsonl.gz")
    ):
        if place.is_file():
            return place
    raise UserError(f"task ds1000: no file ds1000.jsonl in {folder} or {folder}/ds1000")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    problems: dict[str, dict[str, Any]] = {}
    for where, row in read_values(path)[0]:
        texts = ("prompt", "reference_code", "code_context")
        if not isinstance(row, dict) or any(not isinstance(row.get(name), str) for name in texts):
            raise UserError(f"{where}: not a problem of DS-1000; it needs {', '.join(texts)} and metadata")
        metadata = row.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("problem_id"), int):
            raise UserError(f"{where}: 'metadata' must have a 'problem_id'")
        if "def test_execution(" not in row["code_context"]:
            raise UserError(f"{where}: 'code_context' has no test_execution; use the edition of 2024 (ds1000.jsonl)")
        task_id = str(metadata["problem_id"])
        if task_id in problems:
            raise UserError(f"{where}: problem {task_id} occurs twice")
        problems[task_id] = row
    if not problems:
        raise UserError(f"file {path}: holds no problems")
    return problems
