"""Evaluation: generates or reads completions, checks them, and writes verdicts and a score.

Verdicts are written to `output/results.jsonl`, one line per completion in the task's order, and the score to
`output/score.json`. Failures of the interpreter itself are retried and never count against a program. A time-out is
retried once with nothing else running. Verdicts are saved as they arrive, so a killed evaluation resumes
(`verdict_log.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.config import toml as settings
from reflectioncoder.config.evaluate import EvaluateConfig
from reflectioncoder.config.places import changed_values, moved
from reflectioncoder.errors import UserError, encodable
from reflectioncoder.evaluate.formats import write_format
from reflectioncoder.evaluate.verdict_log import VERDICT_LOG as UNFINISHED
from reflectioncoder.evaluate.verdict_log import VerdictLog, under_way
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import check_writable, held, refuse_foreign, refuse_inputs
from reflectioncoder.generate.completions import Completion, code_of, iter_completion_rows, read_completion
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.syntax.answers.thoughts import check_marks
from reflectioncoder.syntax.trees import parses
from reflectioncoder.tasks.base import Task
from reflectioncoder.tasks.registry import get_task, task_options

if TYPE_CHECKING:  # scoring a file needs no model
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.models.decode import Report
from reflectioncoder.evaluate.check import CheckProgress, check_all
from reflectioncoder.evaluate.results import RESULTS, RESULTS_AFTER, Result, Score, _by_part, after_rounds, summarize

SCORE_FILES = (
    "config.toml", "config.versions.json", RESULTS, RESULTS_AFTER, "score.json", UNFINISHED,
    "eval_results.json", "generations.json", "metrics.json",
)  # fmt: skip
LEAST_MB = 64  # with less memory the interpreter itself fails, not the program
LOOKED_AT, NEARLY_ALL = 200, 0.9  # completions that are looked at for the hint about --clean, and its threshold
OUTPUT_CHARS = 1_000_000  # printed output is not compared, so this limit is generous


def evaluate(
    config: EvaluateConfig,
    report: Report | None = None,
    progress: CheckProgress | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Score:
    """Generate completions, or read them from `config.completions`, and score them.

    Args:
        config: see `EvaluateConfig`.
        report: see `generate`.
        progress: called with the number of finished checks and the total; each time-out adds a second check to it.
        model: see `generate`.
        tokenizer: see `generate`.
        warn: called with what is odd about the completions and does not stop the evaluation.

    Raises:
        UserError: a setting is invalid, a file cannot be read, a problem has no completion, the output folder holds
            another evaluation, or no interpreter can be started.

    Example:
        from reflectioncoder import EvaluateConfig, GenerateConfig, compare, evaluate

        before = evaluate(EvaluateConfig(GenerateConfig(model="base", task="humaneval"), output="runs/before"))
        after = evaluate(EvaluateConfig(GenerateConfig(model="runs/train", task="humaneval"), output="runs/after"))
        print(before.pass_at_1, after.pass_at_1, compare("runs/before", "runs/after").difference)
    """
    started, speed = time.perf_counter(), 0.0
    folder, task = _checked(config)
    missing: list[str] = []
    if config.completions:
        completions = _given(config, task, missing, warn)
    else:
        from reflectioncoder.generate.generate import generate

        generated = generate(config.generate, report, model, tokenizer)
        completions, speed = list(generated.completions), generated.tokens_per_second
    absent = _absent(completions, missing, config.k)
    facts: dict[str, Any] = {"task": task.name, "tests": task.tests, "completions": _digest(completions)}
    deciding = _deciding(config, facts)
    folder = _folder(config, folder, deciding)
    limits = Limits(config.seconds, config.memory_mb, OUTPUT_CHARS)
    with held(folder):
        with ExitStack() as stack:
            count = min(config.workers or os.cpu_count() or 1, max(1, len(completions)))
            pool = [stack.enter_context(task.interpreter(limits, config.isolation)) for _ in range(count)]
            unfinished = VerdictLog(folder, deciding)
            stack.callback(unfinished.close)
            results = check_all(task, completions, pool, limits, progress, unfinished)
            last: list[Result] = []
            if config.rounds:
                from reflectioncoder.evaluate.rounds import Debugging

                folder.mkdir(parents=True, exist_ok=True)
                debugging = Debugging(config.generate, task, folder, pool, limits, report, model, tokenizer)
                reached = debugging.debug(completions, config.rounds)
                last = check_all(task, reached, pool, limits, progress, unfinished)
        if results and all(result.outcome == "not_run" for result in results):  # nothing was scored at all
            absent = [dataclasses.replace(result, outcome="not_run") for result in absent]
        results += absent
        score = summarize(task.name, results, config.k, time.perf_counter() - started, speed)
        truncated = sum(completion.truncated for completion in completions)
        score = dataclasses.replace(score, truncated=truncated, missing=len(missing), folder=str(folder))
        if config.rounds:
            score = dataclasses.replace(score, after=after_rounds(config.rounds, results, last + absent))
            _write_results(folder / RESULTS_AFTER, last + absent)
        settings.save(config, folder)
        _write_results(folder / RESULTS, results)
        for name in config.formats:
            write_format(name, folder, results, completions, score)
        limit = {"limit": config.generate.limit} if config.generate.limit else {}
        facts = {
            **{name: value for name, value in asdict(score).items() if name not in ("folder", "after")},
            **({"after": asdict(score.after)} if score.after is not None else {}),
            **limit,
            "parts": _by_part(task, results),
            "prompts": task.prompt_version,
            **facts,
        }
        write_lines(folder / "score.json", [json.dumps(facts, indent=2)])
        (folder / UNFINISHED).unlink(missing_ok=True)
    return score


def _write_results(path: Path, results: Sequence[Result]) -> None:
    # text that UTF-8 cannot encode must not lose the verdicts
    write_lines(path, (encodable(json.dumps(asdict(result), ensure_ascii=False)) for result in results))


def describe_evaluation(config: EvaluateConfig, model: str, warn: Callable[[str], None] = lambda _: None) -> str:
    """Say what `evaluate` would do; decodes nothing, runs no program and writes nothing.

    Args:
        config: see `evaluate`.
        model: the model's name, for the text.
        warn: see `evaluate`.

    Raises:
        UserError: where `evaluate` would, as far as that is known before completions are decoded.
    """
    folder, task = _checked(config)
    with Interpreter(Limits(config.seconds, config.memory_mb), config.isolation, libraries=config.libraries):
        pass  # it starts
    where = config.output or "a new directory below runs/evaluate"
    check_writable(folder)
    lines = [f"would score {config.completions or model} on {config.generate.task} in {where}"]
    if config.completions:
        missing: list[str] = []
        completions = _given(config, task, missing, warn)
        _absent(completions, missing, config.k)
        facts = {"task": task.name, "tests": task.tests, "completions": _digest(completions)}
        _folder(config, folder, _deciding(config, facts))
    else:
        from reflectioncoder.generate.generate import describe_generation

        lines.insert(0, describe_generation(config.generate))
    return "\n".join(lines)


def _checked(config: EvaluateConfig) -> tuple[Path, Task]:
    """The preferred folder and the task of an evaluation. Raises UserError if a setting is invalid."""
    folder = Path(config.output or f"runs/evaluate/{Path(config.generate.task).stem}")
    samples = config.generate.samples
    if not config.k or min(config.k) < 1 or (not config.completions and max(config.k) > samples):
        raise UserError(f"k = {list(config.k)}: must be at least 1 and at most generate.samples = {samples}")
    if config.workers < 0 or config.seconds <= 0 or config.memory_mb < LEAST_MB:
        raise UserError(f"workers must be at least 0, seconds above 0 and memory_mb at least {LEAST_MB}")
    if config.min_time_limit <= 0 or config.gt_time_limit_factor <= 0:
        raise UserError("min_time_limit and gt_time_limit_factor must be above 0; evalplus has 1 and 4")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --output is the folder of the verdicts")
    task = get_task(config.generate.task, dataclasses.replace(task_options(config.generate), **_times(config)))
    task.libraries = config.libraries
    if config.rounds:
        from reflectioncoder.evaluate.rounds import check_rounds

        check_rounds(config.generate, task, config.rounds)
    return folder, task


def _times(config: EvaluateConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("min_time_limit", "gt_time_limit_factor")}


def _given(config: EvaluateConfig, task: Task, missing: list[str], warn: Callable[[str], None]) -> list[Completion]:
    """Read the completions of a file; ids of problems without one are appended to `missing`."""
    marks = config.generate.chat.thought_marks
    check_marks(marks)
    unknown: list[str] = []
    left = (missing, unknown) if config.partial else (None, None)
    completions = read_completions(config.completions, task, left[0], left[1], config.clean, marks)
    if unknown:
        what = f"{len(unknown)} completions are of problems that task {task.name} does not have"
        warn(f"{what}, the first of '{unknown[0]}'; they are left out")
    if not config.clean and (hint := not_python(completions, task)):
        warn(hint)
    return completions


def _deciding(config: EvaluateConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the verdicts: the facts about task and completions, and the limits."""
    deciding = {**facts, "seconds": config.seconds, "memory_mb": config.memory_mb}
    deciding |= {name: value for name, value in _times(config).items() if value != getattr(EvaluateConfig(), name)}
    deciding |= {"semantics": "release"} if config.generate.semantics == "release" else {}
    deciding |= {"rounds": config.rounds} if config.rounds else {}
    if config.libraries != EvaluateConfig().libraries:
        deciding["libraries"] = list(config.libraries)
    return deciding


def _folder(config: EvaluateConfig, folder: Path, deciding: Mapping[str, Any]) -> Path:
    """The folder that an evaluation may write to. Raises UserError if it holds another's files, or what is read."""
    folder = claim(folder, deciding, named=bool(config.output))
    refuse_inputs([folder / name for name in SCORE_FILES], {"completions": (config.completions,)})
    if under_way(folder) is None and not _is_evaluation(folder):
        refuse_foreign(folder, SCORE_FILES, "evaluate")
    return folder


def _is_evaluation(folder: Path) -> bool:
    """Whether a folder's configuration file is that of an evaluation."""
    return settings.was_saved(EvaluateConfig, folder)


def _absent(completions: Sequence[Completion], missing: Sequence[str], ks: Sequence[int]) -> list[Result]:
    """Make results for problems without a completion: failed samples, as many as other problems have, or the largest k.

    Args:
        completions: the existing completions.
        missing: ids of the problems without a completion.
        ks: the values of k for pass@k.

    Raises:
        UserError: a problem has fewer completions than the largest k; checked first, as scoring may take hours.
    """
    counts = Counter(completion.task_id for completion in completions)
    few = [task_id for task_id, count in counts.items() if count < max(ks)]
    if few:
        what = f"{len(few)} problems have fewer samples, the first is '{few[0]}' with {counts[few[0]]}"
        raise UserError(f"k = {list(ks)}, but {what}; add samples or ask for a smaller k")
    each = max([max(ks), *counts.values()])
    return [Result(name, sample, False, "missing", "no completion", 0.0) for name in missing for sample in range(each)]


def claim(folder: Path, deciding: Mapping[str, Any], named: bool) -> Path:
    """Choose the folder of an evaluation: `folder`, or one beside it if `folder` holds another evaluation.

    Args:
        folder: preferred folder.
        deciding: everything that determines the verdicts. The same completions may be scored again, for example after
            a toolchain was installed, and an unfinished evaluation resumes.
        named: the user named the folder, so no other may be used.

    Raises:
        UserError: another evaluation is there, and the folder was named by the user.
    """
    number, base = 1, folder
    while True:
        begun = under_way(folder)
        if begun is not None and _differ(begun, deciding):
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
    """Whether a score belongs to the same task and completions; False if it cannot be read."""
    try:
        facts = parse_json(path.read_text(encoding="utf-8"))
        names = ("task", "completions")
        return not _differ(*({name: found.get(name) for name in names} for found in (facts, deciding)))
    except (ValueError, AttributeError):
        return False


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two evaluations are of different things; a task that is a file is known by its name and tests."""
    return any(key != "task" or not moved(old.get(key), new.get(key)) for key in changed_values(old, new))


def _digest(completions: Sequence[Completion]) -> str:
    lines = (f"{c.task_id}\0{c.sample}\0{c.whole}\0{c.completion}\0" for c in completions)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_completions(
    path: str,
    task: Task,
    missing: list[str] | None = None,
    unknown: list[str] | None = None,
    clean: bool = False,
    marks: Sequence[str] = (),
) -> list[Completion]:
    """Read completions from a file. Lines without "sample" are numbered within their problem.

    Args:
        path: a JSONL file, or a folder (see `iter_completion_rows`).
        task: the task of the completions.
        missing: if given, ids of problems without a completion are appended to it; otherwise they are an error.
        unknown: if given, completions of problems that the task does not have are left out and their ids appended to
            it; otherwise they are an error.
        clean: read the code in each completion, which is a chat answer.
        marks: further marks of thoughts; see `without_thoughts`.

    Returns:
        the completions in the task's order.

    Raises:
        UserError: a line is invalid, the task has no such problem, a problem has no completion, or a sample occurs
            twice.
    """
    prompts = {prompt.task_id: prompt for prompt in task.prompts()}
    by_problem: dict[str, list[Completion]] = {task_id: [] for task_id in prompts}
    for where, row in ((where, sample) for where, line in iter_completion_rows(path) for sample in task.rows(line)):
        completion = read_completion(row, where)
        if completion.task_id not in by_problem:
            if unknown is None:
                what = f"{where}: task {task.name} has no problem '{completion.task_id}'"
                raise UserError(f"{what}; --partial leaves such completions out")
            unknown.append(completion.task_id)
            continue
        found = by_problem[completion.task_id]
        if "sample" not in row:
            completion = dataclasses.replace(completion, sample=len(found))
        if any(other.sample == completion.sample for other in found):
            raise UserError(f"{where}: sample {completion.sample} of problem '{completion.task_id}' occurs twice")
        if clean:
            code = code_of(completion.completion, prompts[completion.task_id], "chat", marks)
            completion = dataclasses.replace(completion, completion=code)
        found.append(completion)
    without = [task_id for task_id, found in by_problem.items() if not found]
    if unknown and len(without) == len(by_problem):
        raise UserError(f"file {path}: none of its problems are in task {task.name}, the first is '{unknown[0]}'")
    if missing is not None:
        missing += without
    elif without:
        more = f" (then {', '.join(without[1:6])}{', ...' if len(without) > 6 else ''})" if without[1:] else ""
        what = f"no completion for {len(without)} problems, the first is '{without[0]}'{more}"
        raise UserError(f"file {path}: {what}; --partial counts them as failed")
    return [completion for found in by_problem.values() for completion in sorted(found, key=lambda c: c.sample)]


def not_python(completions: Sequence[Completion], task: Task) -> str:
    """Return a hint if nearly all completions of a Python task are not Python, as chat answers are not; else nothing.

    Args:
        completions: the completions; of many, some are looked at.
        task: their task.
    """
    prompts = {prompt.task_id: prompt for prompt in task.prompts()}
    some = completions[:: max(1, len(completions) // LOOKED_AT)]
    if task.reads_answers or not all(prompt.opening.startswith("```python") for prompt in prompts.values()):
        return ""
    bad = [
        one
        for one in some
        if one.completion.strip()
        and not parses(one.completion)
        and (one.whole or not parses(prompts[one.task_id].continuation + one.completion))
    ]
    if len(bad) < NEARLY_ALL * len(some) or not some:
        return ""
    what = f"{len(bad)} of {len(some)} completions are not Python, the first is that of '{bad[0].task_id}'"
    return f"{what}; if they are answers with fences or prose, --clean scores the code in them"
