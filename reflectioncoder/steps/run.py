"""Runs steps: as many at once as there is room for, each once, and again only if it failed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from reflectioncoder.config.toml import to_toml
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.progress import Meter
from reflectioncoder.steps.plan import COMPLETIONS, Step, StepPlan
from reflectioncoder.steps.processes import StepPool, StepProcess, header, step_words
from reflectioncoder.steps.records import (
    STEP_CONFIG,
    STEP_LOG,
    StepRecord,
    clear_output,
    delete_weights,
    last_log_line,
    model_is_complete,
    read_record,
    read_training_result,
    write_record,
)

LOOK_SECONDS = 0.05  # between two looks at the running steps
Records = Mapping[str, StepRecord]


@dataclasses.dataclass
class _Running:
    process: StepProcess
    started: float
    jobs: int


def unfinished_steps(plan: StepPlan, records: Records) -> list[str]:
    """Keys of the steps that must run, in the order of their runs.

    A model whose weights were deleted is trained again only if something that needs it is not done.
    """
    order = list(dict.fromkeys(key for run in plan.runs for key in run.steps))
    missing = {key for key in order if not _is_done(records.get(key))}
    for key in reversed(order):
        if key in missing:
            needed = [name for name in plan.steps[key].needs if name != plan.steps[key].tokens_of]
            missing |= {name for name in needed if name in records and records[name].model_deleted}
    return [key for key in order if key in missing]


def read_records(plan: StepPlan) -> dict[str, StepRecord]:
    """The records of all steps that have ended."""
    found = {key: read_record(plan.folder(key)) for key in plan.steps}
    return {key: record for key, record in found.items() if record is not None}


def run_steps(
    plan: StepPlan,
    pool: StepPool,
    say: Callable[[str], None],
    keep_models: bool = True,
    changed: Callable[[Records], None] = lambda _: None,
) -> Records:
    """Run all unfinished steps.

    Args:
        plan: the plan.
        pool: where the steps run.
        say: receives a line about each step that fails.
        keep_models: whether trained models are kept; otherwise each is deleted once no unfinished step needs it.
        changed: called with the records whenever a step has ended.

    Returns:
        the records of all steps that have ended; those that wait for a failed step have none.

    Raises:
        UserError: a file cannot be written, or no process can be started.
        KeyboardInterrupt: Ctrl-C; the running steps are ended first, and go on in the next run.
    """
    records = read_records(plan)
    waiting = unfinished_steps(plan, records)
    for key in waiting:
        records.pop(key, None)
    running: dict[str, _Running] = {}
    total = len(waiting)
    with Meter("steps", total) as meter:
        try:
            while waiting or running:
                _start(plan, pool, waiting, running, records)
                waiting = [key for key in waiting if key not in running and key not in records]
                blocked = [key for key in waiting if _is_blocked(plan, key, records)]
                waiting = [key for key in waiting if key not in blocked]
                ended = _collect(plan, running, records, say)
                if ended or blocked:
                    left = len(waiting) + len(running)
                    failed = sum(record.state == "failed" for record in records.values())
                    meter.update(total - left, note=f"{failed} failed" if failed else "")
                if ended:
                    if not keep_models:
                        _delete_models(plan, records)
                    changed(records)
                elif running:
                    time.sleep(LOOK_SECONDS)
        finally:
            for one in running.values():
                one.process.stop()
    return records


def settings_of_step(plan: StepPlan, step: Step, threads: int) -> Any:
    """The settings with which a step runs: those of the plan, with its output and its number of workers.

    Raises:
        UserError: the training whose tokens are the limit has no result.
    """
    output = str(plan.output(step.key))
    settings = step.settings
    if step.verb == "train":
        changes: dict[str, Any] = {"output": output, "resume": True}
        if step.tokens_of:
            changes["max_tokens"] = int(read_training_result(plan.folder(step.tokens_of))["tokens"])
        return dataclasses.replace(settings, **changes)
    if step.verb == "generate":
        return dataclasses.replace(settings, output=f"{output}/{COMPLETIONS}")
    return dataclasses.replace(settings, output=output, workers=settings.workers or threads)


def _start(
    plan: StepPlan,
    pool: StepPool,
    waiting: list[str],
    running: dict[str, _Running],
    records: dict[str, StepRecord],
) -> None:
    """Start the steps that are ready, in order, as far as there is room."""
    for key in waiting:
        step, folder = plan.steps[key], plan.folder(key)
        if not all(_is_done(records.get(name)) for name in step.needs) or not pool.room(step.on_device):
            continue
        before = read_record(folder)
        if step.verb == "train":
            if before is not None and before.model_deleted:
                clear_output(folder)
            elif model_is_complete(folder):  # killed between its end and our record of it
                records[key] = StepRecord("train", "done", before.seconds if before else 0.0)
                write_record(folder, records[key])
                continue
        write_lines(folder / STEP_CONFIG, [to_toml(settings_of_step(plan, step, pool.threads)).rstrip("\n")])
        with (folder / STEP_LOG).open("a", encoding="utf-8") as log:
            log.write(header(step.verb, before.attempts + 1 if before else 1))
        process = pool.start(step.on_device, step_words(step.verb, folder / STEP_CONFIG), folder / STEP_LOG)
        running[key] = _Running(process, time.monotonic(), len(running) + 1)


def _collect(
    plan: StepPlan,
    running: dict[str, _Running],
    records: dict[str, StepRecord],
    say: Callable[[str], None],
) -> bool:
    """Record the steps that have ended; return whether there was one."""
    ended = False
    for key, one in list(running.items()):
        status = one.process.poll()
        if status is None:
            continue
        del running[key]
        ended = True
        step, folder = plan.steps[key], plan.folder(key)
        before = read_record(folder)
        seconds = time.monotonic() - one.started + (before.seconds if before else 0.0)
        attempts = before.attempts + 1 if before else 1
        done = status == 0 or (step.verb == "train" and model_is_complete(folder))
        error = "" if done else last_log_line(folder)
        if status < 0 and not done:
            error = f"killed by signal {-status}; {error}"
        state: Any = "done" if done else "failed"
        records[key] = StepRecord(step.verb, state, round(seconds, 3), attempts, status, error, one.jobs)
        write_record(folder, records[key])
        if not done:
            say(f"{_runs_of(plan, key)}: {error} ({folder / STEP_LOG})")
    return ended


def _runs_of(plan: StepPlan, key: str) -> str:
    """The runs that a step belongs to, for a message."""
    runs = [run.name for run in plan.runs if key in run.steps]
    more = f" and {len(runs) - 1} more runs" if len(runs) > 1 else ""
    return f"{plan.steps[key].verb} failed for {runs[0] if runs else key}{more}"


def _is_done(record: StepRecord | None) -> bool:
    return record is not None and record.state == "done"


def _is_blocked(plan: StepPlan, key: str, records: Records) -> bool:
    """Whether a step waits, directly or not, for one that failed."""
    if key in records:
        return records[key].state == "failed"
    return any(_is_blocked(plan, name, records) for name in plan.steps[key].needs)


def _delete_models(plan: StepPlan, records: dict[str, StepRecord]) -> None:
    """Delete the weights of the models that no unfinished step needs."""
    for key, record in list(records.items()):
        if record.verb != "train" or record.state != "done" or record.model_deleted:
            continue
        users = [step.key for step in plan.steps.values() if key in step.needs and step.tokens_of != key]
        if all(_is_done(records.get(name)) for name in users):
            records[key] = delete_model(plan, key, record)


def delete_model(plan: StepPlan, key: str, record: StepRecord) -> StepRecord:
    """Delete the weights of a trained model, and return its new record, which says so.

    Args:
        plan: the plan.
        key: key of the training.
        record: its record.
    """
    delete_weights(plan.folder(key))
    changed = dataclasses.replace(record, model_deleted=True)
    write_record(plan.folder(key), changed)
    return changed
