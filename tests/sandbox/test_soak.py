"""Thousands of runs leave memory, descriptors, threads, processes, mounts and control groups unchanged.

`SOAK=20000 pytest tests/sandbox/test_soak.py` makes more runs; the allowed growth of memory stays the same.
"""

import gc
import os
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import HERE, family, started

from reflectioncoder.interpreter.interpreter import Interpreter, Limits

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("SOAK", "1500"))
AT_ONCE = 4
MOST_GROWTH_MB = 4.0  # of all our processes together; a leak of 3 kB per run would exceed it
LIMITS = Limits(seconds=20, memory_mb=150, output_chars=5000)
BRIEF = Limits(seconds=0.1, memory_mb=150)

# (program, outcome, weight in the mix)
MIX: list[tuple[str, str, int]] = [
    ("print(sum(range(1000)))", "ok", 8),
    ("def f(n): return n * f(n - 1) if n else 1\nassert f(5) == 121", "error", 8),
    ("import json, re, collections\n{'a': [1, 2]}", "ok", 4),
    ("x = (", "error", 2),
    ("import asyncio\nasync def f(): return 1\nawait f()", "ok", 2),
    ("import sys; sys.exit(0)", "error", 2),
    ("import os; os._exit(0)", "killed", 2),
    ("import os; os.abort()", "killed", 1),
    ("import ctypes; ctypes.string_at(0)", "killed", 1),
    ("import os; os.write(202, b'=' * 16)\nassert 1 == 2", "killed", 1),
    ("print('x' * 6000)", "output_limit", 2),
    ("x = bytearray(10 ** 9)", "memory", 2),
    ("import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    import time; time.sleep(60)", "ok", 3),
    ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", "ok", 2),
    ("for n in range(50): open(f'file{n}', 'w').write('x' * 10_000)", "ok", 2),
    ("import os\nx = [os.pipe() for _ in range(50)] + [os.memfd_create('x') for _ in range(20)]", "ok", 2),
    ("import os; _ = os.system('sleep 60 &')", "ok", 1),
    ("import os; os.closerange(0, 1024)", "killed", 1),
    ("while True: pass", "timeout", 1),
]


def used(interpreter: Interpreter) -> dict[str, float]:
    """Resources held by this process and its descendants while no session is open."""
    gc.collect()
    until = time.monotonic() + 10
    while any(_state(pid) == "Z" for pid in family(os.getpid())) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)  # time to prepare the next session
    processes = [os.getpid(), *family(os.getpid())]
    groups = [path.name for path in Path("/sys/fs/cgroup").glob("*/**/reflectioncoder-*")]
    return {
        "processes": len(processes),
        "threads": threading.active_count(),
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes),
        "mounts": sum(len(_lines(f"/proc/{pid}/mounts")) for pid in processes),
        "control groups": sum(int(name.split("-")[1]) in processes for name in groups),
        "temporary folders": sum(name.startswith("reflectioncoder-") for name in os.listdir(tempfile.gettempdir())),
        "memory": sum(_private_mb(pid) for pid in processes),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def _private_mb(pid: int) -> float:
    return sum(int(line.split()[1]) for line in _lines(f"/proc/{pid}/status") if line.startswith("RssAnon:")) / 1024


def test_many_runs_leave_the_machine_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # no other process makes folders there
    programs = [(code, outcome) for code, outcome, weight in MIX for _ in range(weight)]
    order = random.Random(1)

    def run(program: tuple[str, str]) -> None:
        code, expected = program
        with interpreter.session(BRIEF if expected == "timeout" else LIMITS) as session:
            result = session.run(code)
            assert result.outcome == expected, (code, result)
            if result.ok and order.random() < 0.3:
                assert session.run("print(1)").text.endswith("1\n")

    def rounds(count: int) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(run, order.choices(programs, k=count)):
                pass

    for interpreter in started(HERE[0] if HERE else "none"):
        rounds(RUNS // 3)
        early = used(interpreter)
        rounds(RUNS - RUNS // 3)
        late = used(interpreter)
        growth = late.pop("memory") - early.pop("memory")
        assert late == early
        assert growth < MOST_GROWTH_MB
