"""Every task by its name. Add yours to `TASKS`, or from outside the package with `TASKS.add`."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from reflectioncoder.errors import UserError
from reflectioncoder.registry import Registry
from reflectioncoder.tasks import ds1000, humaneval, mbpp, problem_sets
from reflectioncoder.tasks.base import RELEASE_VERSION, Task, TaskOptions, no_release
from reflectioncoder.tasks.evalplus import task as evalplus
from reflectioncoder.tasks.multipl_e import task as multipl_e

if TYPE_CHECKING:
    from reflectioncoder.config.evaluate import GenerateConfig

# Gets the options (seed, limit, levels, data folder) and returns the task; reads its problems only then.
MakeTask = Callable[[TaskOptions], Task]

TASKS: Registry[MakeTask] = Registry(
    "task",
    {
        "heldout": problem_sets.generated_task,
        "heldout_micro": partial(problem_sets.generated_task, name="heldout_micro", generator="procedural_micro"),
        "arithmetic_heldout": partial(problem_sets.generated_task, name="arithmetic_heldout", generator="arithmetic"),
        "handwritten": problem_sets.handwritten_task,
        "humaneval": humaneval.humaneval_task,
        "humaneval_plus": evalplus.HumanEvalPlus,
        "mbpp": mbpp.mbpp_task,
        "mbpp_plus": evalplus.MbppPlus,
        "ds1000": ds1000.DS1000,
        "ds1000_insertion": partial(ds1000.DS1000, insertion=True),
        **multipl_e.tasks(),
        # add yours here
    },
)


def task_options(config: GenerateConfig) -> TaskOptions:
    """The task options in a configuration, for `get_task`."""
    return TaskOptions(config.seed, config.limit, config.levels, config.data, semantics=config.semantics)


def get_task(name: str, options: TaskOptions | None = None) -> Task:
    """The task of a name.

    Args:
        name: a name in `TASKS`, or the path of a JSONL or Parquet file of problems with tests.
        options: how to make it.

    Raises:
        UserError: no task and no file of that name, data files that are missing or damaged, or a task that is not in
            the authors' release, which the options ask for.
    """
    options = options or TaskOptions()
    if name in TASKS or name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        task = TASKS[name](options) if name in TASKS else problem_sets.file_task(name, options)
        if options.semantics == "release" and task.prompt_version != RELEASE_VERSION:
            raise no_release(name)
        return task
    near = get_close_matches(name, TASKS, 1, 0.7)
    meant = f"; did you mean '{near[0]}'?" if near else ""
    raise UserError(f"task '{name}': not one of {', '.join(TASKS)}, nor a .jsonl or .parquet file of problems{meant}")
