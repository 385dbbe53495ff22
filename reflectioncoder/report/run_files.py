"""Reads the files of a run for the report.

Every file is optional. A missing or broken file adds a line to the page instead of raising an error, because a report
is needed most when a run has failed.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.files.funnel import funnel_steps
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import iter_jsonl

EXAMPLES = 3
LOOK_AT = 200  # the examples are chosen from the first 200 sequences


@dataclass(frozen=True)
class ReportedScore:
    """pass@1 of one arm on one task with its 95 % interval, as fractions in [0, 1], and the number of problems."""

    rate: float
    low: float
    high: float
    n: int | None


@dataclass(frozen=True)
class FunnelRow:
    """A row of the funnel: how many were removed, how many were left, and both in percent of the largest number."""

    name: str
    removed: int | None
    left: int | None
    left_percent: float
    removed_percent: float


@dataclass(frozen=True)
class Log:
    """The rows of one training log, ordered by step."""

    arm: str
    rows: tuple[Mapping[str, float], ...]

    @property
    def has_student(self) -> bool:
        """Whether masked distillation ran: at least one step has a student loss."""
        return any(row.get("student_ce", 0) or row.get("kl", 0) for row in self.rows)

    def column(self, key: str) -> list[float]:
        """One value per row; NaN if a row has none."""
        return [row.get(key, math.nan) for row in self.rows]


@dataclass
class Found:
    """The contents of a directory; `missing` lists what is missing or unreadable, as lines of text."""

    directory: Path
    summary: dict[str, Any] = field(default_factory=dict)
    funnel: list[FunnelRow] = field(default_factory=list)
    sequences: int | None = None
    examples: list[Dialogue] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    scores: dict[str, dict[str, ReportedScore]] = field(default_factory=dict)  # by task, then arm
    missing: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to report on."""
        return not (self.summary or self.funnel or self.examples or self.logs or self.scores)


def read_run(directory: Path) -> Found:
    """Read all available files; missing and broken ones add a line to `missing`."""
    found = Found(directory)
    found.summary = _object(directory / "summary.json", found.missing, "headline numbers", "the demo")
    found.funnel = funnel(_object(_either(directory, "build", "funnel.json"), found.missing, "funnel", "build"))
    path = _either(directory, "build", "sequences.jsonl")
    kept = funnel_end(found.funnel)
    if path.is_file():
        found.examples = choose_examples(dialogues(path, LOOK_AT, found.missing))
        if kept is None:
            kept = _lines(path) or None
    else:
        found.missing.append(_absent("Example sequences", path, directory, "build"))
    found.sequences = whole_number(found.summary.get("sequences")) or kept
    found.logs = read_logs(directory, found.missing)
    found.scores = read_scores(found.summary, directory, found.missing)
    if not found.scores:
        found.missing.append(_absent("Scores", directory / "evaluate", directory, "evaluate"))
    return found


def _either(directory: Path, folder: str, name: str) -> Path:
    """Path of a file: directly in the directory if it is there, otherwise in the folder it has in a whole run."""
    return directory / name if (directory / name).is_file() else directory / folder / name


def _absent(what: str, path: Path, directory: Path, verb: str) -> str:
    return f"{what}: {path.relative_to(directory)} is missing ({verb} writes it)."


def _object(path: Path, missing: list[str], what: str, verb: str) -> dict[str, Any]:
    """Read a JSON object from a file. If there is none, return {} and add a line to `missing`."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        missing.append(f"{what.capitalize()}: {path.name} is not a JSON object.")
    except FileNotFoundError:
        missing.append(f"{what.capitalize()}: {path.name} is missing ({verb} writes it).")
    except (OSError, ValueError) as error:
        missing.append(f"{what.capitalize()}: {path.name} cannot be read ({error}).")
    return {}


def funnel(table: Mapping[str, Any]) -> list[FunnelRow]:
    """Rows of `funnel.json`: "problems", then the number removed for each reason, then "sequences"."""
    numbers = counts(table)
    widest = max(numbers.values(), default=0) or 1
    steps = []
    for name, removed, left in funnel_steps(numbers):
        lost = removed if removed and left is not None else 0  # unreadable rows never counted as problems
        steps.append(FunnelRow(name, removed, left, 100 * (left or 0) / widest, 100 * lost / widest))
    return steps


def funnel_end(steps: Sequence[FunnelRow]) -> int | None:
    """Number of sequences at the end of a funnel; None if it has none."""
    return next((step.left for step in steps if step.name == "sequences"), None)


def dialogues(path: Path, most: int, missing: list[str]) -> list[Dialogue]:
    """Read dialogues from the first `most` lines of a file, up to an invalid JSON line; other schemas are skipped."""
    found: list[Dialogue] = []
    try:
        for where, value in islice(iter_jsonl(path), most):
            try:
                found.append(Dialogue.from_dict(value, where))
            except UserError:
                continue
    except UserError as error:
        missing.append(f"Example sequences: {error}.")
    else:
        if not found:
            missing.append(f"Example sequences: {path.name} holds no dialogue.")
    return found


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def choose_examples(found: Sequence[Dialogue]) -> list[Dialogue]:
    """Choose `EXAMPLES` dialogues: different numbers of rounds first, preferring reflections with two rounds."""
    ranked = sorted(enumerate(found), key=lambda item: (not item[1].is_reflection, item[1].rounds != 2, item[0]))
    chosen: list[int] = []
    seen: set[int] = set()
    for index, dialogue in ranked:
        if dialogue.rounds not in seen:
            seen.add(dialogue.rounds)
            chosen.append(index)
    chosen += [index for index, _ in ranked if index not in chosen]
    return [found[index] for index in chosen[:EXAMPLES]]


def read_logs(directory: Path, missing: list[str]) -> list[Log]:
    """Read all training logs: `train/<arm>/log.jsonl`, or the `log.jsonl` of a single training directory."""
    paths = {path.parent.name: path for path in sorted(directory.glob("train/*/log.jsonl"))}
    if (directory / "log.jsonl").is_file():
        objective = configuration(directory).get("objective")
        paths["instruction" if objective == "instruction" else "reflection"] = directory / "log.jsonl"
    logs = []
    for arm in in_order(paths, ("reflection", "instruction")):
        rows = steps_of(paths[arm])
        if rows:
            logs.append(Log(arm, tuple(rows)))
        else:
            missing.append(f"Training curves: {paths[arm].relative_to(directory)} holds no steps.")
    if not paths:
        missing.append(_absent("Training curves", directory / "train", directory, "train"))
    return logs


def steps_of(path: Path) -> list[dict[str, float]]:
    """Read the numbers of each step. An incomplete line is skipped; of a step logged twice the later entry counts."""
    rows: dict[float, dict[str, float]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    for line in lines:
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if not isinstance(value, dict) or number(value.get("step")) is None or "loss" not in value:
            continue
        row = {key: item for key, item in value.items() if number(item) is not None}
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def read_scores(summary: Mapping[str, Any], directory: Path, missing: list[str]) -> dict[str, dict[str, ReportedScore]]:
    """Read scores by task and arm: from the summary, then `evaluate/<arm>/<task>/score.json`, then `score.json`."""
    found: dict[str, dict[str, ReportedScore]] = {}

    def add(task: str, arm: str, value: Any) -> None:
        made = score(value)
        if made is not None:
            found.setdefault(task, {}).setdefault(arm, made)

    for task, by_arm in summary.items():
        if isinstance(by_arm, dict):
            for arm, value in by_arm.items():
                add(task, arm, value)
    for path in sorted(directory.glob("evaluate/*/*/score.json")):
        add(path.parent.name, path.parent.parent.name, _object(path, missing, "score", "evaluate"))
    if (directory / "score.json").is_file():
        own = _object(directory / "score.json", missing, "score", "evaluate")
        add(str(own.get("task", "task")), "this run", own)
    return found


def score(value: Any) -> ReportedScore | None:
    """Parse a score, an object with `pass_at_1` in [0, 1]; None for any other value."""
    if not isinstance(value, dict):
        return None
    rate = number(value.get("pass_at_1"))
    if rate is None or not 0 <= rate <= 1:
        return None
    low, high = number(value.get("low")), number(value.get("high"))
    if low is None or high is None:
        low = high = rate
    return ReportedScore(rate, min(max(low, 0.0), rate), max(min(high, 1.0), rate), whole_number(value.get("n")))


def configuration(directory: Path) -> dict[str, Any]:
    """Read `config.toml` of a directory; {} if it is missing or invalid."""
    try:
        return tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def texts(directory: Path, pattern: str) -> dict[str, str]:
    """Read small text files below a directory, by their relative path; checkpoints and hidden folders are skipped."""
    found = {}
    for path in sorted(directory.rglob(pattern)):
        parts = path.relative_to(directory).parts
        if not any(part.startswith((".", "checkpoint-", "previous")) for part in parts) and path.is_file():
            found["/".join(parts)] = path.read_text(encoding="utf-8", errors="replace").strip()
    return found


def recorded_versions(directory: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Read the distinct contents of `*.versions.json`, each with the names of its files."""
    groups: dict[str, list[str]] = {}
    for name, text in texts(directory, "*.versions.json").items():
        groups.setdefault(text, []).append(name)
    found = []
    for text, names in groups.items():
        try:
            table = parse_json(text)
        except ValueError:
            continue
        if isinstance(table, dict):
            found.append((names, {str(key): str(value) for key, value in table.items()}))
    return found


def number(value: Any) -> float | None:
    """`value` if it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def whole_number(value: Any) -> int | None:
    """`value` if it is a non-negative integer, otherwise None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def counts(value: Any) -> dict[str, int]:
    """The entries of an object that are non-negative integers."""
    table = value if isinstance(value, dict) else {}
    return {str(key): item for key, item in table.items() if whole_number(item) is not None}


def stages(value: Any) -> dict[str, float]:
    """The entries of an object that are durations in seconds; a nested stage gets the names on its path as its name."""
    found: dict[str, float] = {}
    for key, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, dict):
            found |= {f"{key} {inner}": seconds for inner, seconds in stages(item).items()}
        elif (seconds := number(item)) is not None and seconds >= 0:
            found[str(key)] = seconds
    return found


def in_order(names: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    """Sort names: the known ones first, in the order of `known`, then the others."""
    first = [name for name in known if name in names]
    return [*first, *(name for name in names if name not in first)]
