"""Measures the overhead of a build besides the interpreter, and how it scales, with recorded answers and no model.

    .venv/bin/python benchmarks/build_scale.py [--sizes 1000,10000,100000] [--workers 2] [--light] [--engine ray]

Of every twenty problems, ten are solved at the first try (and so rejected), six after one failing round, two after two,
one never, and one does input and output. With `--light`, for large sizes in little time, eighteen do input and output,
which ends their conversation before anything is run, one is solved at the first try, and one after one failing round.
Each size is a separate build, which is killed with SIGKILL when nine tenths are finished, and started again.

A row of the table is a section of a build, up to `problems`. Its columns are problems per second; CPU time per problem
of the driver, of its threads that talk to the interpreter's sessions (`client`, included in the driver), and of the
interpreter's processes; the driver's share of all CPU time, without and with those threads; and peak memory of the
driver. `resume` is the time from the start of the second process to its first new record. With `--engine ray` the
programs run on the Ray cluster of this machine, or on one that each build starts here (included in its time); the
resources of the cluster's processes are not measured. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

CHILD = """
import json, os, resource, sys, threading, time
from pathlib import Path
from rich.console import Console
from reflectioncoder.interpreter import pool
from reflectioncoder.construct.ledger import ledger
from reflectioncoder.construct.build import build
from reflectioncoder.config.build import BuildConfig, ChatConfig
folder, count, workers, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
engine = sys.argv[5]
began, client, finished = time.monotonic(), [0.0], [0]
tick = os.sysconf("SC_CLK_TCK")

def interpreters():
    "Processor time of all processes below this one, those that have ended included."
    children, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        used[int(stat.parent.name)] = sum(map(int, fields[11:15])) / tick
    total, todo = 0.0, list(children.get(os.getpid(), ()))
    while todo:
        pid = todo.pop()
        total += used[pid]
        todo += children.get(pid, ())
    return total

def report():
    own = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "problems": finished[0], "seconds": time.monotonic() - began, "driver": own.ru_utime + own.ru_stime,
        "client": client[0], "interpreters": interpreters(), "peak_mb": own.ru_maxrss // 1024,
    }), flush=True)

write = ledger.Ledger.write
def counted(self, records):
    new = write(self, records)
    before = finished[0]
    finished[0] += new
    if not report.__dict__.get("begun"):
        report.begun = True
        report()
    if finished[0] // every > before // every:
        report()
    return new
ledger.Ledger.write = counted

use = pool.Pool.use
def timed(self, work):
    start = time.thread_time()
    try:
        return use(self, work)
    finally:
        client[0] += time.thread_time() - start
pool.Pool.use = timed

config = BuildConfig(
    output=f"{folder}/build", problems=f"{folder}/problems.jsonl", count=count, workers=workers, sampler="replay",
    engine=engine,    near_duplicates=1.0, chat=ChatConfig(replay=f"{folder}/answers.jsonl", in_flight=64),
)
result = build(config, Console(quiet=True))
report()
print(json.dumps(result.funnel))
"""
WORDS = "each the value of and then a list every number which must be in order first when it is not empty".split()


def say(number: int, words: int) -> str:
    """Return a text of `words` words that depends on `number`."""
    return " ".join(WORDS[(number * 7 + i * (number % 11 + 1)) % len(WORDS)] for i in range(words)).capitalize() + "."


def answers_to(n: int, light: bool = False) -> list[str]:
    """Return the recorded answers to problem n."""
    name, number = f"add_{n}", n % 20
    if light:
        number = {0: 0, 10: 10}.get(number, 19)

    def program(right: bool, comment: str) -> str:
        loop = f"    for step in ({n}, 0, 0):\n        total {'+' if right else '-'}= step\n"
        return f'def {name}(x):\n    """{comment}"""\n    total = x\n{loop}    return total\n'

    asserts = (
        f"\nassert {name}(1) == {n + 1}\nassert {name}(0) == {n}\nassert [{name}(2), {name}(3)] == [{n + 2}, {n + 3}]"
    )
    if number == 19:
        return [f"```python\nx = open('numbers.txt').read()\n{program(True, 'File.')}{asserts}\n```"]
    failing = 0 if number < 10 else 1 if number < 16 else 2 if number < 18 else 8
    texts = [
        f"{say(n + turn, 60)}\n\n```python\n{program(False, say(turn, 12))}{asserts}\n```" for turn in range(failing)
    ]
    if failing < 8:
        texts.append(f"{say(n, 60)}\n\n```python\n{program(True, say(n, 12))}{asserts}\n```")
        texts.append(f"```python\n{program(True, say(n, 12))}```")
    return texts


def write_input(folder: Path, count: int, light: bool = False) -> None:
    """Write `count` different problems and the recorded answers to them."""
    with (folder / "problems.jsonl").open("w") as problems, (folder / "answers.jsonl").open("w") as answers:
        for n in range(count):
            instruction = f"Write add_{n}(x), which adds {n} to x. {say(n, 40)}"
            problem = {"id": f"p{n}", "instruction": instruction, "entry_point": f"add_{n}"}
            problems.write(json.dumps({**problem, "tests": [f"assert add_{n}(2) == {n + 2}"]}) + "\n")
            for turn, text in enumerate(answers_to(n, light)):
                answers.write(json.dumps({"problem": f"p{n}", "turn": turn, "text": text}) + "\n")


def run(folder: Path, count: int, workers: int, engine: str, stop_at: int = 0) -> list[dict[str, Any]]:
    """Run a build in a separate process, and return its reports.

    Args:
        folder: directory with the problems and answers.
        count: number of problems.
        workers: number of workers.
        engine: engine of the build.
        stop_at: kill the process when this many problems are finished; 0 lets it run to the end.
    """
    every = max(1, count // 10)
    command = [sys.executable, "-c", CHILD, str(folder), str(count), str(workers), str(every), engine]
    reports = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        for line in child.stdout:
            reports.append(json.loads(line) | {"at": time.monotonic()})
            if stop_at and count >= 10_000 and len(reports) > 1:
                show(stretch(*reports[-2:]), heading=len(reports) == 2)
            if stop_at and reports[-1].get("problems", 0) >= stop_at:
                child.kill()
                break
        errors = child.stderr.read()
        if child.wait() != 0 and not stop_at:
            raise SystemExit(errors)
    return reports


def stretch(before: dict[str, Any], after: dict[str, Any], start: int = 0) -> dict[str, Any]:
    """Compute a row of the table from two reports."""
    done = max(1, after["problems"] - before["problems"])
    spent = {key: after[key] - before[key] for key in ("seconds", "driver", "client", "interpreters")}
    everything = spent["driver"] + spent["interpreters"]
    return {
        "problems": start + after["problems"],
        "per_second": round(done / spent["seconds"], 1),
        "driver_ms": round(1000 * spent["driver"] / done, 2),
        "client_ms": round(1000 * spent["client"] / done, 2),
        "interpreter_ms": round(1000 * spent["interpreters"] / done, 2),
        "share": round((spent["driver"] - spent["client"]) / everything, 3),
        "share_with_client": round(spent["driver"] / everything, 3),
        "peak_mb": after["peak_mb"],
    }


def show(row: dict[str, Any], heading: bool) -> None:
    """Print a row of the table, with the heading if requested."""
    if heading:
        print(*(f"{key:>18}" for key in row), sep="")
    print(*(f"{value:>18}" for value in row.values()), sep="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    options = parser.parse_args()
    found = []
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_input(folder, size, options.light)
            print(f"\n{size} problems", flush=True)
            first = run(folder, size, options.workers, options.engine, stop_at=size * 9 // 10)
            finished = first[-1]["problems"]
            began = time.monotonic()
            second = run(folder, size, options.workers, options.engine)
            again = time.monotonic()
            run(folder, size, options.workers, options.engine)
            again = time.monotonic() - again
        rows = [stretch(before, after) for before, after in pairwise(first)]
        whole = stretch(first[0], first[-1])
        show(whole, heading=True)
        rest = second[-2]["seconds"] - second[0]["seconds"]
        resume = second[0]["at"] - began
        funnel = {key: value for key, value in second[-1].items() if key != "at"}
        print(
            f"killed at {finished}: resume {resume:.2f} s, the rest of it with the files {rest:.1f} s,"
            f" a finished build again {again:.2f} s"
        )
        print(f"peak of the second process {second[-2]['peak_mb']} MiB; funnel {funnel}", flush=True)
        found.append({
            "size": size, "light": options.light, **whole, "stretches": rows, "resume_s": round(resume, 2),
            "again_s": round(again, 2), "rest_s": round(rest, 1), "second_peak_mb": second[-2]["peak_mb"],
            "funnel": funnel,
        })  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
