"""`run_improve(config)`: rounds of attempts, repairs, training and scores until a held-out set stops improving."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from reflectioncoder.config.improve import ImproveConfig, round_settings
from reflectioncoder.config.tables import flat_settings
from reflectioncoder.config.toml import load, save
from reflectioncoder.construct.samplers.registry import check_sampler
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import check_writable, held, refuse_foreign
from reflectioncoder.improve.page import IMPROVE_PAGE, write_improve_page
from reflectioncoder.improve.plan import RoundsPlan, plan_rounds
from reflectioncoder.improve.problems import not_counted
from reflectioncoder.improve.results import ImproveResults, improve_results, made_nothing, read_funnel
from reflectioncoder.improve.tables import round_line, rounds_as_json, rounds_markdown
from reflectioncoder.steps.inputs import check_step_inputs, file_digests
from reflectioncoder.steps.plan import FREE_KEYS, STEP_FOLDERS
from reflectioncoder.steps.pool import open_pool
from reflectioncoder.steps.records import StepRecord, link_steps, read_record
from reflectioncoder.steps.run import delete_model, read_records, run_steps

RESULTS, TABLE_FILE, ROUND_FOLDERS = "improve.json", "table.md", "rounds"
IMPROVE_FILES = (RESULTS, TABLE_FILE, IMPROVE_PAGE, "config.toml", STEP_FOLDERS, ROUND_FOLDERS)


def plan_improve(config: ImproveConfig) -> tuple[RoundsPlan, frozenset[str]]:
    """Plan all rounds of a loop, and check its inputs and its folder, before anything runs.

    Returns:
        the plan, and the problems of the stopping score that do not count in it (`not_counted`).

    Raises:
        UserError: there is no first model, a model or file is missing, a problem is trained on and scored, or the
            folder holds something else.
    """
    if not config.start:
        raise UserError("key 'start' is missing: name the first model (docs/improving.md): improve CONFIG.toml")
    if find_spec("scipy") is None:
        raise UserError("the intervals need scipy, which is not installed; run: pip install scipy (or make setup)")
    check_same_loop(config)
    check_writable(Path(config.output))
    plan = plan_rounds(config, config.rounds, file_digests())
    check_step_inputs(plan)
    build = plan.steps[plan.runs[1].builds[0]].settings
    check_sampler(build)
    if config.build.get("sampler") == "native" or (
        build.attempts.repair == "self" and build.attempts.backend != "server"
    ):
        _check_format(config.start)
    return plan, not_counted(config)


def run_improve(config: ImproveConfig, say: Callable[[str], None] | None = None) -> ImproveResults:
    """Run the rounds that are not finished, and write improve.json, table.md and report.html after each.

    Args:
        config: the loop.
        say: receives a line about each round and each step that fails; by default it goes to standard error.

    Raises:
        UserError: see `plan_improve`; or a file cannot be written.
        KeyboardInterrupt: Ctrl-C; the tables of what is finished are written first.
    """
    say = say or _to_stderr
    folder = Path(config.output)
    with held(folder):
        whole, left_out = plan_improve(config)
        save(config, folder)

        def write(number: int, records: Mapping[str, StepRecord]) -> ImproveResults:
            part = first_rounds(whole, number)
            return write_rounds(config, part, records, left_out)

        with open_pool(whole, config.engine, config.ray_address, config.jobs, config.threads, _widest(whole)) as pool:
            for number in range(1, config.rounds + 1):
                part = first_rounds(whole, number)
                for one in part.runs[-1:] if number > 1 else part.runs:
                    link_steps(part, one, folder / ROUND_FOLDERS / str(one.number))
                empty = made_nothing(read_funnel(part, part.runs[-1]))
                try:
                    run_steps(first_rounds(whole, number - 1) if empty else part, pool, _unless_empty(part, say))
                finally:
                    results = write(number, read_records(part))
                if config.keep_models == "best" and _delete_models(part, results):
                    results = write(number, read_records(part))
                say(round_line(results))
                if results.ended:
                    break
    return results


def first_rounds(plan: RoundsPlan, last: int) -> RoundsPlan:
    """The part of a plan up to a round."""
    runs = plan.runs[: last + 1]
    keys = {key for one in runs for key in one.steps}
    return RoundsPlan(plan.root, {key: step for key, step in plan.steps.items() if key in keys}, runs)


def write_rounds(
    config: ImproveConfig, plan: RoundsPlan, records: Mapping[str, StepRecord], left_out: frozenset[str]
) -> ImproveResults:
    """Compute the table from the finished steps, and write its three files."""
    folder = Path(config.output)
    results = improve_results(config, plan, records, left_out)
    write_lines(folder / RESULTS, [json.dumps(rounds_as_json(results), indent=1, ensure_ascii=False)])
    write_lines(folder / TABLE_FILE, [rounds_markdown(results)])
    write_improve_page(folder, results)
    return results


def check_same_loop(config: ImproveConfig) -> None:
    """Make sure that a folder is free, or holds this loop; only where it stops, and what is kept, may differ.

    Raises:
        UserError: it holds something else; the message names the first setting that differs.
    """
    folder = Path(config.output)
    recorded = folder / "config.toml"
    if not recorded.exists():
        refuse_foreign(folder, IMPROVE_FILES, "improve")
        return
    try:
        before = load(ImproveConfig, recorded)
    except UserError:
        before = ImproveConfig()
    if not before.start:
        raise UserError(f"{folder}: holds the output of another command; choose another output")
    old, new = _deciding(before), _deciding(config)
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            raise UserError(
                f"{folder}: holds a loop that has {key} = {old.get(key)!r}, not {new.get(key)!r}; choose another output"
            )


def _deciding(config: ImproveConfig) -> dict[str, object]:
    """The settings that decide what the rounds of a loop are, by dotted key."""
    own = {key: getattr(config, key) for key in ("start", "train_from", "keep_data", "fresh_problems")}
    found = {**own, **flat_settings(round_settings(config, 1))}
    return {key: value for key, value in found.items() if key.rpartition(".")[2] not in FREE_KEYS}


def _check_format(start: str) -> None:
    """Raise UserError if the first model does not know the special tokens."""
    from reflectioncoder.dialogues.tokens import knows_format
    from reflectioncoder.models.load import load_tokenizer

    if not knows_format(load_tokenizer(start)):
        raise UserError(
            f"start {start}: does not know the special tokens, so it cannot write blocks in the first round; take a"
            " model that `train` made, or build.attempts.repair = 'reference' or 'chat'"
        )


def _widest(plan: RoundsPlan) -> int:
    """Most steps that can ever run at the same time: the scores of a round with the attempts of the next."""
    return len(plan.runs[0].scores) + 1


def _unless_empty(plan: RoundsPlan, say: Callable[[str], None]) -> Callable[[str], None]:
    """Say that steps failed, except of a build without sequences, which the line about its round explains."""

    def said(line: str) -> None:
        if not made_nothing(read_funnel(plan, plan.runs[-1])):
            say(line)

    return said


def _delete_models(plan: RoundsPlan, results: ImproveResults) -> bool:
    """Delete the weights of all trained models but the best and the last; return whether there were any."""
    done = [one.number for one in results.rounds if one.state == "done"]
    deleted = False
    for one in plan.runs[1:]:
        record = read_record(plan.folder(one.train))
        kept = one.number not in done or one.number in (results.best, max(done))
        if record is not None and not kept and not record.model_deleted:
            delete_model(plan, one.train, record)
            deleted = True
    return deleted


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
