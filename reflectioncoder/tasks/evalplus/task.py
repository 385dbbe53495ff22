"""HumanEval, HumanEval+, MBPP and MBPP+ with evalplus's data and verdicts, run in the project's isolation.

The candidate's function is called on all inputs of a group of tests: the base tests, then those that evalplus added.
Each group runs in its own namespace. The returned values are compared outside the candidate's process (`compare.py`)
with those of the canonical solution (`expected.py`). The time limit of a call is four times the reference's time on
this machine, and at least one second, as in evalplus; but it is processor time, so other work on the machine changes no
verdict.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter import calls
from reflectioncoder.sandbox import caller
from reflectioncoder.syntax.answers.python_text import behind_prompt
from reflectioncoder.tasks import release
from reflectioncoder.tasks.base import RELEASE_VERSION, Prompt, Task, TaskOptions, Verdict
from reflectioncoder.tasks.evalplus.compare import first_wrong, mode_of
from reflectioncoder.tasks.evalplus.data import (
    HUMANEVAL_SOURCE,
    MBPP_SOURCE,
    DataSource,
    PlusProblem,
    find_plus,
    read_plus,
)
from reflectioncoder.tasks.evalplus.expected import Expected, ReferenceProgram

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits

MOST_SECONDS, SPARE_SECONDS = 60.0, 2.0  # time limit of a group of tests
CONTINUATION_STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\n#", "\n```", "\nassert ")
WHOLE_STOPS = ('\n"""', "\nif __name__", "\nprint(", "\n```", "\nassert ")


class EvalPlusTask(Task):
    """Base class of the four benchmarks; `humaneval` and `mbpp` use the base tests only."""

    max_new_tokens = 512
    source: DataSource
    dataset: str
    groups: tuple[str, ...] = ("base",)

    def __init__(self, options: TaskOptions | None = None) -> None:
        """Read the problems. Raises UserError if the data is missing or damaged."""
        options = options or TaskOptions()
        path = find_plus(self.source, options.data)
        assert path is not None  # a missing file is downloaded, or an error is raised
        problems, digest = read_plus(self.source, path)
        self.problems = {problem.task_id: problem for problem in problems[: options.limit or None]}
        self.tests = f"{path.name} {digest[:16]}"
        self._expected = Expected(self.dataset, digest)
        self._release = options.semantics == "release"
        if self._release:
            self.prompt_version, self.max_new_tokens = RELEASE_VERSION, release.RELEASE_TOKENS
        self._least, self._factor = options.min_time_limit, options.gt_time_limit_factor
        self._packed: dict[str, str] = {}

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order, formatted as in appendix D, or as in the authors' release."""
        made = [self.prompt(problem) for problem in self.problems.values()]
        if not self._release:
            return made
        asked = [self.release_instruction(problem) for problem in self.problems.values()]
        return [dataclasses.replace(p, instruction=i, fence_stops=()) for p, i in zip(made, asked, strict=True)]

    def read_release(self, task_id: str, answer: str) -> tuple[str, bool]:
        """Read an answer as the authors' script does; see `Task.read_release`."""
        return release.cut_release_python(answer), False

    @abstractmethod
    def release_instruction(self, problem: PlusProblem) -> str:
        """Return the user message of the authors' script."""

    @abstractmethod
    def prompt(self, problem: PlusProblem) -> Prompt:
        """Return the prompt of a problem."""

    def cost(self, task_id: str) -> float:
        """Seconds that the canonical solution takes on this machine; 0 if not measured yet."""
        return sum(self._expected.seconds(f"{task_id} {group}") for group in self.groups)

    def measure_again(self, task_id: str, interpreter: Interpreter) -> None:
        """Time the canonical solution once more; see `Task.measure_again`."""
        problem = self.problems[task_id]
        for group in self.groups:
            self._expected.measure_again(f"{task_id} {group}", self._program(problem, group), interpreter)

    def _program(self, problem: PlusProblem, group: str) -> ReferenceProgram:
        """Return the canonical solution with the calls of a group of tests."""
        key, name, inputs = f"{problem.task_id} {group}", problem.entry_point, problem.inputs[group]
        if key not in self._packed:
            self._packed[key] = caller.pack_program(inputs)
        return ReferenceProgram(problem.reference, name, self._packed[key], len(inputs), mode_of(self.dataset, name))

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run the tests on a completion, group by group until one fails; see `Task.check`.

        As in evalplus, a completion is appended to the prompt, even if it defines the function itself. Only what must
        come first in a program, imports from `__future__`, is put in front of the prompt.
        """
        problem = self.problems.get(task_id)
        if problem is None:
            some = ", ".join(list(self.problems)[:2])
            raise UserError(f"task {self.name}: no problem '{task_id}' in it; ids look like {some}")
        program = completion if whole else behind_prompt(problem.prompt, completion, problem.entry_point)
        groups: list[tuple[str, str]] = []
        verdict, seconds = Verdict(True, "ok"), 0.0
        for group in self.groups:
            verdict = self._check_group(problem, group, program, interpreter, limits)
            groups.append((group, verdict.outcome))
            seconds += verdict.seconds
            if not verdict.passed:
                break
        return dataclasses.replace(verdict, seconds=seconds, groups=tuple(groups))

    def _check_group(
        self, problem: PlusProblem, group: str, program: str, interpreter: Interpreter, limits: Limits
    ) -> Verdict:
        name, inputs, asked = problem.entry_point, problem.inputs[group], self._program(problem, group)
        known = self._expected.get(f"{problem.task_id} {group}", asked, interpreter)
        if isinstance(known, str):
            return Verdict(False, "infrastructure", known)
        seconds = [max(self._least, self._factor * taken) for taken in known.seconds]
        together = min(max([MOST_SECONDS, *seconds]), sum(seconds)) + SPARE_SECONDS + self._factor * known.handling
        limits = calls.with_time(limits, together, known.chars)
        with interpreter.session(limits, module=True) as session:
            made = calls.call_all(session, program, name, asked.packed, seconds, limits, asked.mode)
        if made.outcome == "infrastructure":
            return Verdict(False, "infrastructure", made.error, made.seconds)
        wrong = first_wrong(self.dataset, name, inputs, made.records, known.records, problem.atol)
        if wrong is not None:
            return Verdict(False, "wrong", f"wrong value in call {wrong} of the {group} tests", made.seconds)
        return Verdict(made.outcome == "ok", made.outcome, made.error, made.seconds)


class HumanEvalBase(EvalPlusTask):
    """The 164 functions of HumanEval with their original tests."""

    name, source, dataset = "humaneval", HUMANEVAL_SOURCE, "humaneval"

    def prompt(self, problem: PlusProblem) -> Prompt:
        """Return the prompt of appendix D: the instruction, then the original prompt."""
        instruction = f"Write a complete Python function for the problem.\n\n{problem.prompt}"
        return Prompt(problem.task_id, instruction, problem.prompt, CONTINUATION_STOPS, function=problem.entry_point)

    def release_instruction(self, problem: PlusProblem) -> str:
        """Return the user message of the authors' script."""
        return release.release_function_prompt(problem.prompt)


class HumanEvalPlus(HumanEvalBase):
    """HumanEval with its original tests and those of evalplus."""

    name, groups = "humaneval_plus", ("base", "plus")


class MbppBase(EvalPlusTask):
    """The 378 problems of MBPP that evalplus kept, with their original tests."""

    name, source, dataset = "mbpp", MBPP_SOURCE, "mbpp"

    def prompt(self, problem: PlusProblem) -> Prompt:
        """Return the prompt of appendix D: the description, then the one assert in evalplus's prompt."""
        text, found, test = problem.prompt.strip().strip('"').strip().partition("\nassert")
        shown = f"```python\n{found.strip()}{test.rstrip()}\n```"
        instruction = f"{text.strip()}\nYour code should satisfy the following assertion:\n{shown}"
        return Prompt(problem.task_id, instruction, problem.prompt, WHOLE_STOPS, function=problem.entry_point)

    def release_instruction(self, problem: PlusProblem) -> str:
        """Return the user message of the authors' script."""
        return release.release_assertion_prompt(problem.prompt)


class MbppPlus(MbppBase):
    """MBPP with its original tests and those of evalplus."""

    name, groups = "mbpp_plus", ("base", "plus")
