"""The table of a study and the lines above it, from results made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from reflectioncoder.steps.outcomes import Difference
from reflectioncoder.steps.statistics import MeanWithInterval
from reflectioncoder.study.results import ScoreCell, StudyOutcome, StudyResults, VariantRow, _after_debugging
from reflectioncoder.study.tables import table_columns, verdict_lines


def cell(mean: float, differences: dict[str, tuple[float, float, float]], gap: float | None = None) -> ScoreCell:
    found = [Difference(name, MeanWithInterval(*value, 1, 9), 0, 0) for name, value in differences.items()]
    near = None if gap is None else MeanWithInterval(gap, gap - 0.01, gap + 0.01, 1, 9)
    reached = None if gap is None else MeanWithInterval(mean + gap, mean, mean + 2 * gap, 1, 9)
    return ScoreCell(MeanWithInterval(mean, mean - 0.1, mean + 0.1, 1, 9), {0: mean}, found, reached, near)


def results(rows: dict[str, ScoreCell]) -> StudyResults:
    made = [VariantRow(name, f"<{name}>", {}, {"score": one}, 10, 1, 1, 1, 1, 1) for name, one in rows.items()]
    outcomes = tuple(StudyOutcome("done", variant=name) for name in rows)
    return StudyResults("title", tuple(made), outcomes, ("score",), ("plain", "equal"))


def test_the_lines_name_what_is_better_and_worse_than_each_reference() -> None:
    found = results(
        {
            "plain": cell(0.4, {"equal": (-0.2, -0.25, -0.15)}),
            "method": cell(0.5, {"plain": (0.1, 0.05, 0.15), "equal": (-0.1, -0.2, 0.0)}),
            "equal": cell(0.6, {"plain": (0.2, 0.15, 0.25)}),
        }
    )
    assert verdict_lines(found) == [
        "3 of 3 runs are done.",
        "Better than <plain> beyond the noise: <method> (+10.0 [+5.0, +15.0]), <equal> (+20.0 [+15.0, +25.0]).",
        "Worse than <equal> beyond the noise: <plain> (-20.0 [-25.0, -15.0]).",
        "Not told apart from <equal>: <method> (-10.0 [-20.0, +0.0]).",
    ]


def test_the_headline_comes_first() -> None:
    found = results(
        {
            "plain": cell(0.4, {}),
            "method": cell(0.5, {"plain": (0.1, 0.05, 0.15), "equal": (-0.1, -0.2, 0.0)}),
            "equal": cell(0.6, {}),
        }
    )
    assert verdict_lines(dataclasses.replace(found, headline="method"))[0] == (
        "<method> solves 50.0 [40.0, 60.0] % of the problems: more than <plain> (+10.0 [+5.0, +15.0] points); neither "
        "more nor fewer than <equal> (-10.0 [-20.0, +0.0] points)."
    )
    assert verdict_lines(dataclasses.replace(found, headline="missing")) == verdict_lines(found)


def test_the_gap_has_columns_where_a_row_has_one() -> None:
    without = table_columns(results({"plain": cell(0.4, {}), "equal": cell(0.4, {})}))[0]
    head, rows = table_columns(results({"plain": cell(0.4, {}, gap=0.05), "equal": cell(0.4, {})}))
    assert [name for name in head if name not in without] == ["pass@1 after own debugging, %", "gap, points"]
    place = head.index("gap, points")
    assert [row[place - 1 : place + 1] for row in rows] == [["45.0 [40.0, 50.0]", "+5.0 [+4.0, +6.0]"], ["", ""]]


def test_the_gap_is_paired_by_problem_and_takes_debugged_runs_only() -> None:
    first = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0}
    runs = [
        StudyOutcome(
            "done", variant="x", seed=0, scores={"score": first}, after={"score": {**first, "b": 1.0, "c": 1.0}}
        ),
        StudyOutcome("done", variant="x", seed=1, scores={"score": first}, after={"score": {**first, "a": 0.0}}),
        StudyOutcome("open", variant="x", seed=2, scores={"score": dict.fromkeys(first, 0.0)}),
    ]
    after, gap = _after_debugging(runs, "score")
    assert after is not None and gap is not None
    assert after.mean == pytest.approx(5 / 8) and gap.mean == pytest.approx(1 / 8)
    assert _after_debugging(runs[2:], "score") == (None, None)
