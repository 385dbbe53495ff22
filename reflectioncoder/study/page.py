"""The page of a study: one self-contained HTML file in the style of the other reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.report.page import page_environment
from reflectioncoder.report.run_files import texts
from reflectioncoder.study.plan import StepVerb
from reflectioncoder.study.results import StudyResults
from reflectioncoder.study.statistics import MeanWithInterval
from reflectioncoder.study.tables import (
    METHOD,
    failures,
    find_difference,
    interval_text,
    table_columns,
    unfinished,
)

PAGE = "report.html"


def write_study_page(folder: Path, results: StudyResults) -> Path:
    """Write report.html into the folder of a study, and return its path. Raises UserError if it cannot be written."""
    path = folder / PAGE
    write_lines(path, [render_study(folder, results)])
    return path


def render_study(folder: Path, results: StudyResults) -> str:
    """Render the page as HTML."""
    head, rows = table_columns(results)
    widest = max(
        [0.01]
        + [
            max(abs(one.value.low), abs(one.value.high))
            for row in results.rows
            for cell in row.cells.values()
            for one in cell.differences
        ]
    )
    page = (
        page_environment()
        .get_template("study.html")
        .render(
            title=results.title,
            sentence=_sentence(results),
            verbs=get_args(StepVerb),
            head=head,
            table=rows,
            results=results,
            find=find_difference,
            text=interval_text,
            place=lambda value: _around_zero(value, widest),
            widest=100 * widest,
            failures=failures(results),
            unfinished=unfinished(results),
            method=METHOD,
            configurations={name: text for name, text in texts(folder, "*.toml").items() if "/" not in name},
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8").rstrip("\n")


def _sentence(results: StudyResults) -> str:
    """Which variants differ from the reference beyond the noise, in words."""
    done = sum(one.state == "done" for one in results.outcomes)
    text = f"{done} of {len(results.outcomes)} runs are done."
    if not results.references:
        return text
    score, reference = results.scores[0], results.references[0]
    label = next(row.label for row in results.rows if row.name == reference)
    groups: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for row in results.rows:
        found = find_difference(row, score, reference)
        if found is not None:
            sign = "better" if found.value.low > 0 else "worse" if found.value.high < 0 else "open"
            groups[sign].append(row.label)
    heads = {
        "better": f"Better than {label} beyond the noise",
        "worse": f"Worse than {label} beyond the noise",
        "open": f"Not told apart from {label}",
    }
    return " ".join([text, *(f"{heads[name]}: {', '.join(found)}." for name, found in groups.items() if found)])


def _around_zero(value: MeanWithInterval, widest: float) -> dict[str, Any]:
    """Left end, width and middle of a bar in percent of a scale from -widest to widest."""
    left, right, middle = (50 + 50 * share / widest for share in (value.low, value.high, value.mean))
    return {"left": f"{left:.2f}", "width": f"{right - left:.2f}", "middle": f"{middle:.2f}"}
