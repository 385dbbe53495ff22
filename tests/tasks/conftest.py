"""Open interpreters for the tests of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from plus import LIMITS
from polyglot import CASES, SHORT, need, write

from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.multipl_e.task import MultiPLE


@pytest.fixture(scope="module")
def pool() -> Iterator[list[Interpreter]]:
    with Interpreter(LIMITS) as one, Interpreter(LIMITS) as two:
        yield [one, two]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """A function from a language to (task with our own problem, open interpreter); cached per language."""
    made: dict[str, Any] = {}

    def make(key: str) -> Any:
        need(key)
        if key not in made:
            folder = write(tmp_path_factory.mktemp(key), key, {"evens": CASES[key]})
            one = MultiPLE(key, TaskOptions(data=str(folder)))
            made[key] = one, one.interpreter(SHORT)
        return made[key]

    yield make
    for _, interpreter in made.values():
        interpreter.close()
