"""Every task is done once, even if a worker dies, and workers end when their parent process ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from worker_tasks import Tasks

from reflectioncoder.construct.engines.processes import ProcessPool
from reflectioncoder.errors import UserError

OWNER = """
import sys
sys.path.insert(0, sys.argv[1])
from worker_tasks import Tasks
from reflectioncoder.construct.engines.processes import ProcessPool
pool = ProcessPool(Tasks, 0, 2)
for index, value in pool.run([("pid", 0), ("sleep", 60), ("pid", 0), ("sleep", 60), ("sleep", 60)]):
    print(value, flush=True)
"""


def test_every_task_is_done_once_and_by_all_workers() -> None:
    with ProcessPool(Tasks, 100, 2) as pool:
        assert sorted(pool.run([("add", i) for i in range(40)])) == [(i, 100 + i) for i in range(40)]
        assert list(pool.run([])) == []


def test_a_task_whose_worker_dies_goes_to_another(tmp_path: Path) -> None:
    tasks = [("add", 1), ("die once", tmp_path / "died"), ("add", 2)]
    with ProcessPool(Tasks, 0, 1) as pool:
        results = dict(pool.run(tasks))
    assert (results[0], results[2]) == (1, 2)
    assert set(results) == {0, 1, 2}


def test_a_task_that_kills_every_worker_is_an_error() -> None:
    with ProcessPool(Tasks, 0, 2) as pool, pytest.raises(UserError, match=r"died 3 times .*\(exit status -9\)"):
        list(pool.run([("die", 0)]))


def test_errors_come_through() -> None:
    with ProcessPool(Tasks, 0, 1) as pool, pytest.raises(UserError, match=r"^bad input$"):
        list(pool.run([("refuse", 0)]))
    with ProcessPool(Tasks, 0, 1) as pool, pytest.raises(RuntimeError, match="ZeroDivisionError: seen in the worker"):
        list(pool.run([("break", 0)]))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except FileNotFoundError:
        return True


def test_workers_leave_when_their_owner_is_killed_even_in_the_middle_of_a_task() -> None:
    command = [sys.executable, "-c", OWNER, str(ROOT / "tests" / "support")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(owner.stdout.readline()) for _ in range(1)]
        owner.kill()
    deadline = time.monotonic() + 10
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, pids))
