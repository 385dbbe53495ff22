"""Tasks with evalplus's data, for their tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reflectioncoder.interpreter.interpreter import Limits
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.registry import get_task

LIMITS = Limits(10.0, 4096, 1_000_000)


def task_of(name: str, data: Path) -> Any:
    return get_task(name, TaskOptions(data=str(data)))


def only(task: Any, keep: Callable[[str], bool]) -> Any:
    task.problems = {task_id: problem for task_id, problem in task.problems.items() if keep(task_id)}
    return task
