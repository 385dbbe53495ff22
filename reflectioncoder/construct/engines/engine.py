"""The engine of a build runs its programs and decodes its native model, on this machine or on a Ray cluster.

Only this module reads `BuildConfig.engine`; it imports the Ray engine only if that is configured.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.engines.interpreters import InterpreterPool, Programs
from reflectioncoder.construct.engines.processes import Handler, ProcessPool
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.registry import added_in

if TYPE_CHECKING:
    from reflectioncoder.construct.engines.on_ray import RayWorkers

T = TypeVar("T")
R = TypeVar("R")
KEYS = ("engine", "ray_address", "ray_wait")  # settings of the engine; they do not affect the sequences


def engine_running(config: BuildConfig) -> AbstractContextManager[None]:
    """Return the context in which the engine runs: the connection to a Ray cluster, or nothing on this machine.

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


def check_engine(config: BuildConfig) -> None:
    """Make sure, without connecting to a cluster, that the engine can be used here. Raises UserError."""
    if config.engine == "local":
        return
    if importlib.util.find_spec("ray") is None:
        raise UserError("engine = 'ray' needs Ray: pip install 'reflectioncoder[ray]'")
    if places := added_in():
        raise UserError(_not_on_nodes(places[0]))


def _not_on_nodes(place: str) -> str:
    return f"engine = 'ray': the nodes do not know what was added in {place}; use engine = 'local'"


def cores(config: BuildConfig) -> int:
    """Return the number of programs that run concurrently."""
    if config.engine == "local":
        return config.workers or len(os.sched_getaffinity(0))
    from reflectioncoder.construct.engines.on_ray import cores_of

    return cores_of(config)


def replicas(config: BuildConfig) -> int:
    """Return the number of copies of a native model that decode concurrently."""
    if config.engine == "local":
        return 1
    from reflectioncoder.construct.engines.on_ray import replicas_of

    return replicas_of(config)


def workers(
    make: Callable[[BuildConfig], Handler[T, R]], config: BuildConfig, console: Console
) -> ProcessPool[T, R] | RayWorkers[T, R]:
    """Create workers.

    Args:
        make: module-level function or class that makes the handler of a worker; called once in each.
        config: configuration of the build.
        console: console for reports of lost workers.
    """
    if config.engine == "local":
        return ProcessPool(make, config, cores(config))
    if places := added_in():
        raise UserError(_not_on_nodes(places[0]))
    from reflectioncoder.construct.engines.on_ray import RayWorkers

    return RayWorkers(partial(make, config), config, console)


def programs(config: BuildConfig, console: Console) -> Programs:
    """Create a pool of interpreters. Call this inside the event loop that uses the pool."""
    limits = Limits(config.seconds, config.memory_mb)
    if config.engine == "local":
        return InterpreterPool(cores(config), limits, config.isolation, config.libraries)
    from reflectioncoder.construct.engines.on_ray import RayInterpreters

    return RayInterpreters(partial(Interpreter, limits, config.isolation, libraries=config.libraries), config, console)
