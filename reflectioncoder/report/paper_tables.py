"""The score tables of the paper, with measured rows below the published ones.

Table 1, tables 4 and 5 in one, and table 6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.results import read_results, summarize
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.tasks.multipl_e.languages import LANGUAGES


@dataclass(frozen=True)
class Table:
    """One table of the paper, or two for the same benchmark.

    Args:
        title: title above the table.
        numbers: numbers of the paper's tables whose rows it contains.
        columns: heading of each column by its key: the name of a task, or "task/part" for a part of its problems.
    """

    title: str
    numbers: tuple[int, ...]
    columns: Mapping[str, str]


_LANGUAGES = ("java", "js", "cpp", "php", "swift", "rs", "ts", "cs", "sh")
_LIBRARIES = ("Matplotlib", "Numpy", "Pandas", "Pytorch", "Scipy", "Sklearn", "Tensorflow")
TABLES = (
    Table(
        "Table 1: HumanEval and MBPP, pass@1",
        (1,),
        {"humaneval": "HumanEval", "humaneval_plus": "HumanEval+", "mbpp": "MBPP", "mbpp_plus": "MBPP+"},
    ),
    Table(
        "Tables 4 (sampled) and 5 (greedy): MultiPL-E, pass@1",
        (4, 5),
        {f"multipl_e_{key}": LANGUAGES[key].name for key in _LANGUAGES},
    ),
    Table(
        "Table 6: DS-1000, completion format, pass@1",
        (6,),
        {**{f"ds1000/{library}": library for library in _LIBRARIES}, "ds1000": "all"},
    ),
)


def published() -> list[dict[str, Any]]:
    """Rows of the paper's tables 1 (open models), 4, 5 and 6, in the paper's order; not measured by this project."""
    text = resources.files("reflectioncoder.report").joinpath("published.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def paper_tables(folders: Sequence[str]) -> str:
    """Format published rows, and below them the scores of evaluations, as Markdown tables.

    Tables without a measured row are omitted, unless nothing was measured. Tasks that are in no table of the paper, and
    pass@k for k > 1, get tables of their own. A run of `humaneval_plus` or `mbpp_plus` also fills the column of the
    base tests, unless these were scored by themselves.

    Args:
        folders: directories with `score.json`, or parents of such directories. The scores of one folder form one row.

    Raises:
        UserError: a folder has no score, or a score cannot be read.
    """
    measured: dict[str, dict[str, str]] = {}
    bases: dict[str, dict[str, str]] = {}
    at_k: list[list[str]] = []
    for folder in folders:
        found = sorted(Path(folder).glob("score.json")) + sorted(Path(folder).glob("*/score.json"))
        if not found:
            raise UserError(f"{folder}: no score.json in it or in its subfolders; run reflectioncoder evaluate first")
        for path in found:
            try:
                score = parse_json(path.read_text(encoding="utf-8"))
                task, parts = score["task"], score.get("parts", {})
                if not isinstance(task, str):
                    raise TypeError(f"task {task!r}")
                cells = {task: _cell(score), **{f"{task}/{part}": _cell(parts[part]) for part in parts}}
                ks = {int(k): f"{100 * rate:.1f}" for k, rate in score.get("k", {}).items() if int(k) > 1}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path}: not a score ({error!r})") from None
            taken = task in measured.get(str(folder), {})  # the folder has two evaluations of the task
            name = str(path.parent if taken else folder)
            measured.setdefault(name, {}).update(cells)
            bases.setdefault(name, {}).update(_base_cell(path, score))
            at_k += [[name, task, str(k), rate] for k, rate in sorted(ks.items())]
    for name, cells in bases.items():
        measured[name] = {**cells, **measured[name]}
    tables, known = [], published()
    for table in TABLES:
        keys = table.columns
        rows = [
            [row["method"], row["base"], *(_percent(row, key) for key in keys), f"published, table {row['table']}"]
            for row in known
            if row["table"] in table.numbers
        ]
        mine = [
            [name, "", *(cells.get(key, "") for key in keys), "measured"]
            for name, cells in measured.items()
            if not keys.keys().isdisjoint(cells)
        ]
        if mine or not measured:
            tables.append(_markdown(table.title, ["method", "base", *keys.values(), "from"], rows + mine))
    shown = {key for table in TABLES for key in table.columns}
    others = [[name, key, cell] for name, cells in measured.items() for key, cell in cells.items() if key not in shown]
    if others:
        tables.append(_markdown("Other tasks, pass@1", ["run", "task", "measured"], others))
    if at_k:
        tables.append(_markdown("pass@k", ["run", "task", "k", "measured"], at_k))
    return "\n\n".join(tables)


def _percent(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:.1f}" if key in row else ""


def _base_cell(path: Path, score: Mapping[str, Any]) -> dict[str, str]:
    """Score a run of "TASK_plus" by its base tests alone: the cell of TASK; empty for other tasks or without verdicts.

    Args:
        path: the run's `score.json`, beside its verdicts.
        score: the content of that file.
    """
    task, plus, rest = str(score["task"]).rpartition("_plus")
    verdicts = path.with_name("results.jsonl")
    if not plus or rest or not verdicts.is_file():
        return {}
    results = [replace(r, passed=dict(r.groups).get("base") == "ok") for r in read_results(verdicts)]
    base = summarize(task, results)
    return {task: _cell({**score, **{name: getattr(base, name) for name in ("pass_at_1", "low", "high", "not_run")}})}


def _cell(score: Mapping[str, Any]) -> str:
    """Format pass@1 in percent, its interval, and the numbers of problems without a completion and not run."""
    rate, low, high, not_run = (score.get(name) for name in ("pass_at_1", "low", "high", "not_run"))
    if rate is None or low is None or high is None:
        return "not run"
    found = f"{100 * rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    if score.get("limit"):
        found += f", first {score['limit']} only"
    after = score.get("after")
    if isinstance(after, dict):  # rounds of the model's own debugging
        found += f", {100 * after['pass_at_1']:.1f} after {after['rounds']} rounds ({100 * after['gap']:+.1f})"
    missing = score.get("missing")
    return found + (f", {missing} missing" if missing else "") + (f", {not_run} not run" if not_run else "")


def _markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)])
