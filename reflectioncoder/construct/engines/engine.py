"""Where a build's programs run and its native model decodes: on this machine, or on a Ray cluster.

The one place that looks at `BuildConfig.engine`; the other engine's module is imported only where it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.engines.interpreters import InterpreterPool, Programs
from reflectioncoder.construct.engines.processes import Handler, Pool
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter, Limits

if TYPE_CHECKING:
    from reflectioncoder.construct.engines.on_ray import RayWorkers

T = TypeVar("T")
R = TypeVar("R")
KEYS = ("engine", "ray_address", "ray_wait")  # of the configuration; they decide nothing about the sequences


def running(config: BuildConfig) -> AbstractContextManager[None]:
    """What has to be there while the work is done: nothing, or the connection to a cluster.

    Raises:
        UserError: Ray is not installed, or there is no cluster at `ray_address`.
    """
    if config.engine == "local":
        return nullcontext()
    try:
        from reflectioncoder.construct.engines.on_ray import cluster
    except ImportError as error:
        raise UserError(f"engine = 'ray' needs Ray: pip install 'reflectioncoder[ray]' ({error})") from None
    return cluster(config.ray_address, hidden=(config.chat.api_key_variable,))


def cores(config: BuildConfig) -> int:
    """How many programs run at once."""
    if config.engine == "local":
        return config.workers or len(os.sched_getaffinity(0))
    from reflectioncoder.construct.engines.on_ray import cores_of

    return cores_of(config)


def replicas(config: BuildConfig) -> int:
    """How many copies of a native model decode at once."""
    if config.engine == "local":
        return 1
    from reflectioncoder.construct.engines.on_ray import replicas_of

    return replicas_of(config)


def workers(
    make: Callable[[BuildConfig], Handler[T, R]], config: BuildConfig, console: Console
) -> Pool[T, R] | RayWorkers[T, R]:
    """Workers that each hold what `make`, a function or class of a module, gives."""
    if config.engine == "local":
        return Pool(make, config, cores(config))
    from reflectioncoder.construct.engines.on_ray import RayWorkers

    return RayWorkers(partial(make, config), config, console)


def programs(config: BuildConfig, console: Console) -> Programs:
    """Interpreters for an event loop; to be called inside it."""
    limits = Limits(config.seconds, config.memory_mb)
    if config.engine == "local":
        return InterpreterPool(cores(config), limits, config.isolation)
    from reflectioncoder.construct.engines.on_ray import RayInterpreters

    return RayInterpreters(partial(Interpreter, limits, config.isolation), config, console)
