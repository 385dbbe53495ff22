"""The table of a loop, from files of two rounds whose numbers are worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from reflectioncoder.config.improve import ImproveConfig
from reflectioncoder.improve.page import render_improve
from reflectioncoder.improve.plan import RoundsPlan, plan_rounds
from reflectioncoder.improve.results import ImproveResults, improve_results
from reflectioncoder.improve.tables import round_columns, round_line, rounds_as_json, rounds_markdown
from reflectioncoder.steps.records import StepRecord, write_record
from reflectioncoder.steps.run import read_records

# Which of four problems each round solves: of the stopping score (p0 is left out), and of the reported one.
STOPPING = {0: "1000", 1: "0110", 2: "0111"}
FINAL = {0: "0100", 1: "0011", 2: "0001"}
FUNNELS = {
    1: {"problems": 10, "no_code": 1, "passed_at_once": 4, "sequences": 5},
    2: {"problems": 10, "passed_at_once": 8, "sequences": 2},
}


def loop(folder: Path, **changes: Any) -> ImproveConfig:
    scores = {"final": {"generate": {"seed": 1}}}
    settings = {"start": "base", "rounds": 2, "build": {"problems": "procedural"}, "scores": scores}
    return ImproveConfig(title="By <hand>", output=str(folder), **{**settings, **changes})


def write_step(plan: RoundsPlan, key: str, state: str, seconds: float, files: dict[str, str]) -> None:
    plan.output(key).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (plan.output(key) / name).write_text(text)
    error = "" if state == "done" else "reflectioncoder build: no sequence was made"
    verb = plan.steps[key].verb
    write_record(plan.folder(key), StepRecord(verb, state, seconds, status=int(state != "done"), error=error))  # type: ignore[arg-type]


def verdicts(passed: str) -> str:
    lines = [
        {"task_id": f"p{i}", "sample": 0, "passed": bit == "1", "outcome": "ok", "error": "", "seconds": 0.1}
        for i, bit in enumerate(passed)
    ]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def write_round(plan: RoundsPlan, number: int) -> None:
    one = plan.runs[number]
    if number:
        write_step(plan, one.builds[0], "done", 20.0, {"funnel.json": json.dumps(FUNNELS[number])})
        result = {"tokens": 1000 * number, "seconds": 5.0, "seen": 8, "instructions": 4}
        write_step(plan, one.train, "done", 10.0, {"result.json": json.dumps(result)})
    for name, passed in (("stopping", STOPPING[number]), ("final", FINAL[number])):
        decoded, checked = one.scores[name]
        write_step(plan, decoded, "done", 2.0, {})
        write_step(plan, checked, "done", 1.0, {"results.jsonl": verdicts(passed)})


def results(folder: Path, last: int = 2, **changes: Any) -> ImproveResults:
    config = loop(folder, **changes)
    plan = plan_rounds(config, last, lambda _: "")
    for number in range(last + 1):
        write_round(plan, number)
    return improve_results(config, plan, read_records(plan), frozenset({"p0"}))


def test_the_table_has_the_numbers_of_the_files(tmp_path: Path) -> None:
    found = results(tmp_path)
    head, rows = round_columns(found)
    assert head == [
        "round", "attempts", "passed at once", "sequences", "tokens", "seconds", "stopping score, pass@1, %",
        "final, pass@1, %", "against round 0, points",
    ]  # fmt: skip
    assert [row[:6] for row in rows] == [
        ["0 (as it is)", "", "", "", "", "6"],
        ["1", "10", "4", "5", "1,000", "36"],
        ["2 (best)", "10", "8", "2", "2,000", "36"],
    ]
    # p0 does not count in the stopping score: 0, 2 and 3 of 3; the reported score is 1, 2 and 1 of 4
    assert [row[6].split()[0] for row in rows] == ["0.0", "66.7", "100.0"]
    assert [row[7].split()[0] for row in rows] == ["25.0", "50.0", "25.0"]
    assert [row[8].split()[0] for row in rows] == ["reference", "+25.0", "+0.0"]
    change = found.rounds[1].differences["final"]
    assert (change.won, change.lost) == (2.0, 1.0)  # 0011 against 0100
    assert (found.best, found.counted, found.left_out) == (2, 3, 1)
    assert found.ended == "Ended after round 2, the most that `rounds` allows." and not found.failed


def test_the_files_say_the_same(tmp_path: Path) -> None:
    found = results(tmp_path)
    text = rounds_markdown(found)
    assert "| 1 | 10 | 4 | 5 | 1,000 | 36 | 66.7 [" in text and "The best model is that of round 2" in text
    assert "1 problems of the stopping score are in a reported score, too, and do not count in it; 3 do." in text
    written = json.loads(json.dumps(rounds_as_json(found)))
    assert (written["tokens"], written["seconds"], written["best"]) == (3000, 78.0, 2)
    assert [one["sequences"] for one in written["rounds"]] == [None, 5, 2]
    assert written["rounds"][1]["differences"]["final"]["value"]["mean"] == 0.25
    page = render_improve(tmp_path, found)
    assert "By &lt;hand&gt;" in page and "passed at once" in page and "<svg" in page
    assert "src=" not in page and "@import" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_one_line_says_what_a_round_made(tmp_path: Path) -> None:
    line = round_line(results(tmp_path, 1))
    assert line.startswith("round 1: 5 sequences and 4 passed at once of 10 attempts; stopping score 66.7 [")
    assert line.endswith("%, 0.0 % before")


def test_a_loop_ends_without_gains_or_goes_on(tmp_path: Path) -> None:
    assert results(tmp_path, rounds=5).ended == ""
    assert results(tmp_path, rounds=5, min_gain=70.0).ended == ""  # 0, 66.7, 100: the second is a gain of 100 points
    ended = results(tmp_path, last=1, rounds=5, min_gain=70.0, patience=1).ended
    assert ended == "Ended after round 1: 1 round without a gain of 70 points or more."


@pytest.mark.parametrize(("number", "failed"), [(1, True), (2, False)])
def test_a_round_without_sequences_ends_the_loop(tmp_path: Path, number: int, failed: bool) -> None:
    config = loop(tmp_path)
    plan = plan_rounds(config, number, lambda _: "")
    for done in range(number):
        write_round(plan, done)
    funnel = {"problems": 10, "no_code": 1, "passed_at_once": 9, "sequences": 0}
    write_step(plan, plan.runs[number].builds[0], "failed", 3.0, {"funnel.json": json.dumps(funnel)})
    found = improve_results(config, plan, read_records(plan), frozenset())
    assert found.rounds[-1].state == "empty" and found.failed == failed
    said = f"Round {number} made no sequence from 10 attempts (passed at once 9, no code 1), so the loop ends."
    assert found.ended == said and round_line(found) == said


def test_problems_that_cannot_be_run_end_the_loop(tmp_path: Path) -> None:
    plan = plan_rounds(loop(tmp_path), 1, lambda _: "")
    for number in (0, 1):
        write_round(plan, number)
    lines = verdicts("0000").replace('"ok"', '"not_run"')
    (plan.output(plan.runs[1].scores["stopping"][1]) / "results.jsonl").write_text(lines)
    found = improve_results(loop(tmp_path), plan, read_records(plan), frozenset())
    assert (found.best, found.failed) == (0, True)
    assert found.ended == "Round 1 has no stopping score: none of its problems could be run here."


def test_a_failed_step_is_shown_with_its_log(tmp_path: Path) -> None:
    config = loop(tmp_path)
    plan = plan_rounds(config, 2, lambda _: "")
    for number in (0, 1, 2):
        write_round(plan, number)
    key = plan.runs[2].train
    write_record(plan.folder(key), StepRecord("train", "failed", 4.0, status=2, error="out of memory"))
    records = {name: record for name, record in read_records(plan).items() if name not in plan.runs[2].scores["final"]}
    found = improve_results(config, plan, records, frozenset())
    assert found.failed and found.ended == "Round 2 failed: train: out of memory."
    assert f"train: out of memory ({plan.folder(key)}/log.txt)" in rounds_markdown(found)


def test_deleted_weights_are_said_to_be(tmp_path: Path) -> None:
    config = loop(tmp_path)
    plan = plan_rounds(config, 2, lambda _: "")
    for number in (0, 1, 2):
        write_round(plan, number)
    records = read_records(plan)
    key = plan.runs[1].train
    records[key] = dataclasses.replace(records[key], model_deleted=True)
    found = improve_results(config, plan, records, frozenset())
    assert [one.has_weights for one in found.rounds] == [True, False, True]
    assert "its weights were deleted" in render_improve(tmp_path, found)
