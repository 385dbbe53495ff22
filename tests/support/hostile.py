"""The corpus of programs that attack the interpreter, with the required outcome of each.

The programs are in `hostile/`, one file per family. Never run them outside a session. A program begins with three
lines: its name, what it tries, and the requirements, for example

    # %% zombies
    # fills the process table with children that nobody waits for
    # -> ok; prints "True\\n"; seconds 5; memory_mb 100; needs memory control group; after TRY

The requirements begin with one or more allowed outcomes. `prints` is the exact output, if it is deterministic. Limits
override those of `USUAL`, or of `SHORT` if a timeout is allowed. `needs` names a layer without which the program is not
contained. `after` lists the preludes (see `PRELUDES`) to put before the program. `sandbox/test_hostile.py` runs every
program and checks its outcome, then the state of the machine.

The test replaces placeholders: `@PORT@` and `@SOCKET@` by a TCP port and an abstract Unix address on which it listens,
`@SECRET@` by the path of a file with a secret, and `@MARK@` by the common prefix of all names that programs create.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.interpreter.interpreter import Limits

FOLDER = Path(__file__).parent / "hostile"
USUAL = Limits(seconds=20, memory_mb=200)  # a long time limit, for programs that end by themselves on a busy machine
SHORT = Limits(seconds=0.5, memory_mb=200)
MARK = "hostile-mark"
PRELUDES = {
    # Prints the result of an action, or "refused" if the system refuses it.
    "TRY": """\
import os, sys
def attempt(action, *arguments):
    try:
        print(action(*arguments))
    except (OSError, ValueError):
        print("refused")
""",
    # Prints which functions of the C library are allowed.
    "LIBC": """\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *arguments):
    if getattr(libc, name)(*arguments) >= 0:
        print(name, "allowed")
""",
    # Collects the frames of the interpreter's own code.
    "ABOVE": """\
import sys
above, frame = [], sys._getframe().f_back
while frame is not None:
    above.append(frame)
    frame = frame.f_back
""",
    # A trace function for the frames in `above`: removes failures, and replaces code by an empty program.
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
        name: short and unique.
        family: name of its file, without the suffix.
        why: what it tries.
        program: source code.
        outcomes: allowed outcomes.
        limits: limits of its only cell.
        text: the exact output; None if it is not deterministic.
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
    """Read the programs of one file."""
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
