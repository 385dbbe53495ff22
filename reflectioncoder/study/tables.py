"""The results of a study as text: the table, and study.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from reflectioncoder.steps.outcomes import Difference
from reflectioncoder.steps.statistics import DRAWS
from reflectioncoder.steps.tables import aligned_lines, interval_text, markdown_lines
from reflectioncoder.study.results import ScoreCell, StudyResults, VariantRow

BLANK = ""
METHOD = (
    "Means over seeds and problems with 95 % intervals: seeds and problems are drawn with replacement, each by itself "
    f"({DRAWS:,} draws of scipy.stats.bootstrap, percentiles), so verdicts of one seed or one problem stay together; "
    "the width is corrected for few seeds and for the noise of single verdicts (docs/studying.md). "
    "Differences are paired: the same problems and seeds on both sides, drawn together. With one seed an interval "
    "respects the problems only. Tokens are those through the model in training, teacher and student rows both "
    "counted; passes say how often training saw each instruction; seconds are wall-clock time of a run, and those of a "
    "shared step count in each run that uses it."
)


def table_columns(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of the table as texts."""
    rows = results.rows
    papers = list(dict.fromkeys(key for row in rows for key in row.paper))
    head = ["variant", "runs"]
    columns: list[list[str]] = [[row.label for row in rows], [f"{row.done} of {row.runs}" for row in rows]]
    for score in results.scores:
        title = "pass@1" if len(results.scores) == 1 else f"{score}, pass@1"
        head.append(f"{title}, %")
        columns.append([score_text(row.cells.get(score)) for row in rows])
        for reference in results.references if len(rows) > 1 else ():
            label = next(row.label for row in rows if row.name == reference)
            head.append(f"against {label}, points")
            columns.append([difference_text(row, score, reference) for row in rows])
        if any(cell.gap for row in rows if (cell := row.cells.get(score))):
            head += [f"{title} after own debugging, %", "gap, points"]
            cells = [row.cells.get(score) for row in rows]
            columns.append([interval_text(one.after, "{:.1f}") if one and one.after else BLANK for one in cells])
            columns.append([interval_text(one.gap, "{:+.1f}") if one and one.gap else BLANK for one in cells])
    costs = {"passes": "{:.1f}", "tokens": "{:,.0f}", "train_seconds": "{:,.0f}", "seconds": "{:,.0f}"}
    titles = {"passes": "passes over instructions", "train_seconds": "s training", "seconds": "s in all"}
    for cost, form in costs.items():
        head.append(titles.get(cost, cost))
        values = [getattr(row, cost) for row in rows]
        columns.append([BLANK if value is None else form.format(value) for value in values])
    for paper in papers:
        head.append(f"paper: {paper}")
        columns.append([paper_text(row.paper.get(paper)) for row in rows])
    return head, [list(line) for line in zip(*columns, strict=True)]


def score_text(cell: ScoreCell | None) -> str:
    """A score with its interval in percent."""
    return BLANK if cell is None else interval_text(cell.value, "{:.1f}")


def difference_text(row: VariantRow, score: str, reference: str) -> str:
    """A difference with its interval in percentage points."""
    if row.name == reference:
        return "reference"
    found = find_difference(row, score, reference)
    return BLANK if found is None else interval_text(found.value, "{:+.1f}")


def find_difference(row: VariantRow, score: str, reference: str) -> Difference | None:
    """The difference of a row to a reference in a score; None if there is none."""
    cell = row.cells.get(score)
    return next((one for one in cell.differences if one.reference == reference), None) if cell else None


def paper_text(value: Any) -> str:
    """A published number as it was given."""
    return BLANK if value is None else f"{value}"


def verdict_lines(results: StudyResults) -> list[str]:
    """Which variants differ from each reference beyond the noise, in words, with the differences in points.

    The study's headline comes first.
    """
    done = sum(one.state == "done" for one in results.outcomes)
    lines = [f"{done} of {len(results.outcomes)} runs are done."]
    for reference in results.references:
        label = next(row.label for row in results.rows if row.name == reference)
        groups: dict[str, list[str]] = {
            f"Better than {label} beyond the noise": [],
            f"Worse than {label} beyond the noise": [],
            f"Not told apart from {label}": [],
        }
        better, worse, open_ = groups.values()
        for row in results.rows:
            found = find_difference(row, results.scores[0], reference)
            if found is not None:
                group = better if found.value.low > 0 else worse if found.value.high < 0 else open_
                group.append(f"{row.label} ({interval_text(found.value, '{:+.1f}')})")
        lines += [f"{head}: {', '.join(names)}." for head, names in groups.items() if names]
    return [*_headline(results), *lines]


def _headline(results: StudyResults) -> list[str]:
    """What one variant solves, and whether that is more or less than each reference."""
    row = next((row for row in results.rows if row.name == results.headline), None)
    cell = row.cells.get(results.scores[0]) if row else None
    if row is None or cell is None:
        return []
    labels = {other.name: other.label for other in results.rows}
    parts = []
    for one in cell.differences:
        how = "more" if one.value.low > 0 else "fewer" if one.value.high < 0 else "neither more nor fewer"
        parts.append(f"{how} than {labels[one.reference]} ({interval_text(one.value, '{:+.1f}')} points)")
    compared = f": {'; '.join(parts)}" if parts else ""
    return [f"{row.label} solves {interval_text(cell.value, '{:.1f}')} % of the problems{compared}."]


def markdown_table(results: StudyResults) -> str:
    """The content of table.md: title, what differs, table, failed runs, and how the intervals were made."""
    head, rows = table_columns(results)
    lines = [
        f"# {results.title}",
        "",
        *(f"- {line}" for line in verdict_lines(results)),
        "",
        *markdown_lines(head, rows),
    ]
    for title, texts in (("Failed runs", failures(results)), ("Not finished", unfinished(results))):
        if texts:
            lines += ["", f"{title}:", "", *(f"- {text}" for text in texts)]
    return "\n".join([*lines, "", METHOD])


def failures(results: StudyResults) -> list[str]:
    """One line for each step that failed: its runs, the last line of its log, and where that is."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in results.outcomes:
        if one.state == "failed":
            groups.setdefault((one.failed, one.log), []).append(f"{one.variant}, seed {one.seed}")
    return [f"{'; '.join(runs)}: {failed} ({log})" for (failed, log), runs in groups.items()]


def unfinished(results: StudyResults) -> list[str]:
    """One line for each run that was not finished."""
    return [f"{one.variant}, seed {one.seed}" for one in results.outcomes if one.state == "open"]


def summary_lines(results: StudyResults) -> list[str]:
    """The table in columns of equal width, for a terminal."""
    return aligned_lines(*table_columns(results))


def results_as_json(results: StudyResults) -> dict[str, Any]:
    """The content of study.json, without the verdicts, which are in the runs' own files."""
    runs: list[Mapping[str, Any]] = []
    for one in results.outcomes:
        found = dataclasses.asdict(one)
        found["scores"] = {name: sum(shares.values()) / len(shares) for name, shares in one.scores.items() if shares}
        found["after"] = {name: sum(shares.values()) / len(shares) for name, shares in one.after.items() if shares}
        found["problems"] = {name: len(shares) for name, shares in one.scores.items()}
        runs.append(found)
    rows = {
        row.name: {key: value for key, value in dataclasses.asdict(row).items() if key != "name"}
        for row in results.rows
    }
    return {
        "title": results.title,
        "verdict": verdict_lines(results),
        "references": list(results.references),
        "scores": list(results.scores),
        "method": METHOD,
        "seconds": sum_of_steps(results),
        "variants": rows,
        "runs": runs,
    }


def sum_of_steps(results: StudyResults) -> float:
    """Wall-clock seconds of all runs, with shared steps counted in each."""
    return round(sum(sum(one.seconds.values()) for one in results.outcomes), 1)
