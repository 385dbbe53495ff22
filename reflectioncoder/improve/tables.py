"""The results of a loop as text: the table, and improve.json."""

from __future__ import annotations

import dataclasses
from typing import Any

from reflectioncoder.config.improve import STOPPING
from reflectioncoder.improve.results import ImproveResults, RoundResult
from reflectioncoder.steps.statistics import DRAWS
from reflectioncoder.steps.tables import aligned_lines, interval_text, markdown_lines

HOW_SCORED = (
    f"Scores are pass@1 with 95 % intervals over the problems ({DRAWS:,} draws of scipy.stats.bootstrap, percentiles, "
    "corrected as in docs/studying.md); there is one seed, so they say nothing of other seeds. Differences are paired: "
    "the same problems before and after. Tokens are those through the model in the round's training, teacher and "
    "student rows both counted; seconds are wall-clock time of all steps of the round."
)
CHOSEN = (
    "The stopping score decides when the loop ends and which round is the best, so it flatters the best round; report "
    "a score of [scores], which decides nothing."
)


def score_title(results: ImproveResults, name: str) -> str:
    """The heading of a score."""
    return "stopping score" if name == STOPPING and len(results.scores) > 1 else "score" if name == STOPPING else name


def round_columns(results: ImproveResults) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of the table as texts."""
    rounds = results.rounds
    head = ["round", "attempts", "passed at once", "sequences", "tokens", "seconds"]
    columns = [
        [_name(results, one) for one in rounds],
        *([_count(value(one)) for one in rounds] for value in (_attempts, _passed, _sequences, _tokens, _seconds)),
    ]
    for name in results.scores:
        head.append(f"{score_title(results, name)}, pass@1, %")
        columns.append([interval_text(one.scores[name], "{:.1f}") if name in one.scores else "" for one in rounds])
        if name != STOPPING or len(results.scores) == 1:
            head.append("against round 0, points")
            columns.append([gain_text(one, name) for one in rounds])
    return head, [list(line) for line in zip(*columns, strict=True)]


def _attempts(one: RoundResult) -> float | None:
    return one.attempts


def _passed(one: RoundResult) -> float | None:
    return one.passed


def _sequences(one: RoundResult) -> float | None:
    return one.sequences


def _tokens(one: RoundResult) -> float | None:
    return one.tokens


def _seconds(one: RoundResult) -> float | None:
    return one.seconds


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _name(results: ImproveResults, one: RoundResult) -> str:
    notes = ["as it is"] if one.number == 0 else []
    notes += ["best"] if one.number == results.best and STOPPING in one.scores else []
    notes += [{"empty": "no sequence", "failed": "failed", "open": "not finished"}.get(one.state, "")]
    told = ", ".join(note for note in notes if note)
    return f"{one.number} ({told})" if told else f"{one.number}"


def gain_text(one: RoundResult, name: str) -> str:
    """The difference of a round to round 0 with its interval in percentage points."""
    if one.number == 0:
        return "reference" if name in one.scores else ""
    return interval_text(one.differences[name].value, "{:+.1f}") if name in one.differences else ""


def notes(results: ImproveResults) -> list[str]:
    """How the loop ended, and how to read its table."""
    found = [results.ended or "The loop is not finished; start it again to go on."]
    found += [f"{one.failed} ({one.log})" for one in results.rounds if one.failed]
    best = results.rounds[results.best] if results.rounds else None
    if best is not None and STOPPING in best.scores:
        found.append(f"The best model is that of round {best.number}: {best.model}")
    if results.left_out:
        found.append(
            f"{results.left_out} problems of the stopping score are in a reported score, too, and do not count in it; "
            f"{results.counted} do."
        )
    return [*found, CHOSEN]


def rounds_markdown(results: ImproveResults) -> str:
    """The content of table.md: title, table, how the loop ended, and how the intervals were made."""
    head, rows = round_columns(results)
    listed = [f"- {note}" for note in notes(results)]
    return "\n".join([f"# {results.title}", "", *markdown_lines(head, rows), "", *listed, "", HOW_SCORED])


def improve_lines(results: ImproveResults) -> list[str]:
    """The table in columns of equal width and the notes, for a terminal."""
    return [*aligned_lines(*round_columns(results)), *notes(results)]


def round_line(results: ImproveResults) -> str:
    """One line about the last round, as soon as it has ended."""
    one = results.rounds[-1]
    if one.state != "done":
        return results.ended or f"round {one.number} is not finished"
    value, before = one.scores[STOPPING], results.rounds[0].scores.get(STOPPING)
    of = f", {100 * before.mean:.1f} % before" if before else ""
    made = f"{one.sequences} sequences and {one.passed} passed at once of {one.attempts} attempts"
    text = f"round {one.number}: {made}; {score_title(results, STOPPING)} {interval_text(value, '{:.1f}')} %{of}"
    return f"{text}. {results.ended}" if results.ended else text


def rounds_as_json(results: ImproveResults) -> dict[str, Any]:
    """The content of improve.json, without the verdicts, which are in the steps' own files."""
    rounds = []
    for one in results.rounds:
        own = dataclasses.asdict(one)
        counts = {"attempts": one.attempts, "passed": one.passed, "sequences": one.sequences}
        rounds.append({"number": own.pop("number"), "state": own.pop("state"), **counts, **own})
    known = [one.tokens for one in results.rounds if one.tokens is not None]
    return {
        "title": results.title,
        "ended": results.ended,
        "best": results.best,
        "scores": list(results.scores),
        "counted": results.counted,
        "left_out": results.left_out,
        "tokens": sum(known),
        "seconds": round(sum(one.seconds for one in results.rounds), 1),
        "method": HOW_SCORED,
        "rounds": rounds,
    }
