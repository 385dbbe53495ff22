"""Benchmarks. A task is one small file with two methods: `prompts()` and `check(task_id, completion, ...)`.

Candidates run in the project's interpreter: their own cells and the tests, in a cell of their own, as one program, so
that a candidate's syntax or early exit cannot reach the tests; the interpreter vouches for every statement having run.
No compared value may equal everything. A candidate could still patch what the tests call (`abs`, say); the outside
judge (`judge.py`) closes that for problems that are given as examples.
"""

from __future__ import annotations

import ast
import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.config.build import GenerateConfig
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


def task_options(config: GenerateConfig) -> TaskOptions:
    """What `get_task` takes beside the name, from a configuration."""
    return TaskOptions(config.seed, config.limit, config.levels, config.data)


def get_task(name: str, options: TaskOptions | None = None) -> Task:
    """The task of a name.

    Args:
        name: one of `known_tasks`, or the path of a JSONL or Parquet file of problems with tests.
        options: how to make it.

    Raises:
        UserError: no task and no file of that name, or data files that are missing or damaged.
    """
    options = options or TaskOptions()
    tasks = known_tasks()
    if name in tasks:
        return tasks[name](options)
    if name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        from reflectioncoder.tasks import problem_sets as heldout

        return heldout.file_task(name, options)
    raise UserError(f"task '{name}': not one of {', '.join(tasks)}, nor a .jsonl or .parquet file of problems")


def known_tasks() -> dict[str, Callable[[TaskOptions], Task]]:
    """Every task by its name; making one reads its problems."""
    from reflectioncoder.tasks import ds1000, humaneval, mbpp  # they import the types above
    from reflectioncoder.tasks import problem_sets as heldout
    from reflectioncoder.tasks.evalplus import task as evalplus
    from reflectioncoder.tasks.multipl_e import task as multipl_e

    return {
        "heldout": heldout.procedural_task,
        "handwritten": heldout.handwritten_task,
        "humaneval": humaneval.humaneval_task,
        "humaneval_plus": evalplus.HumanEvalPlus,
        "mbpp": mbpp.mbpp_task,
        "mbpp_plus": evalplus.MbppPlus,
        "ds1000": ds1000.DS1000,
        "ds1000_insertion": partial(ds1000.DS1000, insertion=True),
        **multipl_e.tasks(),
    }


# A value that claims to equal what it has never seen is not an answer, unless its very type is one of Python's own, as
# no class can pretend to be; containers are searched because comparing a list compares its items. Kinds are compared
# by identity, and containers read by their own methods, as a class may redefine both.
_SAME = """\
def {same}(left, right):
    plain = (int, float, complex, bool, str, bytes, bytearray, range, type(None))
    holds = (list, tuple, set, frozenset)
    number, text = {number}, "{number}"
    strange = (object(), float("nan"), number, text, [number], (number,), {{number}}, {{number: number}})
    def equals(value, other):
        try:
            return bool(value == other)
        except Exception:
            return False
    def honest(value, depth=0):
        kind = type(value)
        if depth > 20 or any(kind is one for one in plain):
            return True
        own = next((one for one in (*holds, dict) if issubclass(kind, one)), None)
        if kind is not own and any(equals(value, other) for other in strange):
            return False
        if own is dict:
            return all(honest(k, depth + 1) and honest(v, depth + 1) for k, v in dict.items(value))
        return own is None or all(honest(item, depth + 1) for item in own.__iter__(value))
    return left == right and honest(left) and honest(right)
"""


class _GuardEquality(ast.NodeTransformer):
    """Turns `a == b` into a call of the guarded comparison; chains stay as they are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            call = ast.Call(ast.Name(self.name, ast.Load()), [node.left, node.comparators[0]], [])
            return ast.copy_location(call, node)
        return node


def run_tests(candidate: Sequence[str], tests: str, interpreter: Interpreter, limits: Limits) -> Verdict:
    """Run a candidate's cells and then its tests in one fresh session.

    Args:
        candidate: cells of source code, the completion's last.
        tests: source text of the tests; an exception means failure.
        interpreter: an open interpreter.
        limits: of candidate and tests together.

    Raises:
        UserError: `tests` is not Python.
    """
    same = f"_same_{secrets.token_hex(8)}"
    try:
        guarded = ast.unparse(ast.fix_missing_locations(_GuardEquality(same).visit(ast.parse(tests))))
    except SyntaxError as error:
        raise UserError(f"tests are not Python ({error.msg}, line {error.lineno}); correct the problem") from None
    cells = [cell for cell in candidate if cell.strip()]
    with interpreter.session(limits, module=True) as session:
        result = session.run_together([*cells, f"{_SAME.format(same=same, number=secrets.randbits(64))}\n{guarded}"])
    message = (result.message or "").strip().splitlines()
    error_text = "" if result.ok else ": ".join(filter(None, (result.exception, message[0] if message else "")))
    return Verdict(result.ok, result.outcome, error_text[:300], result.seconds)


def file_and_digest(path: Path) -> str:
    """What `Task.tests` says of a data file: its name, and the beginning of its digest."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def opened(answer: str) -> str:
    """What follows the fence that opens an answer's code: one with a language behind it, or one that begins the answer.

    An answer without one is code from its beginning, because its fence stood in the prompt; so is one that closes a
    fence before it opens another, whose code has ended there.
    """
    first = re.search(r"(?:\A\s*|^)```([\w+#-]*)[^\S\n]*$\n?", answer, re.MULTILINE)
    if first is None or not (first[1] or not answer[: first.start()].strip()):
        return answer
    return answer[first.end() :]


def defines(code: str, name: str) -> bool:
    """Whether code defines a function, class or variable `name` at its top level; unparsable code is searched."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return re.search(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", code, re.MULTILINE) is not None
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return True
    return False
