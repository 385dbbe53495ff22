"""Measures programs per second: the interpreter compared with Jupyter kernels, `python -c` and a bare fork.

    .venv/bin/python benchmarks/interpreter.py [--repeats 5] [--seconds 4] [--workers 2]
    .venv/bin/python benchmarks/interpreter.py --preload numpy,pandas      # cost of preloading libraries

The methods take turns in one run. Each turn runs programs, half of them passing and half failing, with `--workers`
concurrently for `--seconds`. The report has medians over the turns, ratios to a fresh kernel per program, memory of a
live session, and the isolation level in use. Needs ipykernel and jupyter_client (the `dev` extra). The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reflectioncoder.interpreter.interpreter import Interpreter, Limits

PASSING = """\
def total(numbers):
    result = 0
    for number in numbers:
        result += number
    return result

assert total([1, 2]) == 3
assert total([]) == 0
assert total([5]) == 5
"""
FAILING = PASSING.replace("result += number", "result = number")
KEPT = "x = 1\nx + 1"
Runner = Callable[[str], None]


@contextmanager
def ours() -> Iterator[Runner]:
    """A fresh, isolated session per program."""
    with Interpreter(Limits(seconds=10)) as interpreter:
        yield lambda code: _expect(interpreter.run(code).outcome in ("ok", "error"))


@contextmanager
def ours_kept() -> Iterator[Runner]:
    """Cells of one session, as in a notebook."""
    with Interpreter(Limits(seconds=10)) as interpreter, interpreter.session() as session:
        yield lambda _: _expect(session.run(KEPT).ok)


@contextmanager
def fresh_kernel() -> Iterator[Runner]:
    """A Jupyter kernel started and stopped for every program, as in the paper."""
    from jupyter_client.manager import start_new_kernel

    def run(code: str) -> None:
        manager, client = start_new_kernel()
        try:
            client.execute_interactive(code, output_hook=lambda _: None, timeout=30, allow_stdin=False)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    yield run


@contextmanager
def warm_kernel() -> Iterator[Runner]:
    """A single kernel with `%reset` between programs: fast, but a program can affect the next one."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()

    def run(code: str) -> None:
        for cell in (code, "%reset -f"):
            client.execute_interactive(cell, output_hook=lambda _: None, timeout=30, allow_stdin=False)

    try:
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@contextmanager
def python_c() -> Iterator[Runner]:
    """A new Python process per program; no notebook output, no isolation."""

    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    yield run


@contextmanager
def bare_fork() -> Iterator[Runner]:
    """Fork, set limits and exec, as evaluation harnesses do; no notebook output, no isolation.

    A small helper process forks, because this one has threads and much memory.
    """
    helper = subprocess.Popen([sys.executable, __file__, "--forker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdin and helper.stdout

    def run(code: str) -> None:
        assert helper.stdin and helper.stdout
        helper.stdin.write(json.dumps(code).encode() + b"\n")
        helper.stdin.flush()
        _expect(helper.stdout.readline().strip() in (b"0", b"1"))

    yield run
    helper.stdin.close()
    helper.wait()


CONTENDERS = {
    "interpreter, fresh session": ours,
    "interpreter, kept session": ours_kept,
    "kernel, fresh": fresh_kernel,
    "kernel, warm with %reset": warm_kernel,
    "python -c": python_c,
    "bare fork": bare_fork,
}


def forker() -> None:
    """Run the helper process of `bare_fork`."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
            signal.alarm(10)
            try:
                exec(json.loads(line), {"__name__": "candidate"})
            except BaseException:
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def turn(runners: list[Runner], seconds: float) -> float:
    """Run all runners concurrently, and return their total number of programs per second."""
    began = time.monotonic()

    def work(run: Runner) -> int:
        done = 0
        while time.monotonic() - began < seconds:
            run(FAILING if done % 2 else PASSING)
            done += 1
        return done

    with ThreadPoolExecutor(len(runners)) as pool:
        done = sum(pool.map(work, runners))
    return done / (time.monotonic() - began)


def session_megabytes(preload: tuple[str, ...] = (), count: int = 20) -> float:
    """Return the memory of a live session in MiB, as the growth of the warm process and all its sessions together."""
    with Interpreter(preload=preload) as interpreter, ExitStack() as stack:
        stack.enter_context(interpreter.session()).run(FAILING)
        before = _proportional_kb(os.getpid())
        for _ in range(count):
            stack.enter_context(interpreter.session()).run(FAILING)
        return (_proportional_kb(os.getpid()) - before) / count / 1024


def _proportional_kb(root: int) -> int:
    """Return the proportional set size of all descendants in KiB; shared pages count once."""
    total, members = 0, [root]
    for pid in members:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            members += [int(child) for child in children.read_text().split()]
    for pid in members[1:]:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def preload_costs(modules: list[str], repeats: int) -> list[dict[str, object]]:
    """Measure start-up, import in a session, rate and memory, preloading no module, then one more each time."""
    rows: list[dict[str, object]] = []
    code = "".join(f"import {module}\n" for module in modules)
    for count in range(len(modules) + 1):
        ahead = tuple(modules[:count])
        starts, imports, rates = [], [], []
        for _ in range(repeats):
            began = time.monotonic()
            with Interpreter(Limits(seconds=30), preload=ahead) as interpreter:
                starts.append(time.monotonic() - began)
                imports.append(interpreter.run(code).seconds)
                rates.append(turn([lambda cell: _expect(interpreter.run(cell).outcome != "killed")], 1.0))
        row: dict[str, object] = {"ahead": list(ahead), "start_s": round(statistics.median(starts), 2)}
        row |= {
            "import_ms": round(1000 * statistics.median(imports), 1),
            "per_second": round(statistics.median(rates), 1),
        }
        rows.append({**row, "session_mb": round(session_megabytes(ahead), 1)})
    return rows


def _expect(held: bool) -> None:
    if not held:
        raise RuntimeError("a program did not end as expected, so the results are invalid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--preload", default="", help="modules, with commas")
    parser.add_argument("--forker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.forker:
        return forker()
    if options.preload:
        rows = preload_costs(options.preload.split(","), options.repeats)
        for row in rows:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
        return print(json.dumps(rows))
    with Interpreter() as interpreter:
        level = interpreter.isolation
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with ExitStack() as stack:
        runners = {
            name: [stack.enter_context(make()) for _ in range(options.workers)] for name, make in CONTENDERS.items()
        }
        for name in CONTENDERS:
            turn(runners[name], 0.5)
        for _ in range(options.repeats):
            for name in CONTENDERS:
                rates[name].append(turn(runners[name], options.seconds))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    megabytes = session_megabytes()
    base = medians["kernel, fresh"]
    print(f"isolation {level}, {options.workers} workers, median of {options.repeats} turns of {options.seconds:g} s")
    print(f"{'':28} {'programs/s':>11} {'lowest':>8} {'highest':>8} {'to fresh kernel':>16}")
    for name, value in medians.items():
        print(f"{name:28} {value:11.1f} {min(rates[name]):8.1f} {max(rates[name]):8.1f} {value / base:15.1f}x")
    print(f"memory of a live session: {megabytes:.1f} MiB")
    figures = {
        "isolation": level,
        "workers": options.workers,
        "per_second": {name: round(value, 1) for name, value in medians.items()},
        "ratio_to_fresh_kernel": {name: round(value / base, 1) for name, value in medians.items()},
        "session_mb": round(megabytes, 1),
    }
    print(json.dumps(figures))
    return None


if __name__ == "__main__":
    main()
