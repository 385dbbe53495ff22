"""Programs that attack the interpreter, and what must become of each.

They lie in `hostile/`, one file per family, and none of them may run anywhere but inside a session. A program begins
with three lines: its name, what it tries, and what is right, as in

    # %% zombies
    # fills the process table with children that nobody waits for
    # -> ok; prints "True\\n"; seconds 5; memory_mb 100; needs memory control group; after TRY

The outcomes stand first, one or several; `prints` is all it may print, where that is certain; the limits are those of
`USUAL` or, where a timeout is right, of `SHORT`; `needs` is a layer without which it is not contained; `after` are the
preludes below that go before it. `test_hostile.py` runs every program, looks at its outcome, and then at the machine.

In the texts, `@PORT@`, `@SOCKET@` and `@SECRET@` stand for a TCP port and an abstract Unix address on which the test
listens and for a file of the test's, `@MARK@` for the beginning of the name of everything that is written.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.interpreter.interpreter import Limits

FOLDER = Path(__file__).parent / "hostile"
USUAL = Limits(seconds=20, memory_mb=200)  # a program that ends by itself may be slow on a busy machine
SHORT = Limits(seconds=0.5, memory_mb=200)
MARK = "hostile-mark"
PRELUDES = {
    # print what an action gives, or that the system refuses it
    "TRY": """\
import os, sys
def attempt(action, *arguments):
    try:
        print(action(*arguments))
    except (OSError, ValueError):
        print("refused")
""",
    # print what a function of the C library is allowed
    "LIBC": """\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *arguments):
    if getattr(libc, name)(*arguments) >= 0:
        print(name, "allowed")
""",
    # the frames of the interpreter's own code
    "ABOVE": """\
import sys
above, frame = [], sys._getframe().f_back
while frame is not None:
    above.append(frame)
    frame = frame.f_back
""",
    # a hook for when the interpreter's own code runs: forget failures, and run nothing in place of code
    "STEER": """\
def steer(frame, *_):
    if frame in above:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, tuple) and value and isinstance(value[0], BaseException):
                frame.f_locals[name] = None
            if isinstance(value, tuple) and value and isinstance(value[0], type(steer.__code__)):
                frame.f_locals[name] = (compile("", "", "exec"), *value[1:])
    return steer
""",
}


@dataclass(frozen=True)
class Hostile:
    """One attack.

    Args:
        name: short, unique.
        family: what it is about.
        why: what it tries.
        program: its text.
        outcomes: those that are right.
        limits: of its only cell.
        text: all it may print, or None where that depends.
        needs: layers without which it is not contained.
    """

    name: str
    family: str
    why: str
    program: str
    outcomes: frozenset[str]
    limits: Limits
    text: str | None = None
    needs: tuple[str, ...] = ()


def read_family(path: Path) -> list[Hostile]:
    """The programs of a file."""
    _, *pieces = re.split(r"^# %% (.*)\n# (.*)\n# -> (.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [_hostile(path.stem, *pieces[first : first + 4]) for first in range(0, len(pieces), 4)]


def _hostile(family: str, name: str, why: str, expected: str, program: str) -> Hostile:
    outcomes, *conditions = expected.split("; ")
    limits = SHORT if "timeout" in outcomes else USUAL
    text, needs = None, []
    for condition in conditions:
        key, _, value = condition.partition(" ")
        if key == "prints":
            text = eval(value)
        elif key == "needs":
            needs.append(value)
        elif key == "after":
            program = "".join(PRELUDES[prelude] for prelude in value.split()) + program
        else:
            limits = dataclasses.replace(limits, **{key: type(getattr(limits, key))(value)})
    return Hostile(name, family, why, program.strip(), frozenset(outcomes.split()), limits, text, tuple(needs))


PROGRAMS = [hostile for path in sorted(FOLDER.glob("*.txt")) for hostile in read_family(path)]
