"""Line charts as SVG text for the report.

Charts are drawn in placeholder colours, which are then replaced by CSS variables, so one chart works in light mode, in
dark mode and in print. Text stays text, and ids are unique within a page. Output does not depend on the clock: the same
numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MAX_POINTS = 300  # longer series are averaged in bins, which keeps the page small without a visible loss
SIZE = (4.6, 2.7)  # inches; small, so that text stays readable on a phone
INK, GRID = "#010101", "#020202"
# The CSS variable that replaces each placeholder; the fallback colour keeps a chart readable outside the page.
VARIABLES = {
    INK: "var(--muted, #777)",
    GRID: "var(--line, #ccc)",
    "#010102": "var(--series-1, #444)",
    "#010103": "var(--series-2, #2f6fbf)",
    "#010104": "var(--series-3, #c2410c)",
    "#010105": "var(--series-4, #0d7a5f)",
}
COLOURS = tuple(colour for colour in VARIABLES if colour not in (INK, GRID))
DASHES = ("-", "-", (0, (5, 2)), (0, (1, 1.5)))  # lines also differ without colour
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so the layout is the same on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Line:
    """One series of a chart; missing values of `y` are NaN."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    y_label: str,
    x_label: str = "step",
    top: float | None = None,
) -> str:
    """Draw lines as an SVG element for use inside an HTML page.

    Args:
        name: prefix of the ids, unique in the page; letters, digits and hyphens.
        title: text that a screen reader reads before the first and last values of each line.
        lines: one to four series.
        y_label: label of the y axis, with the unit.
        x_label: label of the x axis.
        top: upper end of the y axis; by default it is chosen from the data. The lower end is 0.
    """
    with rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        for number, line in enumerate(lines):
            x, y = binned(line.x, line.y, MAX_POINTS)
            axes.plot(
                x,
                y,
                color=COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number % len(DASHES)],
                linewidth=1.8,
                marker="o" if len(x) == 1 else "",
                label=line.label,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_ylim(bottom=0, top=top)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", linewidth=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        if len(lines) > 1:
            figure.legend(
                loc="outside upper left", ncols=len(lines), frameon=False, handlelength=1.8, columnspacing=1.2
            )
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(file.getvalue(), name, f"{title}. {describe_chart(lines)}")


def binned(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Reduce a series to at most `most` points by averaging consecutive ones; NaN and infinite `y` are ignored."""
    size = math.ceil(len(x) / most) if x else 1
    if size == 1:
        return list(x), list(y)
    points = []
    for start in range(0, len(x), size):
        values = [value for value in y[start : start + size] if math.isfinite(value)]
        place = x[start : start + size]
        points.append((sum(place) / len(place), sum(values) / len(values) if values else math.nan))
    return [point[0] for point in points], [point[1] for point in points]


def describe_chart(lines: Sequence[Line]) -> str:
    """Describe the lines in words: label, first and last value."""
    texts = []
    for line in lines:
        values = [value for value in line.y if math.isfinite(value)]
        if values:
            texts.append(f"{line.label}: {values[0]:.3g} at the start, {values[-1]:.3g} at the end")
    return "; ".join(texts)


def inline(svg: str, name: str, description: str) -> str:
    """Turn an SVG file into an element of an HTML page: no header, unique ids, CSS colours, and a description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    # Use the fonts of the page; matplotlib's own list would differ from the surrounding text.
    body = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", body)
    for placeholder, variable in VARIABLES.items():
        body = body.replace(placeholder, variable)
    label = escape(description, quote=True)
    return f'<svg class="chart" role="img" aria-label="{label}" {box.group() if box else ""}>{body.strip()}'
