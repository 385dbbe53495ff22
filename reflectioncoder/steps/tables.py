"""Tables of scores as text, and the places of bars beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from reflectioncoder.steps.statistics import MeanWithInterval


def interval_text(value: MeanWithInterval, form: str) -> str:
    """`38.2 [35.0, 41.5]`, from shares."""
    mean, low, high = (form.format(100 * share) for share in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def markdown_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def aligned_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in columns of equal width, for a terminal; columns without a value are left out."""
    used = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[line[column] for column in used] for line in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(used))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def widest_share(values: Iterable[MeanWithInterval]) -> float:
    """The end of a scale around zero that holds all intervals; at least 0.01."""
    return max([0.01, *(max(abs(value.low), abs(value.high)) for value in values)])


def place_around_zero(value: MeanWithInterval, widest: float) -> dict[str, Any]:
    """Left end, width and middle of a bar in percent of a scale from -widest to widest."""
    left, right, middle = (50 + 50 * share / widest for share in (value.low, value.high, value.mean))
    return {"left": f"{left:.2f}", "width": f"{right - left:.2f}", "middle": f"{middle:.2f}"}
