"""The page of a study: one self-contained HTML file in the style of the other reports."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.report.page import page_environment
from reflectioncoder.report.run_files import texts
from reflectioncoder.steps.plan import StepVerb
from reflectioncoder.steps.tables import interval_text, place_around_zero, widest_share
from reflectioncoder.study.results import StudyResults
from reflectioncoder.study.tables import (
    METHOD,
    failures,
    find_difference,
    table_columns,
    unfinished,
    verdict_lines,
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
    differences = (one for row in results.rows for cell in row.cells.values() for one in cell.differences)
    widest = widest_share(one.value for one in differences)
    page = (
        page_environment()
        .get_template("study.html")
        .render(
            title=results.title,
            verdict=verdict_lines(results),
            verbs=get_args(StepVerb),
            head=head,
            table=rows,
            results=results,
            find=find_difference,
            text=interval_text,
            place=lambda value: place_around_zero(value, widest),
            widest=100 * widest,
            failures=failures(results),
            unfinished=unfinished(results),
            method=METHOD,
            configurations={name: text for name, text in texts(folder, "*.toml").items() if "/" not in name},
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8").rstrip("\n")
