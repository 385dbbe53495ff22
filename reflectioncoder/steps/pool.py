"""The pool in which steps run: this machine, or a Ray cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from reflectioncoder.errors import UserError
from reflectioncoder.steps.plan import StepPlan
from reflectioncoder.steps.processes import LocalPool, StepPool, visible_gpus


def open_pool(
    plan: StepPlan, engine: Literal["local", "ray"], ray_address: str, jobs: int, threads: int, most: int
) -> AbstractContextManager[StepPool]:
    """Open the pool for the steps of a plan; entering a pool of Ray connects to the cluster.

    Args:
        plan: the plan.
        engine: `local` is this machine, `ray` a cluster.
        ray_address: HOST:PORT of the cluster's head; empty for that of this machine.
        jobs, threads, most: see `LocalPool`.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    if engine == "ray":
        try:
            from reflectioncoder.steps.ray_pool import ray_pool
        except ImportError as error:
            raise UserError(f"engine = 'ray' needs Ray: pip install 'reflectioncoder[ray]' ({error})") from None
        return ray_pool(ray_address, jobs, threads, most)
    return nullcontext(LocalPool(jobs, threads, most, gpus_of(plan)))


def gpus_of(plan: StepPlan) -> list[str]:
    """The GPUs that the steps of a plan may use; none if all of them compute on CPUs."""
    computing = [step.decoding or step.settings for step in plan.steps.values() if step.on_device]
    devices = {getattr(settings, "device", "auto") for settings in computing}
    return visible_gpus() if devices - {"cpu"} else []
