"""Benchmarks. A task is one small file with two methods: `prompts()` and `check(task_id, completion, ...)`.

Candidates run in the project's interpreter: their own cells and the tests, in a cell of their own, as one program, so
that a candidate's syntax or early exit cannot reach the tests; the interpreter vouches for every statement having run.
No compared value may equal everything. A candidate could still patch what the tests call (`abs`, say); the outside
judge (`judge.py`) closes that for problems that are given as examples.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Isolation, Limits

FENCE_STOP = ("\n```",)
ANSWER_OPENING = "```python\n"


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Args:
        task_id: name of the problem within its task.
        instruction: the user's message of the styles `native` and `chat`.
        continuation: the text that style `plain` has the model continue.
        stops: texts at which a continuation of style `plain` ends; the other styles end at the closing fence.
        opening: how the answer begins in the styles `native` and `chat`: a fence, and what may follow it (MultiPL-E).
    """

    task_id: str
    instruction: str
    continuation: str
    stops: tuple[str, ...] = FENCE_STOP
    opening: str = ANSWER_OPENING


@dataclass(frozen=True)
class Verdict:
    """Whether a completion passes its tests.

    Args:
        passed: all tests were run to the end and hold.
        outcome: "ok", "wrong" (another value came back), the interpreter's outcome, "not_run" where this machine
            lacks what the check needs; "infrastructure" where the interpreter itself failed. The last two
            say nothing about the program and never count as a failure.
        error: the exception and its first line, or the reason; empty where there was none.
        seconds: of all of it.
        groups: outcome of each group of tests, in order, where a problem has several ("base" and "plus").
    """

    passed: bool
    outcome: str
    error: str = ""
    seconds: float = 0.0
    groups: tuple[tuple[str, str], ...] = ()


def not_run(reason: str) -> Verdict:
    """The verdict where this machine lacks what a check needs."""
    return Verdict(False, "not_run", reason)


class Task(ABC):
    """A benchmark: its name, the most tokens an answer needs, and two methods.

    `prompt_version` changes whenever a prompt's text does; `tests` says which tests decide, such as a data file with
    its digest. Both are recorded with every score.
    """

    name: str
    max_new_tokens: int
    prompt_version: str = "1"
    tests: str = ""

    @abstractmethod
    def prompts(self) -> list[Prompt]:
        """The problems in order."""

    @abstractmethod
    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run a completion against all of the problem's tests.

        Args:
            task_id: of the problem.
            completion: code: what continues the prompt, or a whole function.
            interpreter: an open one that `interpreter` made; programs of other languages run in a `workspace` of it.
            limits: of one program. A task that has measured how long the reference takes here sets the time itself.
            whole: the completion is the whole program ("solution" in evalplus's files), to be run as it stands.

        Raises:
            UserError: a task id that is not of this task.
        """

    def cost(self, task_id: str) -> float:
        """Seconds that a right answer to a problem takes, as far as known; the longest are checked first."""
        return 0.0

    def part(self, task_id: str) -> str:
        """The part of the benchmark that a problem belongs to, scored by itself as well; empty where there are none."""
        return ""

    def rows(self, row: Any) -> list[Any]:
        """The samples that a line of a file of completions stands for; a benchmark may have a format of its own."""
        return [row]

    def interpreter(self, limits: Limits, isolation: Isolation = "auto") -> Interpreter:
        """Open an interpreter as `check` needs it, with libraries imported ahead or toolchains in sight."""
        from reflectioncoder.interpreter.interpreter import Interpreter

        return Interpreter(limits, isolation)


@dataclass(frozen=True)
class TaskOptions:
    """What a task is made with, beside its name.

    Args:
        seed: of the held-out problems.
        limit: only the first so many problems; 0 takes all.
        levels: of difficulty of the held-out problems.
        data: folder of the benchmarks' own data files, or of this one's; empty for where its package keeps them.
    """

    seed: int = 0
    limit: int = 0
    levels: tuple[int, ...] = (1, 2, 3, 4)
    data: str = ""


def file_and_digest(path: Path) -> str:
    """What `Task.tests` says of a data file: its name, and the beginning of its digest."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
