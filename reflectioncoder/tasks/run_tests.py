"""Runs a candidate's cells and its tests as one program, with comparisons that values cannot fool."""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.exchange import OwnCode
from reflectioncoder.tasks.base import Verdict


class _GuardEquality(ast.NodeTransformer):
    """Replaces `a == b` by a call of the guarded comparison; chained comparisons stay unchanged."""

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
        candidate: cells of source code; the completion's is the last.
        tests: source code of the tests; an exception means failure.
        interpreter: an open interpreter.
        limits: limits of candidate and tests together.

    Raises:
        UserError: `tests` is not valid Python.
    """
    same = f"_same_{secrets.token_hex(8)}"
    try:
        guarded = ast.unparse(ast.fix_missing_locations(_GuardEquality(same).visit(ast.parse(tests))))
    except SyntaxError as error:
        raise UserError(f"tests are not Python ({error.msg}, line {error.lineno}); correct the problem") from None
    cells = [cell for cell in candidate if cell.strip()]
    guard = OwnCode(f"program[{same!r}] = equality.guarded({secrets.randbits(64)})")
    with interpreter.session(limits, module=True) as session:
        result = session.run_together([*cells, guard, guarded])
    return Verdict(result.ok, result.outcome, result.error, result.seconds)


def after_opening_fence(answer: str) -> str:
    """Return the text after the fence that opens the code: one with a language name, or one at the start of the answer.

    An answer without such a fence is returned unchanged: its code starts at the beginning, because the prompt contains
    the opening fence. So is an answer whose first fence is a closing one, where its code ends.
    """
    first = re.search(r"(?:\A\s*|^)```([\w+#-]*)[^\S\n]*$\n?", answer, re.MULTILINE)
    if first is None or not (first[1] or not answer[: first.start()].strip()):
        return answer
    return answer[first.end() :]


def defines(code: str, name: str) -> bool:
    """Whether code defines a function, class or variable `name` at top level; a regex search if it cannot be parsed."""
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
