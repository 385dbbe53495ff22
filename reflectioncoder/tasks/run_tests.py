"""Running a candidate's cells and its tests as one program, with comparisons that cannot be fooled."""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.tasks.base import Verdict

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
    return Verdict(result.ok, result.outcome, result.error, result.seconds)


def after_opening_fence(answer: str) -> str:
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
