"""ReflectionCoder: reflection sequences, masked self-distillation, an isolated interpreter, and benchmarks.

The names below are the public API. Each is imported on first use, so `import reflectioncoder` is fast.

Example:
    from reflectioncoder import BuildConfig, TrainConfig, build, train

    made = build(BuildConfig(problems="mine.jsonl", count=100, output="runs/build"))
    train(TrainConfig(data=(str(made.path),), output="runs/model", batch_size=16))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reflectioncoder.config.build import BuildConfig as BuildConfig
    from reflectioncoder.config.evaluate import EvaluateConfig as EvaluateConfig
    from reflectioncoder.config.evaluate import GenerateConfig as GenerateConfig
    from reflectioncoder.config.train import TrainConfig as TrainConfig
    from reflectioncoder.construct.build import build as build
    from reflectioncoder.dialogues.dialogue import Dialogue as Dialogue
    from reflectioncoder.evaluate.compare import compare as compare
    from reflectioncoder.evaluate.evaluate import evaluate as evaluate
    from reflectioncoder.generate.generate import generate as generate
    from reflectioncoder.interpreter.interpreter import Interpreter as Interpreter
    from reflectioncoder.interpreter.interpreter import Limits as Limits
    from reflectioncoder.problems.load import load_problems as load_problems
    from reflectioncoder.problems.problem import Problem as Problem
    from reflectioncoder.tasks.base import Prompt as Prompt
    from reflectioncoder.tasks.base import Task as Task
    from reflectioncoder.tasks.base import Verdict as Verdict
    from reflectioncoder.tasks.registry import TASKS as TASKS
    from reflectioncoder.tasks.registry import get_task as get_task
    from reflectioncoder.train.train import train as train

__version__ = "0.1.0"

# Where each public name is defined. `train`, `generate` and `evaluate` are packages that can be called (_callable.py).
_HOMES = {
    "BuildConfig": "config.build",
    "Dialogue": "dialogues.dialogue",
    "EvaluateConfig": "config.evaluate",
    "GenerateConfig": "config.evaluate",
    "Interpreter": "interpreter.interpreter",
    "Limits": "interpreter.interpreter",
    "Problem": "problems.problem",
    "Prompt": "tasks.base",
    "TASKS": "tasks.registry",
    "Task": "tasks.base",
    "TrainConfig": "config.train",
    "Verdict": "tasks.base",
    "build": "construct.build",
    "compare": "evaluate.compare",
    "evaluate": "",
    "generate": "",
    "get_task": "tasks.registry",
    "load_problems": "problems.load",
    "train": "",
}
__all__ = [
    "TASKS",
    "BuildConfig",
    "Dialogue",
    "EvaluateConfig",
    "GenerateConfig",
    "Interpreter",
    "Limits",
    "Problem",
    "Prompt",
    "Task",
    "TrainConfig",
    "Verdict",
    "build",
    "compare",
    "evaluate",
    "generate",
    "get_task",
    "load_problems",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reflectioncoder' has no attribute '{name}'")
    home = _HOMES[name]
    return getattr(import_module(f"reflectioncoder.{home}"), name) if home else import_module(f"reflectioncoder.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
