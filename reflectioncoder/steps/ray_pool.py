"""Spreads steps over the devices of a Ray cluster, one task for each step.

A task starts the command in a process on its node, as `processes.py` does on this machine, so the folder of the steps
must be on a file system that all nodes share under the same path. Ray gives each task its GPU. A task whose node dies
is started again by Ray, and the command goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from reflectioncoder.construct.engines.on_ray import cluster
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.registry import added_in
from reflectioncoder.steps.processes import StepPool, StepProcess, start_process, thread_variables

LOST_STATUS = 1


def run_on_node(words: Sequence[str], log: str, threads: int, folder: str) -> int:
    """Run a command on the node of this task, and return its exit status.

    Raises:
        UserError: the node does not see the folder of the steps.
    """
    if not Path(log).parent.is_dir():
        node = ray.util.get_node_ip_address()
        raise UserError(f"node {node} does not see {Path(log).parent}; put the output on a file system that all share")
    return start_process(words, Path(log), thread_variables(threads), folder).wait()


class _OnNode:
    def __init__(self, task: Any, log: Path) -> None:
        self._task, self._log = task, log

    def poll(self) -> int | None:
        """See `StepProcess`."""
        if not ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            return int(ray.get(self._task))
        except (ray.exceptions.RayError, UserError) as error:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"ray: {first_line(getattr(error, 'cause', None) or error)}\n")
            return LOST_STATUS

    def stop(self) -> None:
        """See `StepProcess`."""
        with suppress(ray.exceptions.RayError):
            ray.cancel(self._task, force=True)


class RayPool:
    """The devices of a cluster. Args as in `LocalPool`; `jobs` 0 is one per GPU, or one per CPU without any."""

    def __init__(self, jobs: int, threads: int, most: int) -> None:
        found = ray.cluster_resources()
        gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
        self.jobs = max(1, min(jobs or gpus or cpus, most))
        self.threads = threads or max(1, cpus // self.jobs)
        self._gpus = min(1.0, gpus / self.jobs) if gpus else 0.0
        self._running: dict[str, list[Any]] = {"device": [], "host": []}

    def room(self, on_device: bool) -> bool:
        """See `StepPool`."""
        kind = self._kind(on_device)
        if tasks := self._running[kind]:
            self._running[kind] = ray.wait(tasks, num_returns=len(tasks), timeout=0)[1]
        return len(self._running[kind]) < self.jobs

    def _kind(self, on_device: bool) -> str:
        """Steps that compute on a GPU and others do not wait for each other, if there are GPUs."""
        return "host" if self._gpus and not on_device else "device"

    def start(self, on_device: bool, words: Sequence[str], log: Path) -> StepProcess:
        """See `StepPool`."""
        resources = {"num_cpus": self.threads, "num_gpus": self._gpus if on_device else 0}
        kind: Any = ray.remote(run_on_node)
        task = kind.options(**resources).remote(list(words), str(log.resolve()), self.threads, str(Path.cwd()))
        self._running[self._kind(on_device)].append(task)
        return _OnNode(task, log)


@contextmanager
def ray_pool(address: str, jobs: int, threads: int, most: int) -> Iterator[StepPool]:
    """Connect to a cluster, and give its devices to steps.

    Raises:
        UserError: there is no cluster at the address, or parts were added that its nodes do not know.
    """
    if places := added_in():
        raise UserError(f"engine = 'ray': the nodes do not know what was added in {places[0]}; use engine = 'local'")
    with cluster(address):
        yield RayPool(jobs, threads, most)
