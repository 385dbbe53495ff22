"""Compares this project with evalplus 0.3.1 in scoring one greedy run of HumanEval+ or MBPP+: time and verdicts.

    python benchmarks/scoring.py --data ../shared/data [--tasks humaneval mbpp] [--repeats 5] [--step 1]
    python benchmarks/scoring.py --data ../shared/data --canonical
    python benchmarks/scoring.py --data ../shared/data --completions DIR --load 20 --repeats 1

Both score the same completions in turns, with two workers, as separate commands. `--completions` is a folder with one
folder per model, each with `humaneval.jsonl` and `mbpp.jsonl`; by default the data folder's `reference_completions`,
which has CL-7B. The authors' repository (github.com/SenseLLM/ReflectionCoder, folder `data`) has four models.

The results of the reference solutions are cached on disk by an earlier run, which is not timed. The report has medians
of wall-clock seconds and of CPU seconds of all processes. Problems whose verdicts differ are listed, with those of
each repeat: on a busy machine evalplus's time limits fail correct answers.

With `--canonical` nothing is timed. Every canonical solution must pass, and the same solution with every returned value
changed (a number by one, a string or list by one item) must fail. Exceptions are listed.

With `--load N` the verdicts of a busy machine are compared with those of a quieter one: after the first, untimed run of
both, N processes spin until the end. `verdicts_changed` lists the problems whose verdicts here changed.

With `--lowest-limit S` a call may take at least S seconds for both. evalplus scores once, before the load: its limits
are wall-clock time, and with a high one its verdicts hardly depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflectioncoder.tasks.evalplus.compare import PRESENCE
from reflectioncoder.tasks.evalplus.data import HUMANEVAL_SOURCE, MBPP_SOURCE, find_plus, read_plus

ROOT = Path(__file__).resolve().parent.parent
FILES = {"humaneval": ("humaneval_plus/HumanEvalPlus", "HUMANEVAL"), "mbpp": ("mbpp_plus/MbppPlus", "MBPP")}


def main() -> None:
    """Run the benchmark and print the results; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step", type=int, default=1, help="only every so many problems, for a quick look (ours only)")
    parser.add_argument("--canonical", action="store_true", help="canonical and wrong solutions; nothing is timed")
    parser.add_argument("--completions", type=Path, help="folder with a folder of completions per model")
    parser.add_argument("--load", type=int, default=0, help="processes that spin during the timed runs")
    parser.add_argument("--only-ours", action="store_true", help="do not run evalplus")
    parser.add_argument(
        "--lowest-limit", type=float, help="seconds that a call may take at least; evalplus scores once"
    )
    options = parser.parse_args()
    models = options.completions or options.data / "reference_completions"
    sources = sorted(path for task in options.tasks for path in models.glob(f"*/{task}.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        if options.canonical:
            rows = [canonical(task, options, Path(folder)) for task in options.tasks]
        else:
            rows = [measure(source, options, Path(folder)) for source in sources]
    print(json.dumps(rows))


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep `count` processes busy."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# Changes the result of the outermost call. Inner calls stay correct, so that a recursive solution ends.
WRONG = """

def _changed(value):
    if {presence}:
        return 1 if value is None else not value if type(value) is bool else None
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1 if value + 1 != value else 0
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return type(value)([*value, None])
    if isinstance(value, (set, frozenset)):
        return value | {{"x"}}
    if isinstance(value, dict):
        return {{**value, "x": None}}
    return 0 if value is None else None


def _wrong(function, inside=[]):
    def changed(*arguments):
        if inside:
            return function(*arguments)
        inside.append(1)
        try:
            return _changed(function(*arguments))
        finally:
            inside.clear()
    return changed


{name} = _wrong({name})
"""


def canonical(task: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Score canonical solutions, and wrong solutions derived from them, with the command `evaluate`."""
    source = HUMANEVAL_SOURCE if task == "humaneval" else MBPP_SOURCE
    path = find_plus(source, str(options.data))
    assert path is not None
    problems = read_plus(source, path)[0][:: options.step]
    samples = folder / f"{task}_canonical.jsonl"
    with samples.open("w", encoding="utf-8") as out:
        for problem in problems:
            name = problem.entry_point
            wrong = WRONG.format(name=name, presence=task == "mbpp" and name in PRESENCE)
            for program in (problem.reference, problem.reference + wrong):
                out.write(json.dumps({"task_id": problem.task_id, "solution": program}) + "\n")
    out_folder = folder / f"{task}-canonical"
    command = [sys.executable, "-m", "reflectioncoder", "evaluate", f"{task}_plus", "--completions", str(samples)]
    command += ["--data", str(options.data), "--output", str(out_folder), "--workers", "2", "--partial"]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    spent = run(command, {**os.environ, "PYTHONPATH": search}, folder)
    verdicts = [json.loads(line) for line in (out_folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [verdict for verdict in verdicts if verdict["outcome"] != "missing"]
    right, wrong_ones = ([v for v in asked if v["sample"] == sample] for sample in (0, 1))
    failed = {v["task_id"]: f"{v['outcome']}: {v['error']}" for v in right if not v["passed"]}
    passed = [v["task_id"] for v in wrong_ones if v["passed"]]
    for task_id, why in failed.items():
        print(f"canonical solution of {task_id} fails ({why})")
    for task_id in passed:
        print(f"changed solution of {task_id} passes")
    return {
        "task": f"{task}_plus",
        "problems": len(problems),
        "canonical_pass": sum(v["passed"] for v in right) / len(right),
        "changed_pass": len(passed) / len(wrong_ones),
        "canonical_failed": failed,
        "changed_passed": passed,
        "seconds": spent[0],
    }


def measure(source: Path, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Score one file of completions with this project and with evalplus, in turns."""
    task, name = source.stem, f"{source.parent.name}-{source.stem}"
    stem, variable = FILES[task]
    plain = folder / f"{task}.jsonl"
    plain.write_bytes(gzip.decompress((options.data / f"{stem}.jsonl.gz").read_bytes()))
    samples = folder / f"{name}_samples.jsonl"
    samples.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:: options.step]))
    environment = {
        **os.environ,
        f"{variable}_OVERRIDE_PATH": str(plain),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "REFLECTIONCODER_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    ours: dict[str, list[bool]] = {}
    theirs: dict[str, list[bool]] = {}
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "evalplus": []}
    both = options.step == 1 and not options.only_ours  # evalplus scores only complete sets
    for repeat in range(options.repeats + 1):  # the first fills the caches
        out = folder / f"{name}-{repeat}"
        command = [sys.executable, "-m", "reflectioncoder", "evaluate", f"{task}_plus", "--completions", str(samples)]
        command += ["--data", str(options.data), "--output", str(out), "--json", "--workers", "2", "--partial"]
        if options.lowest_limit:
            command += ["--min_time_limit", str(options.lowest_limit)]
        with spinning(options.load if repeat else 0):
            spent = run(command, environment, folder)
            for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines():
                verdict = json.loads(line)
                ours.setdefault(verdict["task_id"], []).append(verdict["passed"])
            if repeat:
                times["ours"].append(spent)
            if both and not (repeat and options.lowest_limit):
                result = folder / f"{name}_samples_eval_results.json"
                result.unlink(missing_ok=True)
                command = [sys.executable, "-m", "evalplus.evaluate", task, "--samples", str(samples)]
                if options.lowest_limit:
                    command += ["--min-time-limit", str(options.lowest_limit)]
                spent = run([*command, "--parallel", "2"], environment, folder)
                for task_id, (row, *_) in json.loads(result.read_text(encoding="utf-8"))["eval"].items():
                    passed = row["base_status"] == row["plus_status"] == "pass"
                    theirs.setdefault(task_id, []).append(passed)
                if repeat:
                    times["evalplus"].append(spent)
        load = os.getloadavg()[0]
        latest = {name: spent[-1] for name, spent in times.items() if spent}
        print(f"{name}+ repeat {repeat}: {latest}, load {load:.0f}", file=sys.stderr, flush=True)
    return {"model": source.parent.name, **summary(task, times, ours, theirs)}


def summary(
    task: str,
    times: dict[str, list[tuple[float, float]]],
    ours: dict[str, list[bool]],
    theirs: dict[str, list[bool]],
) -> dict[str, object]:
    """Summarise a file: medians, their ratio, pass@1, and the problems on which any two verdicts differ."""
    wall = {name: statistics.median(t[0] for t in spent) for name, spent in times.items() if spent}
    processor = {name: statistics.median(t[1] for t in spent) for name, spent in times.items() if spent}
    differ = {
        task_id: {"ours": verdicts, "evalplus": theirs[task_id]}
        for task_id, verdicts in ours.items()
        if task_id in theirs and len({*verdicts, *theirs[task_id]}) > 1
    }
    row: dict[str, object] = {
        "task": f"{task}_plus",
        "pass_at_1": sum(verdicts[-1] for verdicts in ours.values()) / len(ours),
        "seconds": {name: round(value, 1) for name, value in wall.items()},
        "processor_seconds": {name: round(value, 1) for name, value in processor.items()},
        "differ": differ,
        "verdicts_changed": [task_id for task_id, verdicts in ours.items() if len(set(verdicts)) > 1],
    }
    if "evalplus" in wall:
        row["ratio"] = round(wall["ours"] / wall["evalplus"], 3)
        row["processor_ratio"] = round(processor["ours"] / processor["evalplus"], 3)
    return row


def run(command: list[str], environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Run a command, and return wall-clock seconds and CPU seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(seconds, 2), round(spent, 2)


if __name__ == "__main__":
    main()
