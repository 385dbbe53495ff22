"""Tasks made of `Problem`s with asserts: procedural held-out, handwritten, and problems from a file.

The procedural ones come from the generator's held-out split, of which no composition is ever trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.problems import load as sources
from reflectioncoder.problems.problem import Problem
from reflectioncoder.tasks.base import ANSWER_OPENING, Prompt, Task, TaskOptions, Verdict, file_and_digest
from reflectioncoder.tasks.run_tests import run_tests

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits

HELDOUT_COUNT = 300


class ProblemTask(Task):
    """Problems whose tests are single asserts that stand after the answer."""

    def __init__(self, name: str, problems: Sequence[Problem], max_new_tokens: int) -> None:
        """A task of these problems.

        Raises:
            UserError: no problems, one without tests, or two of the same id.
        """
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.problems = {problem.id: problem for problem in problems}
        if not problems:
            raise UserError(f"task {name}: no problems in it")
        if len(self.problems) < len(problems):
            raise UserError(f"task {name}: {len(problems) - len(self.problems)} problem ids occur more than once")
        for problem in problems:
            if not problem.tests:
                raise UserError(f"task {name}: problem '{problem.id}' has no tests, so no answer can be checked")

    def prompts(self) -> list[Prompt]:
        """The instructions in order."""
        return [
            Prompt(problem.id, problem.instruction, f"{problem.instruction}\n\n{ANSWER_OPENING}")
            for problem in self.problems.values()
        ]

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run the problem's asserts after the completion; see `Task.check`."""
        problem = self.problems.get(task_id)
        if problem is None:
            raise UserError(f"task {self.name}: no problem '{task_id}' in it")
        return run_tests([completion], "\n".join(problem.tests), interpreter, limits)


def procedural_task(options: TaskOptions) -> ProblemTask:
    """Held-out procedural problems of these levels: `limit` of them, or 300."""
    from reflectioncoder.problems.procedural import problems as procedural

    problems = procedural.procedural_problems(options.limit or HELDOUT_COUNT, options.seed, "heldout", options.levels)
    return ProblemTask("heldout", problems, 160)


def handwritten_task(options: TaskOptions) -> ProblemTask:
    """The problems written for this project."""
    return ProblemTask("handwritten", sources.handwritten()[: options.limit or None], 256)


def file_task(path: str, options: TaskOptions) -> ProblemTask:
    """Problems of a file, in our own field names."""
    task = ProblemTask(path, list(sources.load_problems(path))[: options.limit or None], 512)
    task.tests = file_and_digest(Path(path))
    return task
