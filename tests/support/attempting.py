"""Problems with known wrong answers, dialogues of them to memorise, and a decoding back end that gives them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.dialogues.dialogue import Dialogue, fenced, instruction_dialogue
from reflectioncoder.generate.completions import Completion, code_of
from reflectioncoder.tasks.base import Task

# name: (instruction, solution, tests, the model's answer)
ROWS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "double": (
        "Write `double(x)`: twice x.",
        "def double(x):\n    return x * 2\n",
        ("assert double(3) == 6", "assert double(0) == 0", "assert double(2) == 4"),
        "def double(n):\n    return n + 2\n",
    ),
    "gains": (
        "Write `gains(xs)`: the sum of the items above 0.",
        "def gains(values):\n    result = 0\n    for v in values:\n        if v > 0:\n            result += v\n"
        "    return result\n",
        ("assert gains([1, 2, -3]) == 3", "assert gains([]) == 0", "assert gains([-1]) == 0", "assert gains([5]) == 5"),
        "def gains(xs):\n    total = 0\n    for x in xs:\n        if x > 1:\n            total += y\n"
        "    return total\n",
    ),
    "last": (
        "Write `last(xs)`: the last item.",
        "def last(xs):\n    return xs[-1]\n",
        ("assert last([1, 2]) == 2", "assert last([7]) == 7"),
        "def last(items):\n    return items[len(items) - 1]\n",
    ),
    "spin": (
        "Write `spin(n)`: n counted down to 0.",
        "def spin(n):\n    while n > 0:\n        n -= 1\n    return n\n",
        ("assert spin(0) == 0", "assert spin(4) == 0"),
        "def spin(n):\n    while n > 0:\n        n += 0\n    return n\n",
    ),
    "prose": (
        "Write `prose(x)`: x itself.",
        "def prose(x):\n    return x\n",
        ("assert prose(1) == 1",),
        "I am sorry, but I cannot help with that.",
    ),
    "wipe": (
        "Write `wipe(x)`: nothing.",
        "def wipe(x):\n    return None\n",
        ("assert wipe(1) is None",),
        "def wipe(x):\n    open('x', 'w').write(x)\n",
    ),
    "count": (
        "Write `count(t)`: the number of words in t.",
        "def count(t):\n    return len(t.split())\n",
        ("assert count('a b') == 2", "assert count('') == 0"),
        "def count(t):\n    n = 0\n    for c in t:\n        n = n + 1 if c == 'a' else n\n    return n\n",
    ),
}


def write_problems(path: Path) -> str:
    """Write the problems as a file, and return its path."""
    rows = [
        {"id": name, "instruction": asked, "solution": solution, "tests": list(tests), "entry_point": name}
        for name, (asked, solution, tests, _) in ROWS.items()
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def answers() -> list[Dialogue]:
    """The instructions with the model's answers."""
    return [instruction_dialogue(asked, fenced(answer)) for asked, _, _, answer in ROWS.values()]


class Remembered:
    """A decoding back end with known answers, which counts what it is asked for, and may die after some answers.

    Args:
        config: the settings of the build's attempts; `samples` is used.
        task: the problems.
    """

    paid = False
    fingerprint = "remembered"
    asked: ClassVar[list[tuple[str, int]]] = []  # by all back ends of this process
    die_after: ClassVar[int] = 0  # answers after which the process kills itself; 0 for never
    finish: ClassVar[str] = "end"

    def __init__(self, config: GenerateConfig, task: Task, *_: object) -> None:
        prompts = {prompt.task_id: prompt for prompt in task.prompts()}
        self.prompts = prompts
        self.wanted = {(id, sample): f"hash of {id}" for id in prompts for sample in range(config.samples)}

    def load(self) -> None:
        """There is nothing to load."""

    def complete(self, missing: Sequence[tuple[str, int]], keep: Callable[[Completion, int], None]) -> None:
        for number, (id, sample) in enumerate(missing):
            if self.die_after and number == self.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked.append((id, sample))
            raw = f"```python\n{ROWS[id][3]}```" if "def " in ROWS[id][3] else ROWS[id][3]
            code = code_of(raw, self.prompts[id], "chat")
            keep(Completion(id, sample, code, raw, self.wanted[id, sample], finish=self.finish), 7)
