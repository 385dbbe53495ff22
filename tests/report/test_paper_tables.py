"""The paper's tables, extended by measured rows."""

import json

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.report.paper_tables import TABLES, paper_tables, published


def score(folder, task, rate, **more):
    folder.mkdir(parents=True)
    low, high = (None, None) if rate is None else (0.6785, 0.8094)
    row = {"task": task, "pass_at_1": rate, "low": low, "high": high, "n": 164, **more}
    (folder / "score.json").write_text(json.dumps(row))


def test_measured_rows_stand_below_the_published_ones(tmp_path):
    score(tmp_path / "mine" / "humaneval", "humaneval", 0.75)
    score(tmp_path / "mine" / "mbpp_plus", "mbpp_plus", None)
    lines = paper_tables([str(tmp_path / "mine")]).splitlines()
    assert "| ReflectionCoder | CL-7B | 75.0 | 68.9 | 72.2 | 61.4 | published, table 1 |" in lines
    assert lines[-1] == f"| {tmp_path / 'mine'} |  | 75.0 [67.8, 80.9] |  |  | not run | measured |"
    assert lines[0].startswith("Table 1") and not any("MultiPL-E" in line for line in lines)
    with pytest.raises(UserError, match=r"no score\.json"):
        paper_tables([str(tmp_path)])


def test_a_run_with_added_tests_fills_the_column_of_the_base_tests(tmp_path):
    """Four problems: passed, failed by an added test, failed by a base test, missing."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    outcomes = [[["base", "ok"], ["plus", "ok"]], [["base", "ok"], ["plus", "wrong"]], [["base", "wrong"]], []]
    lines = [
        {"task_id": str(number), "sample": 0, "passed": number == 0, "outcome": "x", "error": "", "seconds": 0.1,
         "groups": groups} for number, groups in enumerate(outcomes)
    ]  # fmt: skip
    for run in (mine, other):
        score(run / "plus", "humaneval_plus", 0.25, missing=1)
        (run / "plus" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score(other / "base", "humaneval", 0.75)
    found = paper_tables([str(mine), str(other)]).splitlines()
    plus = "25.0 [67.8, 80.9], 1 missing"
    assert found[-2] == f"| {mine} |  | 50.0 [15.0, 85.0], 1 missing | {plus} |  |  | measured |"  # Wilson, 2 of 4
    assert found[-1] == f"| {other} |  | 75.0 [67.8, 80.9] | {plus} |  |  | measured |"


def test_other_languages_and_libraries_have_the_papers_tables(tmp_path):
    mine = tmp_path / "mine"
    score(mine / "a", "multipl_e_cpp", 0.75)
    score(mine / "b", "multipl_e_swift", None)
    parts = {
        "Pandas": {"pass_at_1": 0.5, "low": 0.4, "high": 0.6, "n": 3, "not_run": 0},
        "Pytorch": {"pass_at_1": None},
    }
    score(mine / "c", "ds1000", 0.7, not_run=120, parts=parts)
    languages, libraries = paper_tables([str(mine)]).split("\n\nTable 6")
    lines = languages.splitlines()
    assert "| method | base | Java | JavaScript | C++ | PHP | Swift | Rust | TypeScript | C# | Bash | from |" in lines
    assert (
        "| ReflectionCoder | CL-7B | 53.2 | 62.1 | 47.9 | 53.6 | 49.1 | 50.6 |  |  |  | published, table 4 |" in lines
    )
    greedy = "| ReflectionCoder | DS-33B | 70.9 | 73.9 | 70.8 | 72.0 |  |  | 72.3 | 74.7 | 45.6 | published, table 5 |"
    assert greedy in lines
    assert lines[-1] == f"| {mine} |  |  |  | 75.0 [67.8, 80.9] |  | not run |  |  |  |  | measured |"
    lines = libraries.splitlines()
    sums = "| ReflectionCoder | CL-7B | 56.2 | 43.1 | 24.5 | 46.7 | 23.1 | 45.5 | 35.6 | 37.8 | published, table 6 |"
    assert sums in lines
    cells = "|  |  | 50.0 [40.0, 60.0] | not run |  |  |  | 70.0 [67.8, 80.9], 120 not run |"
    assert lines[-1] == f"| {mine} |  {cells} measured |"


def test_no_score_is_dropped(tmp_path):
    mine = tmp_path / "mine"
    score(mine / "heldout", "heldout", 0.75, k={"1": 0.75, "10": 0.9})
    score(mine / "humaneval", "humaneval", 0.75)
    score(mine / "humaneval-2", "humaneval", 0.8)
    found = paper_tables([str(mine)])
    assert f"| {mine} | heldout | 75.0 [67.8, 80.9] |" in found
    assert f"| {mine} | heldout | 10 | 90.0 |" in found and "| heldout | 1 |" not in found
    assert f"| {mine} |  | 75.0 " in found and f"| {mine / 'humaneval-2'} |  | 80.0 " in found
    (mine / "heldout" / "score.json").write_text("[]")
    with pytest.raises(UserError, match="not a score"):
        paper_tables([str(mine)])


def test_published_rows_are_complete():
    """Every row has all columns that its table has in the paper. Without runs, all tables are shown."""
    counts = {1: 4, 4: 6, 5: 7, 6: 8}
    columns = {number: table.columns for table in TABLES for number in table.numbers}
    for row in published():
        values = {key: value for key, value in row.items() if key in columns[row["table"]]}
        assert len(values) == counts[row["table"]] == len(row) - 4
        assert all(0 < value < 100 for value in values.values())
    assert [sum(row["table"] == number for row in published()) for number in (4, 5, 6)] == [9, 4, 11]
    assert all(table.title in paper_tables([]) for table in TABLES)
