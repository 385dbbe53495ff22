"""`run_study(config)`: from settings to a table, resumable."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

from reflectioncoder.config.study import StudyConfig, run_settings
from reflectioncoder.config.tables import flat_settings
from reflectioncoder.config.toml import load, save
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import held, refuse_foreign
from reflectioncoder.steps.inputs import check_step_inputs, file_digests
from reflectioncoder.steps.plan import STEP_FOLDERS
from reflectioncoder.steps.pool import open_pool
from reflectioncoder.steps.records import StepRecord, link_steps
from reflectioncoder.steps.run import read_records, run_steps
from reflectioncoder.study.page import PAGE, write_study_page
from reflectioncoder.study.plan import StudyPlan, make_plan, steps_root
from reflectioncoder.study.results import StudyResults, study_results
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
    check_step_inputs(plan)
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
        for run in plan.runs:
            link_steps(plan, run, folder / RUN_FOLDERS / run.variant / f"seed-{run.seed}")
        last, cost = time.monotonic(), 0.0

        def changed(records: Mapping[str, StepRecord]) -> None:
            nonlocal last, cost
            started = time.monotonic()
            if cost < WRITING_SHARE * (started - last):
                write_results(config, plan, records)
                last, cost = time.monotonic(), time.monotonic() - started

        try:
            with open_pool(
                plan, config.engine, config.ray_address, config.jobs, config.threads, len(plan.runs)
            ) as pool:
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
        old, new = (flat_settings(run_settings(one, name, UNLIKELY_SEED)) for one in (before, config))
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                what = f"{key} = {old.get(key)!r}, not {new.get(key)!r}"
                raise UserError(
                    f"{folder}: holds a study whose variant '{name}' has {what}; choose another output, or another name"
                    " for the variant"
                )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
