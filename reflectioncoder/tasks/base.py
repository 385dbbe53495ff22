"""Benchmarks. A task is one small file with two methods: `prompts()` and `check(task_id, completion, ...)`.

Candidates run in the project's interpreter. The candidate's cells and the tests, in a separate cell, form one program,
so a candidate's syntax errors or early exits do not affect the tests; the interpreter verifies that every statement
was run. A value that equals everything does not pass a comparison. A candidate can still patch functions that the tests
call (such as `abs`). For problems given as examples, the judge outside the sandbox (`interpreter/judge.py`) prevents
that.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Isolation, Limits

FENCE_STOP = ("\n```",)
ANSWER_OPENING = "```python\n"
RELEASE_VERSION = "release"  # `Task.prompt_version` under `semantics = "release"`


@dataclass(frozen=True)
class Try:
    """A program that the model wrote for a problem before, and what came of it (`evaluate/rounds.py`).

    Args:
        said: the model's whole answer, for chat models.
        analysis: what it says before the program, for models that write blocks.
        program: the program with asserts, as it was run; if it was not run yet, the beginning of one to be continued.
        output: what the interpreter printed; None if it was not run yet.
        asked: the user's message after it, for chat models.
    """

    said: str
    analysis: str
    program: str
    output: str | None
    asked: str


@dataclass(frozen=True)
class Prompt:
    """The prompt of one problem, for every prompt style.

    Args:
        task_id: id of the problem, unique within its task.
        instruction: the user message in the styles `native` and `chat`.
        continuation: the text that the model continues in style `plain`.
        stops: stop strings of style `plain`.
        opening: beginning of the answer in the styles `native` and `chat`: a fence, followed by the prompt in
            MultiPL-E.
        fence_stops: stop strings of the styles `native` and `chat`.
        function: name of the function or class that an answer must define; empty if unknown.
        answer: what an answer is: `code`, or `text` that is kept as it is but for a model's thoughts.
        tries: the model's programs before; if there are any, it analyses and repairs the last one. Only in the styles
            `native` and `chat`, in which `opening` is then not used.
    """

    task_id: str
    instruction: str
    continuation: str
    stops: tuple[str, ...] = FENCE_STOP
    opening: str = ANSWER_OPENING
    fence_stops: tuple[str, ...] = FENCE_STOP
    function: str = ""
    answer: Literal["code", "text"] = "code"
    tries: tuple[Try, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a completion passes its tests.

    Args:
        passed: whether all tests ran to their end and passed.
        outcome: "ok", "wrong" (a different value was returned), the interpreter's outcome, "not_run" if this machine
            lacks something the check needs, or "infrastructure" if the interpreter itself failed. The last two say
            nothing about the program and never count as failures.
        error: the exception and its first line, or another reason; empty if there is none.
        seconds: total wall-clock time.
        groups: outcome of each group of tests, in order, if a problem has several ("base" and "plus").
    """

    passed: bool
    outcome: str
    error: str = ""
    seconds: float = 0.0
    groups: tuple[tuple[str, str], ...] = ()


def not_run(reason: str) -> Verdict:
    """Make the verdict for a machine that lacks something the check needs."""
    return Verdict(False, "not_run", reason)


def no_release(task: str) -> UserError:
    """Make the error for a task that the authors' test script does not have."""
    return UserError(
        f"semantics = release: the authors' test script has no task {task}; it has humaneval, humaneval_plus, mbpp and"
        " mbpp_plus with evalplus's data, and multipl_e_*"
    )


class Task(ABC):
    """A benchmark: a name, the maximum number of tokens of an answer, and two methods.

    `prompt_version` changes whenever the text of a prompt changes; it is `RELEASE_VERSION` for the authors' strings.
    `tests` identifies the tests, for example by the name and digest of a data file. Both are recorded with every score.
    `libraries` are those that programs may import; `evaluate` sets them. `reads_answers` says that `check` itself finds
    the code in an answer with fences and prose.

    Example: examples/own_task.py, and "A task" in docs/extending.md.
    """

    name: str
    max_new_tokens: int
    prompt_version: str = "1"
    tests: str = ""
    libraries: Sequence[str] = DEFAULT_LIBRARIES
    reads_answers: bool = False

    @abstractmethod
    def prompts(self) -> list[Prompt]:
        """Return the prompts of all problems, in order."""

    @abstractmethod
    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run a completion against all of the problem's tests.

        Args:
            task_id: id of the problem.
            completion: the code: a continuation of the prompt, or a whole function.
            interpreter: an interpreter opened by `interpreter`; programs in other languages run in its `workspace`.
            limits: limits of one program. A task that measures its reference solution on this machine sets its own
                time limit.
            whole: whether the completion is a whole program ("solution" in evalplus's files), to be run as it is.

        Raises:
            UserError: the task has no problem with this id.
        """

    def read_release(self, task_id: str, answer: str) -> tuple[str, bool]:
        """Read an answer as the authors' test script does, under `semantics = "release"`.

        Args:
            task_id: id of the problem.
            answer: the decoded text.

        Returns:
            the code, and whether it is a whole program.

        Raises:
            UserError: the authors' script does not have this task.
        """
        raise no_release(self.name)

    def measure_again(self, task_id: str, interpreter: Interpreter) -> None:  # noqa: B027 (most tasks measure nothing)
        """Measure anew what a problem's time limits depend on; called before a time-out is checked a second time.

        Args:
            task_id: id of the problem.
            interpreter: an interpreter opened by `interpreter`; nothing else runs in it.
        """

    def cost(self, task_id: str) -> float:
        """Expected seconds that a correct answer takes; 0 if unknown. The longest problems are checked first."""
        return 0.0

    def part(self, task_id: str) -> str:
        """The part of the benchmark that a problem belongs to, which has its own score; empty if there are no parts."""
        return ""

    def rows(self, row: Any) -> list[Any]:
        """Split one line of a completions file into samples, in case the benchmark has its own format."""
        return [row]

    def interpreter(self, limits: Limits, isolation: Isolation = "auto") -> Interpreter:
        """Open an interpreter for `check` that preloads the libraries, or shows the toolchain, that the task needs."""
        from reflectioncoder.interpreter.interpreter import Interpreter

        return Interpreter(limits, isolation, libraries=self.libraries)


@dataclass(frozen=True)
class TaskOptions:
    """Options of a task.

    Args:
        seed: seed of the held-out problems.
        limit: number of problems to take from the start; 0 takes all.
        levels: difficulty levels of the held-out problems.
        data: folder of all benchmarks' data files, or of this one's; empty for the default location.
        min_time_limit: shortest time limit of a call in seconds, for tasks that time a reference solution.
        gt_time_limit_factor: time limit of a call as a multiple of the reference solution's time.
        semantics: `release` for the prompts and cuts of the authors' test script.
    """

    seed: int = 0
    limit: int = 0
    levels: tuple[int, ...] = (1, 2, 3, 4)
    data: str = ""
    min_time_limit: float = 1.0
    gt_time_limit_factor: float = 4.0
    semantics: Literal["paper", "release"] = "paper"


def file_and_digest(path: Path) -> str:
    """Return the value of `Task.tests` for a data file: its name and the first 16 digits of its SHA-256 digest."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
