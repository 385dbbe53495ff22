"""`run_study(config)`: from settings to a table, resumable."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reflectioncoder.config.study import StudyConfig, run_settings
from reflectioncoder.config.toml import load, save
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import held, refuse_foreign
from reflectioncoder.study.inputs import check_study_inputs, file_digests
from reflectioncoder.study.page import PAGE, write_study_page
from reflectioncoder.study.plan import STEP_FOLDERS, StudyPlan, StudyRun, make_plan, steps_root
from reflectioncoder.study.processes import LocalPool, StepPool, visible_gpus
from reflectioncoder.study.records import StepRecord
from reflectioncoder.study.results import StudyResults, study_results
from reflectioncoder.study.run import read_records, run_steps
from reflectioncoder.study.tables import markdown_table, results_as_json

RESULTS, TABLE_FILE, RUN_FOLDERS = "study.json", "table.md", "runs"
STUDY_FILES = (RESULTS, TABLE_FILE, PAGE, "config.toml", STEP_FOLDERS, RUN_FOLDERS)
UNLIKELY_SEED = 907_165_423  # differs from the default of every seed, so that it shows which keys are seeded
WRITING_SHARE = 0.02  # most of the time that goes into tables of an unfinished study


def plan_study(config: StudyConfig) -> StudyPlan:
    """Plan a study, and check its inputs and its folder, before anything runs.

    Raises:
        UserError: there is no variant, a model or file is missing, or the folder holds another study.
    """
    if not config.variants:
        raise UserError("there are no variants; name a configuration file (docs/studying.md): study CONFIG.toml")
    if find_spec("scipy") is None:
        raise UserError("the intervals need scipy, which is not installed; run: pip install scipy (or make setup)")
    check_same_study(config)
    plan = make_plan(config, file_digests())
    check_study_inputs(plan)
    return plan


def run_study(config: StudyConfig, say: Callable[[str], None] | None = None) -> StudyResults:
    """Run what is not finished of a study, and write study.json, table.md and report.html.

    Args:
        config: the study.
        say: receives a line about each step that fails; by default it goes to standard error.

    Returns:
        the results, with failed runs among them.

    Raises:
        UserError: see `plan_study`; or a file cannot be written.
        KeyboardInterrupt: Ctrl-C; the tables of what is finished are written first.
    """
    say = say or _to_stderr
    folder = Path(config.output)
    with held(folder), held(steps_root(config)) if config.steps else nullcontext():
        plan = plan_study(config)
        save(config, folder)
        link_runs(plan, folder)
        last, cost = time.monotonic(), 0.0

        def changed(records: Mapping[str, StepRecord]) -> None:
            nonlocal last, cost
            started = time.monotonic()
            if cost < WRITING_SHARE * (started - last):
                write_results(config, plan, records)
                last, cost = time.monotonic(), time.monotonic() - started

        try:
            with _pool_of(config, plan) as pool:
                run_steps(plan, pool, say, config.keep_models, changed)
        finally:
            results = write_results(config, plan, read_records(plan))
    return results


def write_results(config: StudyConfig, plan: StudyPlan, records: Mapping[str, StepRecord]) -> StudyResults:
    """Compute the table from the finished steps, and write its three files."""
    folder = Path(config.output)
    results = study_results(config, plan, records)
    write_lines(folder / RESULTS, [json.dumps(results_as_json(results), indent=1, ensure_ascii=False)])
    write_lines(folder / TABLE_FILE, [markdown_table(results)])
    write_study_page(folder, results)
    return results


def check_same_study(config: StudyConfig) -> None:
    """Make sure that a folder is free, or holds this study with other seeds, labels or further variants.

    Raises:
        UserError: it holds something else; the message names the first setting that differs.
    """
    folder = Path(config.output)
    recorded = folder / "config.toml"
    if not recorded.exists():
        refuse_foreign(folder, STUDY_FILES, "study")
        return
    try:
        before = load(StudyConfig, recorded)
    except UserError:
        before = StudyConfig()
    if not before.variants:
        raise UserError(f"{folder}: holds the output of another command; choose another output")
    common = [name for name in before.variants if name in config.variants]
    if not common:
        names = ", ".join(before.variants)
        raise UserError(f"{folder}: holds another study, of the variants {names}; choose another output")
    for name in common:
        old, new = (_flat(run_settings(one, name, UNLIKELY_SEED)) for one in (before, config))
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                what = f"{key} = {old.get(key)!r}, not {new.get(key)!r}"
                raise UserError(
                    f"{folder}: holds a study whose variant '{name}' has {what}; choose another output, or another name"
                    " for the variant"
                )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        items = {key or "build": item for key, item in value.items()}
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        items = {getattr(item, "name", str(place)): item for place, item in enumerate(value)}
    else:
        return {prefix.rstrip("."): value}
    found: dict[str, Any] = {}
    for key, item in items.items():
        found |= _flat(item, f"{prefix}{key}.")
    return found


def link_runs(plan: StudyPlan, folder: Path) -> None:
    """Give each run a folder runs/VARIANT/seed-N with links to its steps, for people."""
    for run in plan.runs:
        place = folder / RUN_FOLDERS / run.variant / f"seed-{run.seed}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name, key in _names(run):
                target = os.path.relpath(plan.folder(key), place)
                link = place / name
                if not link.is_symlink() or os.readlink(link) != target:
                    with suppress(FileNotFoundError):
                        link.unlink()
                    link.symlink_to(target)
        except OSError as error:
            raise UserError(f"cannot write {place}: {error.strerror or error}") from None


def _names(run: StudyRun) -> list[tuple[str, str]]:
    builds = [(f"build-{place}" if place else "build", key) for place, key in enumerate(run.builds)]
    trained = [("train", run.train)] if run.train else []
    scores = []
    for name, (decoded, checked) in run.scores.items():
        end = f"-{name}" if len(run.scores) > 1 else ""
        scores += [(f"generate{end}", decoded), (f"evaluate{end}", checked)]
    return [*builds, *trained, *scores]


def _pool_of(config: StudyConfig, plan: StudyPlan) -> AbstractContextManager[StepPool]:
    if config.engine == "ray":
        try:
            from reflectioncoder.study.ray_pool import ray_pool
        except ImportError as error:
            raise UserError(f"engine = 'ray' needs Ray: pip install 'reflectioncoder[ray]' ({error})") from None
        return ray_pool(config.ray_address, config.jobs, config.threads, len(plan.runs))
    return nullcontext(LocalPool(config.jobs, config.threads, len(plan.runs), study_gpus(plan)))


def study_gpus(plan: StudyPlan) -> list[str]:
    """The GPUs that the steps may use; none if all of them compute on CPUs."""
    computing = [step.decoding or step.settings for step in plan.steps.values() if step.on_device]
    devices = {getattr(settings, "device", "auto") for settings in computing}
    return visible_gpus() if devices - {"cpu"} else []


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
