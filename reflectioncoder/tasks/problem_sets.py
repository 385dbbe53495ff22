"""Tasks made of `Problem`s: held-out generated ones, handwritten ones, and problems from a file.

Held-out problems come from a generator's held-out split; none of its compositions is used for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.problems import load as sources
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.answers.number import read_number
from reflectioncoder.tasks.base import ANSWER_OPENING, Prompt, Task, TaskOptions, Verdict, file_and_digest
from reflectioncoder.tasks.run_tests import run_tests

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits

HELDOUT_COUNT = 300


class _ProblemsById(Task):
    """Problems by their ids."""

    def __init__(self, name: str, problems: Sequence[Problem], max_new_tokens: int) -> None:
        """Make a task of problems.

        Args:
            name: name of the task.
            problems: the problems, with unique ids.
            max_new_tokens: maximum number of tokens of an answer.

        Raises:
            UserError: there are no problems, two of them have the same id, or one cannot be checked.
        """
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.problems = {problem.id: problem for problem in problems}
        if not problems:
            raise UserError(f"task {name}: no problems in it")
        if len(self.problems) < len(problems):
            raise UserError(f"task {name}: {len(problems) - len(self.problems)} problem ids occur more than once")


class ProblemTask(_ProblemsById):
    """Problems whose tests are single asserts that run after the answer."""

    def __init__(self, name: str, problems: Sequence[Problem], max_new_tokens: int) -> None:
        super().__init__(name, problems, max_new_tokens)
        for problem in problems:
            if not problem.tests:
                raise UserError(f"task {name}: problem '{problem.id}' has no tests, so no answer can be checked")

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order."""
        return [
            Prompt(
                problem.id,
                problem.instruction,
                f"{problem.instruction}\n\n{ANSWER_OPENING}",
                function=problem.entry_point or "",
            )
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


class NumberTask(_ProblemsById):
    """Problems whose answers are text with a number, which is read by the rule in `syntax/answers/number.py`."""

    reads_answers = True

    def __init__(self, name: str, problems: Sequence[Problem], max_new_tokens: int) -> None:
        super().__init__(name, problems, max_new_tokens)
        self.numbers = {}
        for problem in problems:
            self.numbers[problem.id] = number = read_number(problem.answer)
            if number is None:
                raise UserError(f"task {name}: the answer of problem '{problem.id}' does not end in `Answer: NUMBER`")

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order; answers are text, with nothing before it."""
        return [
            Prompt(
                problem.id,
                problem.instruction,
                f"{problem.instruction}\n\n",
                stops=("\n\n",),
                opening="",
                fence_stops=(),
                answer="text",
            )
            for problem in self.problems.values()
        ]

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Compare the number of an answer with the problem's, exactly; nothing is run."""
        if task_id not in self.numbers:
            raise UserError(f"task {self.name}: no problem '{task_id}' in it")
        found = read_number(completion)
        if found is None:
            return Verdict(False, "wrong", "the last line is not `Answer: NUMBER`")
        right = found == self.numbers[task_id]
        return Verdict(right, "ok" if right else "wrong", "" if right else f"the number is {found}")


def generated_task(
    options: TaskOptions, name: str = "heldout", generator: str = "procedural"
) -> ProblemTask | NumberTask:
    """Generate held-out problems of `options.levels`: `options.limit` of them, or 300."""
    from reflectioncoder.problems.generators import generated_problems

    count = options.limit or HELDOUT_COUNT
    problems = generated_problems(generator, count, options.seed, "heldout", options.levels)
    return (NumberTask if problems[0].answer else ProblemTask)(name, problems, 160)


def handwritten_task(options: TaskOptions) -> ProblemTask:
    """The handwritten problems of this project."""
    return ProblemTask("handwritten", sources.handwritten()[: options.limit or None], 256)


def file_task(path: str, options: TaskOptions) -> ProblemTask:
    """Read the problems of a file, with this project's field names.

    Raises:
        UserError: the file cannot be read, or see `ProblemTask`.
    """
    task = ProblemTask(path, list(sources.load_problems(path))[: options.limit or None], 512)
    task.tests = file_and_digest(Path(path))
    return task
