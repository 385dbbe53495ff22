"""Every task by its name. Add yours to `known_tasks`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.tasks.base import Task, TaskOptions


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
    }
