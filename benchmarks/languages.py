"""Measures seconds per problem in each language of MultiPL-E and in DS-1000, and finds unsolvable problems.

Every problem of a language is checked with a function body that only fails, so each is compiled, started and run to its
first test. Problems that do not compile with this body, or that the language rejects, are listed: their tests are
wrong. Without --data the only problem is the one of the test suite, with its correct answer.

    .venv/bin/python benchmarks/languages.py --data ../shared/data --languages java,js --repeats 5
    .venv/bin/python benchmarks/languages.py --data ../shared/data --ds1000   # its references by library
    .venv/bin/python benchmarks/languages.py --prepared --repeats 5           # time saved by preparing compilers
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from reflectioncoder.evaluate.evaluate import OUTPUT_CHARS
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.tasks import ds1000
from reflectioncoder.tasks.base import Task, TaskOptions
from reflectioncoder.tasks.ds1000 import DS1000
from reflectioncoder.tasks.multipl_e.compilers import ready_folder
from reflectioncoder.tasks.multipl_e.languages import LANGUAGES, find
from reflectioncoder.tasks.multipl_e.task import MultiPLE

LIMITS = Limits(10.0, 1024, OUTPUT_CHARS)
FAILS = {
    "java": "        throw new RuntimeException();",
    "js": "  throw new Error();\n}\n",
    "ts": "  throw new Error();\n}\n",
    "cpp": "    abort();",
    "php": "    throw new Exception();\n}\n",
    "rs": "    todo!()",
    "cs": "        throw new Exception();",
    "sh": "    false",
}
REFUSED = re.compile(
    r"^compilation: |SyntaxError|PHP (Parse|Fatal) error:  (syntax|Cannot|Only)|syntax error|unexpected"
)


def measure(task: Task, interpreter: Interpreter, answers: dict[str, str]) -> tuple[list[float], dict[str, str]]:
    """Check all answers.

    Returns:
        seconds of each check, including the start of its session; and the error for each problem whose tests cannot be
        run.
    """
    times, refused = [], {}
    for task_id, answer in answers.items():
        started = time.perf_counter()
        verdict = task.check(task_id, answer, interpreter, LIMITS)
        times.append(time.perf_counter() - started)
        if REFUSED.search(verdict.error):
            refused[task_id] = verdict.error
    return times, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder with multipl_e/")
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--problems", type=int, default=0, help="of each language, 0 for all")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ds1000", action="store_true", help="run the references of DS-1000 instead")
    parser.add_argument("--prepared", action="store_true", help="time compilers with and without preparation instead")
    arguments = parser.parse_args()
    if arguments.prepared:
        preparation(arguments.repeats)
        return
    if arguments.ds1000:
        references(arguments.data, arguments.problems)
        return
    rows = []
    opened = {}
    for key in arguments.languages.split(","):
        if find(key).missing:
            print(f"{key:6} not run: {find(key).reason}")
            rows.append({"language": key, "not_run": find(key).reason})
            continue
        task, answers = problems(key, arguments.data, arguments.problems)
        opened[key] = (task, task.interpreter(LIMITS), answers)
        measure(task, opened[key][1], dict(list(answers.items())[:1]))  # warm-up; measures an empty program once
    times: dict[str, list[float]] = {key: [] for key in opened}
    refused: dict[str, dict[str, str]] = {key: {} for key in opened}
    for _ in range(arguments.repeats):  # the languages take turns, so that other work on the machine affects them all
        for key, (task, interpreter, answers) in opened.items():
            more, found = measure(task, interpreter, answers)
            times[key] += more
            refused[key] |= found
    for key, (_, interpreter, answers) in opened.items():
        interpreter.close()
        median = statistics.median(times[key])
        print(f"{key:6} {median:6.3f} s a problem (median of {len(times[key])}), {find(key).version}")
        for name, said in refused[key].items():
            print(f"       {name}: {said[:140]}")
        row = {"language": key, "problems": len(answers), "seconds": round(median, 4), "refused": sorted(refused[key])}
        rows.append(row)
    print(json.dumps(rows))


def preparation(repeats: int) -> None:
    """Compare the CPU seconds of one compilation by MultiPL-E's command and by ours."""
    from polyglot import CASES

    tuples = LANGUAGES["java"].tools[2].name
    theirs = {
        "java": ("javac", "-encoding", "UTF8", "-cp", tuples, "-d", ".", "Problem.java"),
        "ts": ("tsc", "--target", "esnext", "main.ts"),
        "cpp": ("g++", "main.cpp", "-o", "main", "-std=c++17"),
    }
    rows = {}
    for key in [key for key in theirs if not find(key).missing]:
        toolchain, language = find(key), LANGUAGES[key]
        case = CASES[key]
        commands = [toolchain.command(theirs[key]), toolchain.command(language.compile, ready_folder(toolchain))]
        times: list[list[float]] = [[], []]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, language.source).write_text(f"{case.prompt}{case.right}\n{case.tests}", encoding="utf-8")
            for _ in range(repeats):
                for place, command in enumerate(commands):
                    before = resource.getrusage(resource.RUSAGE_CHILDREN)
                    subprocess.run(command, cwd=folder, capture_output=True, check=True)
                    after = resource.getrusage(resource.RUSAGE_CHILDREN)
                    times[place].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        plain, prepared = (statistics.median(each) for each in times)
        print(
            f"{key:6} {plain:.2f} s of processor time a compilation, prepared {prepared:.2f} ({plain / prepared:.1f}x)"
        )
        rows[key] = {"plain": round(plain, 3), "prepared": round(prepared, 3)}
    print(json.dumps(rows))


def references(data: str, count: int) -> None:
    """Run the references of DS-1000, and the first five also without preloaded libraries."""
    task = DS1000(TaskOptions(data=data, limit=count))
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    times = []
    with task.interpreter(LIMITS) as interpreter:
        for task_id, row in task.problems.items():
            started = time.perf_counter()
            verdict = task.check(task_id, row["reference_code"], interpreter, LIMITS)
            if verdict.outcome == "timeout":  # possibly only because the machine was busy
                verdict = task.check(task_id, row["reference_code"], interpreter, LIMITS)
            if verdict.outcome != "not_run":
                times.append(time.perf_counter() - started)
            outcomes[row["metadata"]["library"]]["passed" if verdict.passed else verdict.outcome] += 1
            if not verdict.passed and row["metadata"]["library"] not in ("Pytorch", "Tensorflow"):
                print(f"{row['metadata']['library']} {task_id}: {verdict.outcome}, {verdict.error[:120]}", flush=True)
    for library, counts in outcomes.items():
        print(f"{library:12} {dict(counts)}", flush=True)
    passed = sum(counts["passed"] for counts in outcomes.values())
    ds1000.DS1000_PRELOAD = ()  # type: ignore[assignment]
    cold = []
    with task.interpreter(LIMITS) as interpreter:
        for task_id, row in list(task.problems.items())[:5]:
            started = time.perf_counter()
            task.check(task_id, row["reference_code"], interpreter, LIMITS)
            cold.append(time.perf_counter() - started)
    median, slow = (round(statistics.median(each), 4) for each in (times, cold))
    print(f"{passed} of {len(times)} pass; {median} s a task, {slow} s where the session imports the libraries")
    print(json.dumps({"passed": passed, "run": len(times), "seconds": median, "seconds_without_preload": slow}))


def problems(key: str, data: str, count: int) -> tuple[Task, dict[str, str]]:
    """Return a task, and an answer to each of its problems."""
    if data:
        task = MultiPLE(key, TaskOptions(data=data, limit=count))
        return task, dict.fromkeys(task.problems, FAILS[key])
    from polyglot import CASES, write

    with tempfile.TemporaryDirectory() as folder:
        task = MultiPLE(key, TaskOptions(data=str(write(Path(folder), key, {"evens": CASES[key]}))))
    return task, {"evens": CASES[key].right}


if __name__ == "__main__":
    main()
