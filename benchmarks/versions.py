"""Compares this checkout with another one of this project: the time of building, scoring and reading, and the outputs.

    git worktree add ../old ea0b0a7
    python benchmarks/versions.py --other ../old --data ../shared/data [--parts build score ...] [--repeats 5]

Both versions run with the same interpreter and packages, in turns and as separate commands; the one that starts changes
with every repeat. Parts:

- `build`: 40 problems by mutation, two workers;
- `score`: HumanEval+ with the completions of CL-7B, two workers;
- `pairs`, `messages`: 20,000 rows of training data, read into dialogues (in one process, start excluded);
- `problems`: 20,000 rows of problems, read;
- `help`: `evaluate --help`; `import`: `import reflectioncoder`.

For each part: medians of wall-clock seconds and of CPU seconds of all processes, the ratio of this version to the other
(median over the repeats of the paired ratios of CPU seconds, and of wall-clock seconds), and whether the outputs are
equal: the sequences byte for byte, the verdicts, the number of rows. `--size` multiplies the number of rows and
problems. The first, untimed run of each fills the caches. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("build", "score", "pairs", "messages", "problems", "help", "import")
ROWS = 20_000
PROBLEMS = 40

# Names of the reader and its module; modules have moved between the versions.
READ = """
import importlib, json, resource, sys, time
def find(name, *modules):
    for module in modules:
        try:
            return getattr(importlib.import_module("reflectioncoder." + module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"{name}: in none of {modules}")
if sys.argv[1] == "problems":
    function = find("load_problems", "problems.load", "problems")
    read = lambda path: function(path)
else:
    read = find("read_training", "dialogues.training_files", "instruct")
read(sys.argv[2] + ".small")  # loads what is loaded at the first use
wall, used = time.perf_counter(), time.process_time()
rows = read(sys.argv[2])
print(json.dumps([time.perf_counter() - wall, time.process_time() - used, len(list(rows))]))
"""


def main() -> None:
    """Run the benchmark and print the results; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="the other checkout")
    parser.add_argument("--data", type=Path, help="folder of data sets, for the part score")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=float, default=1.0)
    options = parser.parse_args()
    if not (options.other / "reflectioncoder" / "__init__.py").is_file():
        parser.error(f"--other {options.other}: no checkout of this project")
    if "score" in options.parts and options.data is None:
        parser.error("--data: needed for the part score")
    versions = {"this": ROOT, "other": options.other.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(part, versions, options, Path(folder)) for part in options.parts]
    print(json.dumps(rows))


def measure(part: str, versions: Mapping[str, Path], options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run a part with both versions in turns, and summarise it."""
    source = write_rows(part, int(ROWS * options.size), folder) if part in ("pairs", "messages", "problems") else None
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in versions}
    outputs: dict[str, set[str]] = {name: set() for name in versions}
    for repeat in range(options.repeats + 1):
        for name in list(versions)[:: 1 if repeat % 2 else -1]:
            environment = {
                **os.environ,
                "PYTHONPATH": str(versions[name]),
                "REFLECTIONCODER_CACHE": str(folder / "cache" / name),
            }
            out = folder / f"{part}-{name}-{repeat}"
            *seconds, output = once(part, options, source, out, environment)
            outputs[name].add(output)
            if repeat:
                spent[name].append((seconds[0], seconds[1]))
        print(f"{part} repeat {repeat}, load {os.getloadavg()[0]:.0f}", file=sys.stderr, flush=True)
    row: dict[str, object] = {"part": part, "equal": outputs["this"] == outputs["other"] and len(outputs["this"]) == 1}
    for column, what in enumerate(("seconds", "processor_seconds")):
        for name, times in spent.items():
            row[f"{what}_{name}"] = round(statistics.median(pair[column] for pair in times), 3)
        ratios = [a[column] / b[column] for a, b in zip(spent["this"], spent["other"], strict=True)]
        row[f"{what}_ratio"] = round(statistics.median(ratios), 3)
    print(json.dumps(row), flush=True)
    return row


def once(
    part: str, options: argparse.Namespace, source: Path | None, out: Path, environment: Mapping[str, str]
) -> tuple[float, float, str]:
    """Run a part once. Return wall-clock seconds, CPU seconds, and what tells its output from others."""
    verb = [sys.executable, "-m", "reflectioncoder"]
    if source is not None:
        done = run([sys.executable, "-c", READ, part, str(source)], environment)[2]
        wall, used, count = json.loads(done.splitlines()[-1])
        return wall, used, str(count)
    if part == "build":
        count = str(max(2, int(PROBLEMS * options.size)))
        wall, used, _ = run([*verb, "build", "--count", count, "--workers", "2", "--output", str(out)], environment)
        return wall, used, hashlib.sha256((out / "sequences.jsonl").read_bytes()).hexdigest()
    if part == "score":
        completions = options.data / "reference_completions/CL-7B/humaneval.jsonl"
        if options.size < 1:
            short = out.parent / "short.jsonl"
            rows = [json.loads(line) for line in completions.read_text(encoding="utf-8").splitlines()]
            for row in rows[int(len(rows) * options.size) :]:
                row["solution"] = "pass"
            short.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            completions = short
        words = ["evaluate", "humaneval_plus", "--completions", str(completions), "--data", str(options.data)]
        wall, used, _ = run([*verb, *words, "--workers", "2", "--output", str(out)], environment)
        verdicts = map(json.loads, (out / "results.jsonl").read_text(encoding="utf-8").splitlines())
        return wall, used, str(sorted((row["task_id"], row["passed"]) for row in verdicts))
    if part == "help":
        return (*run([*verb, "evaluate", "--help"], environment)[:2], "")
    return (*run([sys.executable, "-c", "import reflectioncoder"], environment)[:2], "")


def write_rows(part: str, count: int, folder: Path) -> Path:
    """Write rows of a part, and beside them a small file of the same kind."""
    path = folder / f"{part}.jsonl"
    for name, number in ((path, count), (Path(f"{path}.small"), 10)):
        with name.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row(part, index)) + "\n" for index in range(number))
    return path


def row(part: str, index: int) -> dict[str, object]:
    """Return one row: about the text of an average instruction with its answer."""
    asked = f"Write a function add_{index}(a) that returns the sum of a and {index}. " + "The input is a number. " * 12
    code = f"def add_{index}(a):\n" + "    a = a + 0\n" * 30 + f"    return a + {index}\n"
    answer = f"The function adds {index}.\n\n```python\n{code}```\n"
    if part == "pairs":
        return {"instruction": asked, "output": answer}
    if part == "messages":
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] * 2}
    tests = [f"assert add_{index}({number}) == {number + index}" for number in range(3)]
    return {"id": f"p{index}", "instruction": asked, "solution": code, "tests": tests, "entry_point": f"add_{index}"}


def run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float, str]:
    """Run a command. Return wall-clock seconds, CPU seconds of all its processes, and its output."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used, done.stdout


if __name__ == "__main__":
    main()
