"""MBPP (Austin et al., 2021) as published, with 500 test problems, used if evalplus's data is not available.

Its tests are asserts that run in the candidate's process. `evalplus/task.py` compares values outside that process and
has the 378 problems that evalplus reviewed. The paper's figures use those, so scores of this task are not comparable
with them.
"""

from __future__ import annotations

import ast
import builtins
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.trees import parse, walk
from reflectioncoder.tasks.base import Prompt, Task, TaskOptions, Verdict
from reflectioncoder.tasks.evalplus.data import MBPP_SOURCE, find_file, find_plus, read_rows
from reflectioncoder.tasks.evalplus.task import WHOLE_STOPS, MbppBase
from reflectioncoder.tasks.run_tests import run_tests

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits

TEST_SPLIT = range(11, 511)


def mbpp_task(options: TaskOptions) -> Task:
    """Open MBPP, compared by values unless a data folder has only the published file; `Task.tests` says which tests."""
    if options.data and find_plus(MBPP_SOURCE, options.data, download=False) is None:
        path = find_file(["mbpp"], ["mbpp.jsonl", "mbpp.jsonl.gz"], options.data)
        if path is not None:
            return Mbpp(path, options)
    return MbppBase(options)


class Mbpp(Task):
    """Functions to write, given a description and one assert. An answer must pass all asserts of its problem."""

    name = "mbpp"
    max_new_tokens = 512

    def __init__(self, path: Path, options: TaskOptions | None = None) -> None:
        """Read the problems.

        Args:
            path: `mbpp.jsonl` as published by Google (key "text"), or the sanitized edition (key "prompt").
            options: only `limit` is used.

        Raises:
            UserError: the file is not a file of MBPP problems, or has none of the test split.
        """
        rows, digest = read_rows(path)
        self.tests = f"{path.name} {digest[:16]}, asserts of the test split"
        self.problems: dict[str, tuple[str, list[str], str]] = {}
        for number, row in enumerate(rows, 1):
            text, tests = row.get("text", row.get("prompt")), row.get("test_list")
            if not isinstance(text, str) or not isinstance(tests, list) or not tests or not all(map(_is_text, tests)):
                raise UserError(f"data file {path}, line {number}: not an MBPP problem with a text and a test_list")
            if row["task_id"] in TEST_SPLIT:
                before = [*row.get("test_imports", ()), row.get("test_setup_code", "")]
                self.problems[f"Mbpp/{row['task_id']}"] = text, tests, "\n".join(map(str, before))
        if not self.problems:
            raise UserError(f"data file {path}: no problems of MBPP's test split (ids 11 to 510)")
        limit = options.limit if options else 0
        self.problems = dict(list(self.problems.items())[: limit or None])

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order, each with its first assert, as in evalplus's prompts (appendix D)."""
        made = []
        for task_id, (text, tests, _) in self.problems.items():
            shown = f"Your code should satisfy the following assertion:\n```python\n{tests[0].strip()}\n```"
            continuation = f'"""\n{text.strip()}\n{tests[0].strip()}\n"""\n'
            made.append(
                Prompt(task_id, f"{text.strip()}\n{shown}", continuation, WHOLE_STOPS, function=_tested(tests[0]))
            )
        return made

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run the problem's asserts after a completion, which is always a whole program; see `Task.check`."""
        if task_id not in self.problems:
            raise UserError(f"task mbpp: no problem '{task_id}' in it; ids go from Mbpp/11 to Mbpp/510")
        _, tests, before = self.problems[task_id]
        return run_tests([completion], "\n".join([before, *tests]), interpreter, limits)


def _tested(test: str) -> str:
    """Name of the function that an assert calls; empty if it calls none."""
    try:
        calls = [node.func for node in walk(parse(test)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return ""
    names = [called.id for called in calls if isinstance(called, ast.Name) and not hasattr(builtins, called.id)]
    return names[0] if names else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
