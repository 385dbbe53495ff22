"""One self-contained HTML page about a run: `report.html`.

The page reports on the contents of a directory: a whole demo, a build, a training run or an evaluation. If the files of
a section are missing or unreadable, the page says so instead. Sequences are untrusted text; the template escapes them.
The page depends on the files only: it has no dates, and the same files give the same page.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.report.charts import Line, line_chart
from reflectioncoder.report.run_files import (
    Found,
    Log,
    ReportedScore,
    configuration,
    counts,
    in_order,
    number,
    read_run,
    recorded_versions,
    stages,
    texts,
    whole_number,
)

ARM_TITLES = {"before": "before", "instruction_tuned": "instruction-tuned", "after": "after ReflectionCoder"}
TASK_TITLES = {"heldout": "held-out", "handwritten": "handwritten", "humaneval": "HumanEval"}
TERMS = {"loss": "total", "teacher_ce": "teacher CE", "student_ce": "student CE", "kl": "KL"}
TABLE_ROWS = 8  # rows of the table with the numbers of the curves
NOTHING = "–"
PAGES_OF_THEIR_OWN = ("study.json", "improve.json")  # results of the verbs demo, study and improve
# Control characters would be invisible or broken in HTML; they are shown as their Unicode pictures.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    svg: Markup
    caption: str


def write_report(directory: Path) -> Path:
    """Write `report.html` about the files in `directory`.

    Args:
        directory: output directory of `reflectioncoder build`, `train` or `evaluate`, or a directory with several of
            them in `build`, `train/ARM` and `evaluate/ARM/TASK`, as demos were laid out up to commit 04dff95.

    Returns:
        path of the page, which needs no other file and no network.

    Raises:
        UserError: the directory does not exist or has nothing to report on, or the page cannot be written.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"report: {directory} is not a directory")
    found = read_run(directory)
    if any((directory / name).is_file() for name in PAGES_OF_THEIR_OWN):
        raise UserError(f"report: {directory} is the folder of a study, which writes its own page report.html there")
    if found.empty:
        raise UserError(
            f"report: nothing to report on in {directory}; expected funnel.json, sequences.jsonl, log.jsonl or "
            "score.json, as the verbs build, train and evaluate write them"
        )
    path = directory / "report.html"
    write_lines(path, [render(found)])
    return path


def render(found: Found) -> str:
    """Render the page as HTML."""
    seconds = stages(found.summary.get("seconds"))
    whole = seconds.get("total", math.fsum(seconds.values()))
    heldout = found.scores.get("heldout", {})
    page = (
        page_environment()
        .get_template("report.html")
        .render(
            title=title(found),
            sentence=sentence(found),
            sequences=found.sequences,
            headline=[(label, heldout[arm]) for arm, label in ARM_TITLES.items() if arm in heldout],
            whole=whole,
            peak_mb=number(found.summary.get("peak_mb")),
            funnel=found.funnel,
            examples=found.examples,
            figures=figures(found.logs),
            curves=[(log.arm, curve_table(log)) for log in found.logs],
            tokens=counts(found.summary.get("training_tokens")),
            tasks=in_order(found.scores, TASK_TITLES),
            arms=in_order({arm: 0 for by_arm in found.scores.values() for arm in by_arm}, ARM_TITLES),
            scores=found.scores,
            comparisons=list(comparisons(found.summary.get("comparisons"))),
            stages={name: value for name, value in seconds.items() if name != "total"},
            longest=max((value for name, value in seconds.items() if name != "total"), default=0.0),
            configurations=texts(found.directory, "*.toml"),
            versions=recorded_versions(found.directory),
            commands=commands(found),
            missing=found.missing,
        )
    )
    # JSON may contain lone surrogates, which UTF-8 cannot encode.
    return page.encode("utf-8", "replace").decode("utf-8").rstrip("\n")


@cache
def page_environment() -> Environment:
    """The templates of all pages, with their filters."""
    environment = Environment(
        loader=PackageLoader("reflectioncoder", "report"),
        autoescape=True,  # text from a model or a data set must never become markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, interval, count, duration_text, pretty, show)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def title(found: Found) -> str:
    """Heading of the page, which depends on the contents of the directory."""
    if found.summary or (found.funnel and found.logs):
        return "ReflectionCoder run"
    if found.funnel or found.examples:
        return "ReflectionCoder: reflection sequences"
    return "ReflectionCoder: training" if found.logs else "ReflectionCoder: evaluation"


def sentence(found: Found) -> str:
    """Summarize the run in one sentence, from the numbers that are available."""
    parts = []
    problems = next((step.left for step in found.funnel if step.name == "problems"), None)
    if found.sequences is not None:
        origin = f" from {count(problems)} problems" if problems is not None else ""
        noun = "sequence" if found.sequences == 1 else "sequences"
        parts.append(f"{count(found.sequences)} reflection {noun} built by running code{origin}")
    for log in found.logs[:1]:
        folder = found.directory if (found.directory / "log.jsonl").is_file() else found.directory / "train" / log.arm
        model = str(configuration(folder).get("model") or "the model")
        parts.append(f"{model} fine-tuned for {count(int(log.rows[-1]['step']))} steps")
    heldout = found.scores.get("heldout", {})
    rates = [f"{percent(heldout[arm].rate)} {label}" for arm, label in ARM_TITLES.items() if arm in heldout]
    if rates:
        parts.append(f"pass@1 on held-out problems {', '.join(rates)}")
    return "; ".join(parts) + "." if parts else "The scores of an evaluation."


def figures(logs: Sequence[Log]) -> list[Figure]:
    """Draw the training curves of all logs."""
    made = []

    def add(name: str, caption: str, lines: list[Line], unit: str, top: float | None = None) -> None:
        lines = [line for line in lines if any(map(math.isfinite, line.y))]
        if lines:
            made.append(Figure(Markup(line_chart(name, caption, lines, unit, top=top)), caption))

    for index, log in enumerate(logs):
        x = log.column("step")
        if log.has_student:
            lines = [Line(label, x, log.column(key)) for key, label in TERMS.items()]
            add(f"loss-{index}", f"Loss terms, {pretty(log.arm)} arm", lines, "nats per token")
            rate = [Line("mask rate", x, log.column("mask_rate"))]
            add(f"mask-{index}", f"Mask rate, {pretty(log.arm)} arm", rate, "mask rate", 1.05)
        else:
            lines = [Line("loss", x, log.column("loss"))]
            add(f"loss-{index}", f"Loss, {pretty(log.arm)} arm", lines, "nats per token")
    speed = [Line(pretty(log.arm), log.column("step"), log.column("tokens_per_second")) for log in logs[:4]]
    add("speed", "Training speed", speed, "tokens per second")
    return made


def curve_table(log: Log) -> list[Mapping[str, float]]:
    """Select evenly spaced rows of a log, including the first and the last: a text version of the curves."""
    last = len(log.rows) - 1
    places = sorted({round(i * last / (TABLE_ROWS - 1)) for i in range(TABLE_ROWS)})
    return [log.rows[place] for place in places]


def comparisons(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each paired comparison, at any depth of an object."""
    name = ", ".join(map(phrase, path))
    if isinstance(value, str):
        yield name, value
    if not isinstance(value, dict):
        return
    difference = number(value.get("difference"))
    if difference is None:
        for key, item in value.items():
            yield from comparisons(item, (*path, str(key)))
        return
    text = f"{signed(difference)} points"
    low, high = number(value.get("low")), number(value.get("high"))
    if low is not None and high is not None:
        text += f", 95 % interval {signed(low)} to {signed(high)}"
    first, second = whole_number(value.get("only_first")), whole_number(value.get("only_second"))
    if first is not None and second is not None:
        text += f"; {count(second)} problems gained, {count(first)} lost"
    p_value, n = number(value.get("p_value")), whole_number(value.get("n"))
    if p_value is not None:
        text += f"; exact McNemar p {'< 0.0001' if p_value < 0.0001 else f'= {p_value:.2g}'}"
    yield name, text + (f" (n = {count(n)})" if n is not None else "")


def commands(found: Found) -> list[str]:
    """List the commands that reproduce the files, from the saved configurations."""
    directory = found.directory
    relative = Path(os.path.relpath(directory))
    shown = directory if ".." in relative.parts else relative
    own, lines = configuration(directory), []
    whole = (directory / "summary.json").is_file()
    if whole:
        lines.append(f"reflectioncoder demo{f' --config {shown}/config.toml' if own else ''}")
    elif own:
        verb = "train" if "objective" in own else "evaluate" if "generate" in own else "build"
        lines.append(f"reflectioncoder {verb} --config {shown}/config.toml")
    parts = []
    for verb, pattern in (("build", "build"), ("train", "train/*"), ("evaluate", "evaluate/*/*")):
        for path in sorted(directory.glob(f"{pattern}/config.toml")):
            parts.append(f"reflectioncoder {verb} --config {shown / path.relative_to(directory)}")
    if whole and parts:
        lines += ["", "# the same, stage by stage:"]
    return [*lines, *parts, f"reflectioncoder report {shown}"]


def percent(share: float) -> str:
    """0.625 -> "62.5 %"."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def interval(score: ReportedScore) -> str:
    """Both ends of the interval of a score, in percent."""
    return f"{100 * score.low:.1f}\N{EN DASH}{100 * score.high:.1f}\N{NO-BREAK SPACE}%"


def signed(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """1234 -> "1,234"."""
    return NOTHING if value is None else f"{value:,.0f}"


def duration_text(seconds: float) -> str:
    """A duration with its unit: seconds below two minutes, minutes below two hours, hours from there on."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def pretty(name: str) -> str:
    """A key as readable text."""
    known = {**ARM_TITLES, **TASK_TITLES}
    return known.get(name) or name.replace("_", " ")


def phrase(text: str) -> str:
    """A key of several words as readable text, including the names of arms and tasks in it."""
    names = {**TASK_TITLES, "instruction_tuned": ARM_TITLES["instruction_tuned"]}
    return re.sub("|".join(names), lambda name: names[name.group()], text).replace("_", " ")


def show(text: str) -> str:
    """Replace control characters by visible symbols."""
    return text.translate(CONTROLS)
