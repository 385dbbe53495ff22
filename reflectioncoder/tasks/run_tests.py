"""Runs a candidate's cells and its tests as one program, with comparisons that values cannot fool."""

from __future__ import annotations

import ast
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
