"""Processes of steps: their devices and threads, and that none outlives a study that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reflectioncoder.steps.processes import LocalPool, StepProcess, visible_gpus

SHOW = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"


def ended(process: StepProcess) -> int:
    until = time.monotonic() + 60
    while (status := process.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return status


def test_steps_that_need_a_gpu_share_them_in_turn_and_others_do_not_wait(tmp_path: Path) -> None:
    pool = LocalPool(jobs=3, threads=2, most=9, gpus=["5", "7"])
    running = []
    for number in range(3):
        assert pool.room(True)
        running.append(pool.start(True, ["-c", SHOW], tmp_path / f"{number}"))
    assert not pool.room(True) and pool.room(False)
    assert [ended(process) for process in running] == [0, 0, 0]
    assert [(tmp_path / f"{number}").read_text() for number in range(3)] == ["5 2\n", "7 2\n", "5 2\n"]
    assert pool.room(True)
    assert ended(pool.start(False, ["-c", SHOW], tmp_path / "host")) == 0
    assert (tmp_path / "host").read_text() == " 2\n"


@pytest.mark.parametrize(("jobs", "threads", "most", "expected"), [(0, 0, 1, 1), (3, 0, 2, 2), (4, 5, 9, 4)])
def test_there_are_no_more_jobs_than_runs(jobs: int, threads: int, most: int, expected: int) -> None:
    pool = LocalPool(jobs, threads, most)
    cores = len(os.sched_getaffinity(0))
    assert (pool.jobs, pool.threads) == (expected, threads or max(1, cores // expected))
    assert not jobs or pool.room(False)


def test_a_failing_or_killed_step_has_its_status_and_its_log(tmp_path: Path) -> None:
    pool = LocalPool(1, 1, 1)
    assert ended(pool.start(True, ["-c", "print('said'); raise SystemExit(3)"], tmp_path / "log")) == 3
    assert (tmp_path / "log").read_text() == "said\n"
    process = pool.start(True, ["-c", "import time; time.sleep(60)"], tmp_path / "log")
    assert not pool.room(False) and process.poll() is None
    process.stop()
    assert ended(process) != 0 and pool.room(False)


def test_no_step_outlives_its_study(tmp_path: Path) -> None:
    child = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    program = (
        "import sys; from pathlib import Path; from reflectioncoder.steps.processes import start_process\n"
        "start_process(['-c', sys.argv[1], sys.argv[2]], Path(sys.argv[3]), {}).wait()"
    )
    place = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", program, child, str(place), str(tmp_path / "log")])
    until = time.monotonic() + 60
    while not place.exists() or not place.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    pid = int(place.read_text())
    parent.kill()
    parent.wait()
    while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_visible_gpus_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("0,2", ["0", "2"]), ("", []), ("-1", []), (" GPU-a , GPU-b ", ["GPU-a", "GPU-b"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert visible_gpus() == expected
