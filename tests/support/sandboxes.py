"""What the tests of the interpreter share: the ways of isolating that this machine allows, and a look at processes."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflectioncoder.errors import InfrastructureError
from reflectioncoder.interpreter import interpreter as module
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits
from reflectioncoder.interpreter.warm_process import WarmProcess
from reflectioncoder.sandbox.layers import FIRST_SESSION_UID

USERS = 1 << 14  # of one warm process


def strategies_here() -> list[str]:
    """The ways of isolating that this machine allows, found by trying."""
    found = []
    for strategy in ("root", "user"):
        try:
            WarmProcess(strategy).stop()
            found.append(strategy)
        except InfrastructureError:
            pass
    return found


HERE = strategies_here()
BOXED = [
    pytest.param(s, marks=[] if s in HERE else pytest.mark.skip(reason=f"strategy {s!r} is not possible here"))
    for s in ("root", "user")
]


def started(strategy: str) -> Iterator[Interpreter]:
    """An interpreter that isolates in one certain way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module._STRATEGIES, "none" if strategy == "none" else "auto", (strategy,))
        with Interpreter(Limits(seconds=20), isolation="none" if strategy == "none" else "auto") as interpreter:
            yield interpreter


def one(interpreter: Interpreter, code: str, limits: Limits | None = None) -> CellResult:
    """One cell in a fresh session."""
    return interpreter.run(textwrap.dedent(code), limits)


def family(root: int) -> list[int]:
    """Every living descendant of a process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def session_uids(interpreter: Interpreter) -> range:
    """The user ids that sessions of this interpreter have where they have their own; else none."""
    if not interpreter.layers["user id of its own"]:
        return range(0)
    uid = int(one(interpreter, "import os\nprint(os.getuid())").text)
    first = uid - (uid - FIRST_SESSION_UID) % USERS
    return range(first, first + USERS)
