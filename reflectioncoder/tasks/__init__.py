"""Benchmarks. A task is one small file with two methods: `prompts()` and `check(task_id, completion, ...)`.

Candidates run in the project's interpreter: their own cells and the tests, in a cell of their own, as one program, so
that a candidate's syntax or early exit cannot reach the tests; the interpreter vouches for every statement having run.
No compared value may equal everything. A candidate could still patch what the tests call (`abs`, say); the outside
judge (`judge.py`) closes that for problems that are given as examples.
"""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.config import GenerateConfig
    from reflectioncoder.interpreter import Interpreter, Limits

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
    """

    task_id: str
    instruction: str
    continuation: str
    stops: tuple[str, ...] = FENCE_STOP


@dataclass(frozen=True)
class Verdict:
    """Whether a completion passes its tests.

    Args:
        passed: all tests were run to the end and hold.
        outcome: the interpreter's, "ok" where all ended well; "infrastructure" where the interpreter itself failed and
            nothing is known.
        error: the exception and its first line, empty where there was none.
        seconds: of all of it.
    """

    passed: bool
    outcome: str
    error: str = ""
    seconds: float = 0.0


class Task(Protocol):
    """A benchmark: `name`, the most tokens an answer needs, and two methods."""

    name: str
    max_new_tokens: int

    def prompts(self) -> list[Prompt]:
        """The problems in order."""
        ...

    def check(self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits) -> Verdict:
        """Run a completion against the problem's tests. Raises UserError for a task id that is not of this task."""
        ...


def task_arguments(config: GenerateConfig) -> tuple[str, int, int, tuple[int, ...]]:
    """What `get_task` takes, from a configuration."""
    return config.task, config.seed, config.limit, config.levels


def get_task(name: str, seed: int = 0, limit: int = 0, levels: Sequence[int] = (1, 2, 3, 4)) -> Task:
    """The task of a name.

    Args:
        name: "heldout", "handwritten", "humaneval", or the path of a JSONL file of problems with tests.
        seed: of the held-out problems.
        limit: only the first so many problems; 0 takes all.
        levels: of difficulty of the held-out problems.

    Raises:
        UserError: no task and no file of that name.
    """
    from reflectioncoder.tasks import heldout, humaneval  # a task imports the types above

    tasks: dict[str, Callable[[], Task]] = {
        "heldout": lambda: heldout.procedural_task(seed, limit, levels),
        "handwritten": lambda: heldout.handwritten_task(limit),
        "humaneval": lambda: humaneval.HumanEval(limit),
    }
    if name in tasks:
        return tasks[name]()
    if name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        return heldout.file_task(name, limit)
    raise UserError(f"task '{name}': not one of {', '.join(tasks)}, nor a .jsonl or .parquet file of problems")


# A value that claims to equal an object it has never seen is not an answer; containers are searched because
# comparing a list compares its items.
_SAME = """\
def {same}(left, right):
    def honest(value, depth=0):
        if depth > 20:
            return True
        if isinstance(value, dict):
            return all(honest(k, depth + 1) and honest(v, depth + 1) for k, v in value.items())
        if isinstance(value, (list, tuple, set, frozenset)):
            return all(honest(item, depth + 1) for item in value)
        return type(value).__module__ == "builtins" or not bool(value == object())
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
        result = session.run_together([*cells, f"{_SAME.format(same=same)}\n{guarded}"])
    message = (result.message or "").strip().splitlines()
    error_text = "" if result.ok else ": ".join(filter(None, (result.exception, message[0] if message else "")))
    return Verdict(result.ok, result.outcome, error_text[:300], result.seconds)


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
