"""The page of a loop: one self-contained HTML file in the style of the other reports."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.improve.results import ImproveResults
from reflectioncoder.improve.tables import HOW_SCORED, notes, round_columns, score_title
from reflectioncoder.report.charts import Line, line_chart
from reflectioncoder.report.page import page_environment
from reflectioncoder.report.run_files import texts
from reflectioncoder.steps.tables import interval_text, place_around_zero, widest_share

IMPROVE_PAGE = "report.html"


def write_improve_page(folder: Path, results: ImproveResults) -> Path:
    """Write report.html into the folder of a loop, and return its path. Raises UserError if it cannot be written."""
    path = folder / IMPROVE_PAGE
    write_lines(path, [render_improve(folder, results)])
    return path


def render_improve(folder: Path, results: ImproveResults) -> str:
    """Render the page as HTML."""
    head, rows = round_columns(results)
    widest = widest_share(one.value for row in results.rounds for one in row.differences.values())
    page = (
        page_environment()
        .get_template("improve.html")
        .render(
            title=results.title,
            sentence=_sentence(results),
            head=head,
            table=rows,
            results=results,
            name=lambda score: score_title(results, score),
            text=interval_text,
            place=lambda value: place_around_zero(value, widest),
            widest=100 * widest,
            notes=notes(results),
            reasons=list(dict.fromkeys(reason for one in results.rounds for reason in one.funnel)),
            chart=_chart(results),
            method=HOW_SCORED,
            configurations={name: text for name, text in texts(folder, "*.toml").items() if "/" not in name},
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8").rstrip("\n")


def _sentence(results: ImproveResults) -> str:
    """The gain of the best round beyond or within the noise, on a score that decided nothing if there is one."""
    best, name = results.rounds[results.best], results.scores[-1]
    ended = results.ended or "The loop is not finished."
    if name not in best.scores:
        return ended
    score = f"{score_title(results, name)} {interval_text(best.scores[name], '{:.1f}')} %"
    if best.number == 0:
        return f"{ended} No round is better than the first model ({score})."
    if name not in best.differences:
        return f"{ended} The best is round {best.number} ({score})."
    change = best.differences[name].value
    noise = "beyond the noise" if change.low > 0 or change.high < 0 else "within the noise"
    return f"{ended} The best is round {best.number}: {score}, {interval_text(change, '{:+.1f}')} points, {noise}."


def _chart(results: ImproveResults) -> Markup | None:
    """The scores by round; None with fewer than two."""
    lines = []
    for name in results.scores:
        found = [(one.number, 100 * one.scores[name].mean) for one in results.rounds if name in one.scores]
        if len(found) > 1:
            lines.append(Line(score_title(results, name), [x for x, _ in found], [y for _, y in found]))
    return Markup(line_chart("rounds", "pass@1 after each round", lines[:4], "pass@1, %", "round")) if lines else None
