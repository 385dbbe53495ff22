"""Completions to verdicts to pass@k with intervals, and the paired comparison of two runs.

Verdicts are `output/results.jsonl`, one line a completion in the task's order; the score is `output/score.json`.
A failure of the interpreter itself is tried again and never counted against a program; a verdict that ran out of
time is tried once more with nothing else running. Verdicts are kept as they come (`unfinished.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from reflectioncoder.config import toml as settings
from reflectioncoder.config.build import EvaluateConfig
from reflectioncoder.dialogues.dialogue import encodable, iter_jsonl, write_lines
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.formats import write_format
from reflectioncoder.evaluate.stats import Comparison, paired, pass_at_k, wilson
from reflectioncoder.evaluate.verdict_log import NAME as UNFINISHED
from reflectioncoder.evaluate.verdict_log import Key, Unfinished, under_way
from reflectioncoder.generate.completions import Completion, iter_rows, read_completion
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.tasks.base import Task, Verdict, get_task, task_options

if TYPE_CHECKING:  # scoring a file takes no model
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.models.decode import Report

ATTEMPTS = 3  # for failures of the interpreter
LEAST_MB = 64  # with less, what fails is the interpreter and not the program
OUTPUT_CHARS = 1_000_000  # candidates may print what they like; the answer is what they return
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Result:
    """The verdict on one completion; `error` is the exception with its first line, `groups` as in `Verdict`."""

    task_id: str
    sample: int
    passed: bool
    outcome: str
    error: str
    seconds: float
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Score:
    """What a run is worth.

    Args:
        task: its name.
        pass_at_1: mean over the problems of the share of their samples that pass; None where none could be run.
        low: lower end of its 95 % Wilson interval.
        high: upper end.
        n: problems scored.
        not_run: problems left out of all this, because this machine lacks what they need.
        k: pass@k for each k asked for.
        seconds: of decoding and checking.
        tokens_per_second: of decoding; 0 where completions were read.
        folder: where the verdicts are.
        missing: problems without a completion, counted as failed.
        truncated: completions that ran out of tokens before their code ended.
    """

    task: str
    pass_at_1: float | None
    low: float | None
    high: float | None
    n: int
    not_run: int
    k: dict[int, float]
    seconds: float
    tokens_per_second: float = 0.0
    truncated: int = 0
    missing: int = 0
    folder: str = ""


def evaluate(
    config: EvaluateConfig,
    report: Report | None = None,
    progress: Progress | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Score:
    """Generate completions, or read them from `config.completions`, and score them.

    Args:
        config: see `EvaluateConfig`.
        report: see `generate`.
        progress: called with how many checks are made, and of how many; each time-out adds one, its second try.
        model: see `generate`.
        tokenizer: see `generate`.

    Raises:
        UserError: bad settings, a file that cannot be read, problems without a completion, no interpreter.
    """
    started, speed = time.perf_counter(), 0.0
    folder = Path(config.output or f"runs/evaluate/{Path(config.generate.task).stem}")
    samples = config.generate.samples
    if not config.k or min(config.k) < 1 or (not config.completions and max(config.k) > samples):
        raise UserError(f"k = {list(config.k)}: wants 1 <= k <= generate.samples = {samples}")
    if config.workers < 0 or config.seconds <= 0 or config.memory_mb < LEAST_MB:
        raise UserError(f"workers must be at least 0, seconds above 0 and memory_mb at least {LEAST_MB}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --output is the folder of the verdicts")
    task = get_task(config.generate.task, task_options(config.generate))
    missing: list[str] = []
    if config.completions:
        completions = read_completions(config.completions, task, missing if config.partial else None)
    else:
        from reflectioncoder.generate.generate import generate

        generated = generate(config.generate, report, model, tokenizer)
        completions, speed = list(generated.completions), generated.tokens_per_second
    absent = _absent(completions, missing, config.k)
    facts: dict[str, Any] = {"task": task.name, "tests": task.tests, "completions": _digest(completions)}
    deciding = {**facts, "seconds": config.seconds, "memory_mb": config.memory_mb}
    folder = claim(folder, deciding, named=bool(config.output))
    limits = Limits(config.seconds, config.memory_mb, OUTPUT_CHARS)
    with ExitStack() as stack:
        count = min(config.workers or os.cpu_count() or 1, max(1, len(completions)))
        pool = [stack.enter_context(task.interpreter(limits, config.isolation)) for _ in range(count)]
        unfinished = Unfinished(folder, deciding)
        stack.callback(unfinished.close)
        results = check_all(task, completions, pool, limits, progress, unfinished)
    if results and all(result.outcome == "not_run" for result in results):  # then these say nothing, either
        absent = [dataclasses.replace(result, outcome="not_run") for result in absent]
    results += absent
    score = summarize(task.name, results, config.k, time.perf_counter() - started, speed)
    truncated = sum(completion.truncated for completion in completions)
    score = dataclasses.replace(score, truncated=truncated, missing=len(missing), folder=str(folder))
    settings.save(config, folder)
    lines = (encodable(json.dumps(asdict(result), ensure_ascii=False)) for result in results)  # never lost for a text
    write_lines(folder / "results.jsonl", lines)
    for name in config.formats:
        write_format(name, folder, results, completions, score)
    limit = {"limit": config.generate.limit} if config.generate.limit else {}
    facts = {
        **{name: value for name, value in asdict(score).items() if name != "folder"},
        **limit,
        "parts": _by_part(task, results),
        "prompts": task.prompt_version,
        **facts,
    }
    write_lines(folder / "score.json", [json.dumps(facts, indent=2)])
    (folder / UNFINISHED).unlink(missing_ok=True)
    return score


def _absent(completions: Sequence[Completion], missing: Sequence[str], ks: Sequence[int]) -> list[Result]:
    """Results for problems without a completion: as many failed samples as other problems have, and as k wants.

    Raises:
        UserError: a problem has fewer completions than k wants; said here, as checking may take hours.
    """
    counts = Counter(completion.task_id for completion in completions)
    few = [task_id for task_id, count in counts.items() if count < max(ks)]
    if few:
        what = f"{len(few)} problems have fewer samples, the first is '{few[0]}' with {counts[few[0]]}"
        raise UserError(f"k = {list(ks)}, but {what}; add samples or ask for a smaller k")
    each = max([max(ks), *counts.values()])
    return [Result(name, sample, False, "missing", "no completion", 0.0) for name in missing for sample in range(each)]


def claim(folder: Path, deciding: Mapping[str, Any], named: bool) -> Path:
    """The folder for an evaluation: `folder`, unless another one's results are in it; then one beside it.

    Args:
        folder: where it would be.
        deciding: what decides its verdicts. The same completions may be scored anew, such as after a toolchain was
            installed, and what is unfinished goes on.
        named: the user wants no other folder.

    Raises:
        UserError: another evaluation is there, and the folder was named by the user.
    """
    number, base = 1, folder
    while True:
        begun = under_way(folder)
        if begun is not None and begun != deciding:
            what = f"an unfinished evaluation ({UNFINISHED}) of other completions, tests or limits"
        elif begun is None and (folder / "score.json").is_file() and not _is_about(folder / "score.json", deciding):
            what = "another evaluation"
        else:
            return folder
        if named:
            raise UserError(f"{folder}: holds {what}; choose another --output or remove it")
        number += 1
        folder = base.with_name(f"{base.name}-{number}")


def _is_about(path: Path, deciding: Mapping[str, Any]) -> bool:
    """Whether a score is of the same task and completions; one that cannot be read is nobody's."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return all(facts.get(name) == deciding[name] for name in ("task", "completions"))
    except (ValueError, AttributeError):
        return False


def _digest(completions: Sequence[Completion]) -> str:
    lines = (f"{c.task_id}\0{c.sample}\0{c.whole}\0{c.completion}\0" for c in completions)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_completions(path: str, task: Task, missing: list[str] | None = None) -> list[Completion]:
    """Completions of a file, in the task's order; lines of one problem without "sample" are numbered.

    Args:
        path: JSON lines, or a folder (`iter_rows`).
        task: whose problems they answer.
        missing: where given, problems without a completion are appended here; otherwise they are an error.

    Raises:
        UserError: a bad line, a problem the task does not have, one without a completion, or one sample twice.
    """
    by_problem: dict[str, list[Completion]] = {prompt.task_id: [] for prompt in task.prompts()}
    for where, row in ((where, sample) for where, line in iter_rows(path) for sample in task.rows(line)):
        completion = read_completion(row, where)
        if completion.task_id not in by_problem:
            raise UserError(f"{where}: task {task.name} has no problem '{completion.task_id}'")
        found = by_problem[completion.task_id]
        if "sample" not in row:
            completion = dataclasses.replace(completion, sample=len(found))
        if any(other.sample == completion.sample for other in found):
            raise UserError(f"{where}: sample {completion.sample} of problem '{completion.task_id}' occurs twice")
        found.append(completion)
    without = [task_id for task_id, found in by_problem.items() if not found]
    if missing is not None:
        missing += without
    elif without:
        more = f" (then {', '.join(without[1:6])}{', ...' if len(without) > 6 else ''})" if without[1:] else ""
        what = f"no completion for {len(without)} problems, the first is '{without[0]}'{more}"
        raise UserError(f"file {path}: {what}; --partial counts them as failed")
    return [completion for found in by_problem.values() for completion in sorted(found, key=lambda c: c.sample)]


def check_all(
    task: Task,
    completions: Sequence[Completion],
    pool: Sequence[Interpreter],
    limits: Limits,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
) -> list[Result]:
    """Verdicts on all completions, in their order; the same code for the same problem is run once.

    Args:
        task: whose tests decide.
        completions: what to check.
        pool: open interpreters; each is used by one thread at a time.
        limits: of each cell.
        progress: see `evaluate`.
        unfinished: has the verdicts of a run that was killed, and keeps those of this one.

    Raises:
        UserError: the interpreter itself failed several times on one completion.
    """
    free: SimpleQueue[Interpreter] = SimpleQueue()
    for interpreter in pool:
        free.put(interpreter)

    def check(key: Key, alone: bool = False) -> Verdict:
        found = unfinished.get(key, alone) if unfinished is not None else None
        if found is not None:
            return found
        interpreter = free.get()
        try:
            verdict = _check_once(task, key, interpreter, limits)
        finally:
            free.put(interpreter)
        if unfinished is not None:
            unfinished.keep(key, verdict, alone)
        return verdict

    unique = list(dict.fromkeys(map(_key, completions)))
    verdicts: dict[Key, Verdict] = {}
    late: list[Key] = []
    unique.sort(key=lambda key: -task.cost(key[0]))  # a long one at the end would leave the others idle
    with ThreadPoolExecutor(len(pool)) as threads:
        for key, verdict in zip(unique, threads.map(check, unique), strict=True):
            verdicts[key] = verdict
            late += [key] if verdict.outcome == "timeout" else []  # perhaps only because the machine was busy
            if progress is not None:
                progress(len(verdicts), len(unique) + len(late))
    for number, key in enumerate(late, 1):
        verdicts[key] = check(key, alone=True)
        if progress is not None:
            progress(len(unique) + number, len(unique) + len(late))
    return [
        Result(c.task_id, c.sample, v.passed, v.outcome, encodable(c.error or v.error), round(v.seconds, 4), v.groups)
        for c in completions
        for v in [verdicts[_key(c)]]
    ]


def _key(completion: Completion) -> Key:
    return completion.task_id, completion.completion, completion.whole


def _check_once(task: Task, key: Key, interpreter: Interpreter, limits: Limits) -> Verdict:
    """A verdict on the program; failures that are the interpreter's own are tried again."""
    for _ in range(ATTEMPTS):
        verdict = task.check(key[0], key[1], interpreter, limits, key[2])
        if verdict.outcome != "infrastructure":
            return verdict
    raise UserError(
        f"task {task.name}, problem '{key[0]}': the interpreter failed {ATTEMPTS} times ({verdict.error}); "
        "no score was written; run again to go on"
    )


def summarize(
    task: str, results: Iterable[Result], ks: Sequence[int] = (1,), seconds: float = 0.0, tokens_per_second: float = 0.0
) -> Score:
    """The score of verdicts; those that are `not_run` say nothing. Raises UserError for a k beyond the samples."""
    groups = by_task(results).values()
    known = [[result for result in group if result.outcome != "not_run"] for group in groups]
    problems = [[result.passed for result in group] for group in known if group]
    if not problems:
        return Score(task, None, None, None, 0, len(known), {}, seconds, tokens_per_second)
    fewest = min(map(len, problems))
    if any(k > fewest for k in ks):
        raise UserError(f"k = {list(ks)}, but a problem has {fewest} samples")
    at_k = {k: sum(pass_at_k(len(p), sum(p), k) for p in problems) / len(problems) for k in (1, *ks)}
    low, high = wilson(at_k[1], len(problems))
    n, chosen = len(problems), {k: at_k[k] for k in ks}
    return Score(task, at_k[1], low, high, n, len(known) - n, chosen, seconds, tokens_per_second)


def _by_part(task: Task, results: Sequence[Result]) -> dict[str, dict[str, float | int | None]]:
    """Pass@1, its interval and counts by part of the task, such as a library of DS-1000; empty where it has none."""
    parts: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        parts[task.part(result.task_id)].append(result)
    wanted = ("pass_at_1", "low", "high", "n", "not_run")
    scores = {part: summarize(task.name, group) for part, group in sorted(parts.items()) if part}
    return {part: {name: getattr(score, name) for name in wanted} for part, score in scores.items()}


def by_task(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by problem, each problem's in the order of its samples."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.task_id].append(result)
    return {task_id: sorted(group, key=lambda r: r.sample) for task_id, group in groups.items()}


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """The verdicts of an evaluation: `results.jsonl`, or the directory it is in. Raises UserError."""
    path = Path(path)
    results = []
    for where, row in iter_jsonl(path / "results.jsonl" if path.is_dir() else path):
        try:
            results.append(Result(**{**row, "groups": tuple(map(tuple, row.get("groups", ())))}))
        except (TypeError, AttributeError):
            raise UserError(f"{where}: not a verdict with {', '.join(Result.__dataclass_fields__)}") from None
    return results


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], seed: int = 0) -> Comparison:
    """Two evaluations of the same task, problem by problem.

    Args:
        first: its `results.jsonl` or output directory, the run before.
        second: the run after.
        seed: of the bootstrap.

    Raises:
        UserError: a file that is no list of verdicts, runs of other tasks, tests or problems, or nothing run in both.
    """
    for key, mine, other in zip(("task", "tests"), *map(_judged_by, (first, second)), strict=True):
        if mine and other and mine != other:
            raise UserError(
                f"{first} and {second}: {key} '{mine}' and '{other}'; compare runs of one task and its tests"
            )
    runs = [by_task(read_results(path)) for path in (first, second)]
    if not runs[0] or runs[0].keys() != runs[1].keys():
        differ = len(runs[0].keys() ^ runs[1].keys())
        raise UserError(f"{first} and {second}: {differ} problems are in one only; compare runs of one task and seed")
    known = [{name: [r.passed for r in group if r.outcome != "not_run"] for name, group in run.items()} for run in runs]
    both = [name for name in runs[0] if known[0][name] and known[1][name]]
    if not both:
        raise UserError(
            f"{first} and {second}: no problem was run in both; reflectioncoder doctor says what is missing"
        )
    found = paired([known[0][name] for name in both], [known[1][name] for name in both], seed)
    return dataclasses.replace(found, not_run=len(runs[0]) - len(both))


def _judged_by(path: str | os.PathLike[str]) -> tuple[str | None, str | None]:
    """Task and tests as the score beside an evaluation's results names them, a task that is a file without its folder;
    None where it does not say."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        facts = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        return Path(facts["task"]).name, facts.get("tests")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, None
