"""What a build costs beside the interpreter: recorded answers, no model, growing numbers of problems.

    .venv/bin/python benchmarks/build_scale.py [--sizes 100,1000,10000] [--workers 2] [--engine ray]

Every problem takes one failing round, one that passes, a re-answer and its check, in sessions of the interpreter. Each
size is a build of its own in a process of its own, then started again, which only has to find that all is finished.
Reported: problems a second, the driver's processor time a problem, its peak memory, and the time of the second run. The
last line is JSON. With `--engine ray` the programs run on the Ray cluster that this machine is in, or on one that each
build starts here; starting it and its actors is part of the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, resource, sys, time
from rich.console import Console
from reflectioncoder.build import build
from reflectioncoder.config import BuildConfig, ChatConfig
folder, count, workers, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
config = BuildConfig(
    output=f"{folder}/build", problems=f"{folder}/problems.jsonl", count=count, workers=workers, near_duplicates=2.0,
    engine=engine, sampler="replay",
    chat=ChatConfig(replay=f"{folder}/answers.jsonl", in_flight=32),
)
began = time.monotonic()
result = build(config, Console(quiet=True))
own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "sequences": result.sequences, "seconds": time.monotonic() - began, "peak_mb": own.ru_maxrss // 1024,
    "driver_s": own.ru_utime + own.ru_stime, "children_s": children.ru_utime + children.ru_stime,
}))
"""


def write_input(folder: Path, count: int) -> None:
    """Problems that all differ, and the answers of a model that is wrong once."""
    with (folder / "problems.jsonl").open("w") as problems, (folder / "answers.jsonl").open("w") as answers:
        for n in range(count):
            name, id = f"add_{n}", f"p{n}"
            right = f"def {name}(x):\n    return x + {n}\n"
            wrong = f"def {name}(x):\n    return x - {n + 1}\n"
            asserts = f"\nassert {name}(1) == {n + 1}\nassert {name}(0) == {n}"
            problem = {"id": id, "instruction": f"Write {name}(x), which adds {n} to x.", "entry_point": name}
            problems.write(json.dumps({**problem, "tests": [f"assert {name}(2) == {n + 2}"]}) + "\n")
            texts = (
                f"```python\n{wrong}{asserts}\n```",
                f"The sign is wrong: it has to add.\n\n```python\n{right}{asserts}\n```",
                f"```python\n{right}```",
            )
            for turn, text in enumerate(texts):
                answers.write(json.dumps({"problem": id, "turn": turn, "text": text}) + "\n")


def run(folder: Path, count: int, workers: int, engine: str) -> dict[str, float]:
    """One build in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-c", CHILD, str(folder), str(count), str(workers), engine]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "whole_s": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    options = parser.parse_args()
    rows = []
    print(f"{'problems':>9} {'sequences':>10} {'problems/s':>11} {'driver ms':>10} {'peak MiB':>9} {'again s':>8}")
    for count in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_input(folder, count)
            first, again = (run(folder, count, options.workers, options.engine) for _ in range(2))
        row = {
            "problems": count,
            "sequences": first["sequences"],
            "per_second": round(count / first["seconds"], 1),
            "driver_ms_per_problem": round(1000 * first["driver_s"] / count, 2),
            "peak_mb": first["peak_mb"],
            "second_run_s": round(again["whole_s"], 2),
        }
        rows.append(row)
        print("{:9d} {:10d} {:11.1f} {:10.2f} {:9d} {:8.2f}".format(*row.values()), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
