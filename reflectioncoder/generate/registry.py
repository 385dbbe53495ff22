"""Every decoding back end by its name.

A back end completes the prompts of a task; the interface is `Backend` in `backend.py`. `--backend` of `generate` takes
every name in `BACKENDS`. Add yours to it, or from outside the package with `BACKENDS.add`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reflectioncoder.registry import Registry

if TYPE_CHECKING:  # a back end is imported when it is chosen
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.config.evaluate import GenerateConfig
    from reflectioncoder.generate.backend import Backend
    from reflectioncoder.tasks.base import Task

# Gets settings and task, and the model and tokenizer of a caller that has loaded them already.
MakeBackend = Callable[
    ["GenerateConfig", "Task", "PreTrainedModel | None", "PreTrainedTokenizerBase | None"], "Backend"
]


def transformers_backend(
    config: GenerateConfig,
    task: Task,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backend:
    """Decode on this machine with transformers."""
    from reflectioncoder.generate.local import LocalBackend

    return LocalBackend(config, task, model, tokenizer)


def vllm_backend(
    config: GenerateConfig,
    task: Task,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backend:
    """Decode on this machine with vLLM."""
    from reflectioncoder.generate.vllm import VllmBackend

    return VllmBackend(config, task, model, tokenizer)


def server_backend(
    config: GenerateConfig,
    task: Task,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backend:
    """Use a model behind an OpenAI-compatible server; loads no torch."""
    from reflectioncoder.generate.server import ServerBackend

    return ServerBackend(config, task)


BACKENDS: Registry[MakeBackend] = Registry(
    "back end",
    {
        "transformers": transformers_backend,
        "vllm": vllm_backend,
        "server": server_backend,
        # add yours here
    },
)
