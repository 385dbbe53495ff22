"""Helpers for tests of the interpreter: the isolation strategies that this machine supports, and lists of processes."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflectioncoder.errors import InfrastructureError
from reflectioncoder.interpreter import interpreter as module
from reflectioncoder.interpreter import warm_process
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits
from reflectioncoder.interpreter.warm_process import WarmProcess
from reflectioncoder.sandbox.layers import FIRST_SESSION_UID

USERS = 1 << 14  # user ids of one warm process


def strategies_here() -> list[str]:
    """The isolation strategies that this machine supports, found by trying each."""
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
    pytest.param(
        s,
        marks=[]
        if s in HERE
        else pytest.mark.skip(reason=f"isolation strategy {s!r} fails on this machine; run reflectioncoder doctor"),
    )
    for s in ("root", "user")
]


def started(strategy: str, groups: bool = True) -> Iterator[Interpreter]:
    """Yield an interpreter with a given isolation strategy, with or without control groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_process, "CONTROL_GROUPS", groups)
        patch.setitem(module._STRATEGIES, "none" if strategy == "none" else "auto", (strategy,))
        with Interpreter(Limits(seconds=20), isolation="none" if strategy == "none" else "auto") as interpreter:
            yield interpreter


def one(interpreter: Interpreter, code: str, limits: Limits | None = None) -> CellResult:
    """Run one cell in a fresh session."""
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
    """The user ids reserved for sessions of this interpreter; empty if sessions have no user id of their own."""
    if not interpreter.layers["user id of its own"]:
        return range(0)
    uid = int(one(interpreter, "import os\nprint(os.getuid())").text)
    first = uid - (uid - FIRST_SESSION_UID) % USERS
    return range(first, first + USERS)
