"""Every task by its name. Add yours to `known_tasks`, or from outside the package with `add_task`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.tasks.base import Task, TaskOptions

if TYPE_CHECKING:
    from reflectioncoder.config.evaluate import GenerateConfig

_ADDED: dict[str, Callable[[TaskOptions], Task]] = {}


def add_task(name: str, make: Callable[[TaskOptions], Task]) -> None:
    """Make a task of your own known to `generate` and `evaluate` in this process.

    Args:
        name: what `--task` calls it; must not be one of `known_tasks`.
        make: called with the options (seed, limit, levels, data folder); returns the task.

    Raises:
        UserError: a task of the package has that name; one of your own is replaced.
    """
    if name in known_tasks() and name not in _ADDED:
        raise UserError(f"task '{name}': there is one of that name")
    _ADDED[name] = make


def task_options(config: GenerateConfig) -> TaskOptions:
    """The task options in a configuration, for `get_task`."""
    return TaskOptions(config.seed, config.limit, config.levels, config.data)


def get_task(name: str, options: TaskOptions | None = None) -> Task:
    """The task of a name.

    Args:
        name: one of `known_tasks`, or the path of a JSONL or Parquet file of problems with tests.
        options: how to make it.

    Raises:
        UserError: no task and no file of that name, or data files that are missing or damaged.
    """
    options = options or TaskOptions()
    tasks = known_tasks()
    if name in tasks:
        return tasks[name](options)
    if name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        from reflectioncoder.tasks import problem_sets as heldout

        return heldout.file_task(name, options)
    raise UserError(f"task '{name}': not one of {', '.join(tasks)}, nor a .jsonl or .parquet file of problems")


def known_tasks() -> dict[str, Callable[[TaskOptions], Task]]:
    """Every task by its name; making one reads its problems."""
    from reflectioncoder.tasks import ds1000, humaneval, mbpp  # they import the types above
    from reflectioncoder.tasks import problem_sets as heldout
    from reflectioncoder.tasks.evalplus import task as evalplus
    from reflectioncoder.tasks.multipl_e import task as multipl_e

    return {
        "heldout": heldout.procedural_task,
        "handwritten": heldout.handwritten_task,
        "humaneval": humaneval.humaneval_task,
        "humaneval_plus": evalplus.HumanEvalPlus,
        "mbpp": mbpp.mbpp_task,
        "mbpp_plus": evalplus.MbppPlus,
        "ds1000": ds1000.DS1000,
        "ds1000_insertion": partial(ds1000.DS1000, insertion=True),
        **multipl_e.tasks(),
        # add yours here
        **_ADDED,
    }
