"""All kinds of sources give the same problems; bad sources give a clear error of one line."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path

import pytest
from places import DATA

from reflectioncoder.errors import UserError
from reflectioncoder.files.fields import FieldMap
from reflectioncoder.problems.load import handwritten, load_problems
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.asserts import split_tests

ADD = "def add(a, b):\n    return a + b"
NEG = "def neg(a):\n    return -a"
ROWS = [
    {"id": "a", "instruction": "Write `add`.", "solution": ADD, "tests": ["assert add(1, 2) == 3"]},
    {"id": "b", "instruction": "Write `neg`.", "solution": NEG, "tests": ["assert neg(1) == -1"]},
]


def shared(path: str) -> str:
    found = DATA / path
    if not found.is_file():
        pytest.skip(f"no file {found}: set REFLECTIONCODER_DATA to the folder of data sets")
    return str(found)


def passes(problem: Problem, solution: str | None = None) -> bool:
    """Whether a solution passes its problem's tests, run by plain `exec`, independent of the interpreter."""
    space: dict[str, object] = {"__name__": "__main__"}  # `dataclasses` needs __name__
    try:
        exec(problem.given, space)
        exec(problem.solution if solution is None else solution, space)  # type: ignore[arg-type]
        for test in problem.tests:
            exec(test, space)
    except Exception:
        return False
    return True


def write(path: Path, rows: list[dict]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows) if "jsonl" in path.name else json.dumps(rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.json", "p.json.gz"])
def test_json_files_give_the_same_problems(tmp_path: Path, name: str) -> None:
    add, neg = load_problems(write(tmp_path / name, ROWS))
    assert (add.id, add.entry_point, add.tests) == ("a", "add", ("assert add(1, 2) == 3",))
    assert add.source == "p"
    assert passes(add)
    assert passes(neg)
    assert add.instruction == "Write `add`."  # unchanged, as it already names the entry point


def test_parquet_and_saved_data_sets_give_the_same_problems(tmp_path: Path) -> None:
    import datasets

    expected = load_problems(write(tmp_path / "p.jsonl", ROWS))
    rows = datasets.Dataset.from_list(ROWS)
    rows.to_parquet(tmp_path / "p.parquet")
    assert load_problems(str(tmp_path / "p.parquet")) == expected
    rows.save_to_disk(tmp_path / "p")
    assert load_problems(str(tmp_path / "p")) == expected
    (tmp_path / "folder" / "p").mkdir(parents=True)
    rows.to_parquet(tmp_path / "folder" / "p" / "train.parquet")
    assert load_problems(str(tmp_path / "folder" / "p")) == expected


def test_field_mapping_set_up_and_entry_point(tmp_path: Path) -> None:
    code = "def root(x):\n    return math.sqrt(x)\nif __name__ == '__main__':\n    print(root(2))\n"
    tests = "assert root(4) == 2\nassert root(x=9) == 3"
    row = {"q": "Give the root of a number.", "n": {"hard": 3}, "code": code, "pre": "import math", "t": tests}
    source = write(tmp_path / "p.jsonl", [row])
    (problem,) = load_problems(source, "instruction=q,solution=code,setup=pre,tests=t,level=n.hard")
    assert problem.solution == "import math\ndef root(x):\n    return math.sqrt(x)\n"
    assert problem.instruction == "Give the root of a number.\n\nThe function should be called `root`."
    assert (problem.id, problem.level, problem.tests) == ("p/1", 3, ("assert root(4) == 2", "assert root(x=9) == 3"))
    assert passes(problem)


def test_check_function_is_taken_apart_with_the_entry_expression() -> None:
    lines = [
        "k = 3",
        "assert candidate(n = [1]) == 2",
        "assert candidate(k) == 3, 'no'",
        "assert same(candidate(2), 4)",
    ]
    code = "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)
    assert split_tests(code, "Solution().f") == (
        "assert Solution().f(n=[1]) == 2",
        "assert same(Solution().f(2), 4)",
    )


def test_doctests_become_asserts_only_where_they_stand_alone() -> None:
    examples = [
        ["f(1)\n", "2\n"],
        ["f('a')  # doctest: +ELLIPSIS\n", "'b'"],
        ["x = f(2)\n", ""],
        ["x\n", "3"],
        ["f(3)\n", ""],
        ["print(f(4))\n", "5"],
        ["f(None)\n", "Traceback (most recent call last):\n    ...\nTypeError: no"],
        ["f(5)\n", "<object at 0x7f>"],
        ["f({})\n", "{'a': [1, 2]}"],
    ]
    assert split_tests(examples) == ("assert f(1) == 2", "assert f('a') == 'b'", "assert f({}) == {'a': [1, 2]}")


def test_missing_column_names_the_columns_there_are(tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"text": "t", "code": "x"}])
    with pytest.raises(UserError, match=r"p.jsonl, line 1: no column 'instruction' .* there are text, code"):
        load_problems(source)


def test_bad_rows_are_skipped_with_reasons_or_raise(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], "solution": "def neg(:"}, {**ROWS[1], "tests": [3]}, {**ROWS[1], "instruction": ""}, 7]
    source = write(tmp_path / "p.jsonl", rows)  # type: ignore[arg-type]
    skipped: list[str] = []
    assert [problem.id for problem in load_problems(source, skipped=skipped)] == ["a"]
    assert [item.split("p.jsonl, ")[1].split(":")[0] for item in skipped] == ["line 2", "line 3", "line 4", "line 5"]
    with pytest.raises(UserError, match=r"line 2: solution is not Python: .*line 1"):
        load_problems(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"id": 1}\n{oops\n', "line 1: no column 'instruction'"),
        ("p.jsonl", b"\n", "no problems in its 0 rows"),
        ("p.json", b"{}", "line 1: no column 'instruction'"),  # one object is one row
        ("p.jsonl.gz", b"not gzip", "p.jsonl.gz"),
        ("p.json", b"\xff", "not UTF-8"),
        ("p.parquet", b"nothing", "not readable as Parquet"),
        ("p.csv", b"a,b", "expected rows as JSON or Parquet (.jsonl"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_problems(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_sources_and_unknown_fields_give_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_problems(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"folder .*empty: no data file \(.jsonl"):
        load_problems(str(tmp_path / "empty"))
    with pytest.raises(
        UserError, match="unknown preset 'mbp'; use leetcode, thealgorithms, mbpp, codefeedback, messages"
    ):
        FieldMap.parse("mbp")
    with pytest.raises(UserError, match="unknown part 'test'"):
        FieldMap.parse("mbpp,test=x")
    assert FieldMap.parse("mbpp,tests=x").tests == "x"


def test_equal_ids_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", [ROWS[0]] * 3)
    renamed: list[str] = []
    assert [p.id for p in load_problems(path, renamed=renamed)] == ["a", "a#2", "a#3"]
    first = f"file {path}, item 1"
    assert renamed == [f"file {path}, item {k}: id 'a' is that of {first} too; kept as 'a#{k}'" for k in (2, 3)]


def test_an_entry_point_that_is_no_name_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "p.json", [{**ROWS[0], "entry_point": "[{'a': 1}]"}])
    with pytest.raises(UserError, match=r"item 1: column 'entry_point' must hold a name or an expression"):
        load_problems(source)


def test_a_made_up_id_is_none_that_another_row_has(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "id": id} for id in ("a", "a", "a#2", "a", "a#2")]
    problems = load_problems(write(tmp_path / "p.json", rows))
    assert [problem.id for problem in problems] == ["a", "a#3", "a#2", "a#4", "a#2#2"]


@pytest.mark.slow
def test_leetcode() -> None:
    source = shared("instruct/leetcode/LeetCodeDataset-v0.2.0-train.jsonl.gz")
    problems = load_problems(source, "leetcode")
    assert len(problems) == 1890
    assert all(problem.tests for problem in problems)
    two_sum = problems[0]
    assert (two_sum.id, two_sum.entry_point, two_sum.level) == ("two-sum", "Solution", 1)
    assert two_sum.tests[0] == "assert Solution().twoSum(nums=[2, 7, 11, 15], target=9) == [0, 1]"
    assert sum(map(passes, problems[:60])) >= 58


def test_mbpp_takes_only_the_ids_of_the_split() -> None:
    source = shared("mbpp/mbpp.jsonl")
    assert {split: len(load_problems(source, "mbpp", split)) for split in ("train", "validation", "test", "all")} == {
        "train": 374, "validation": 90, "test": 500, "all": 974,
    }  # fmt: skip
    train = load_problems(source, "mbpp", limit=60)
    assert train[0].id == "601"
    assert all(problem.entry_point for problem in train)
    assert all(map(passes, train))
    with pytest.raises(UserError, match="no split 'dev'"):
        load_problems(source, "mbpp", "dev")


def test_thealgorithms_takes_passing_doctests() -> None:
    source = shared("instruct/thealgorithms/thealgorithms_python_doctest.jsonl.gz")
    skipped: list[str] = []
    problems = load_problems(source, "thealgorithms", skipped=skipped)
    # 1,123 rows pass their doctests; rows without text before the first example are skipped with a reason.
    assert len(problems) + len(skipped) == 1123
    assert all("docstring" in line for line in skipped)
    shifted = [problem.id for problem in problems if ">>>" in problem.instruction]
    assert shifted == [
        "thealgorithms/bit_manipulation/binary_shifts.py::logical_right_shift"
    ]  # (number >>> shift_amount)
    assert all((problem.entry_point or "") in problem.instruction for problem in problems)
    tested = [problem for problem in problems if problem.tests]
    assert len(tested) > 700
    assert sum(map(passes, tested[:40])) >= 38


def test_shipped_problems_are_many_and_unique() -> None:
    problems = handwritten()
    assert len(problems) >= 150
    assert (
        len({problem.id for problem in problems}) == len({problem.instruction for problem in problems}) == len(problems)
    )
    assert len({(problem.entry_point, problem.solution) for problem in problems}) == len(problems)
    for problem in problems:
        assert len(set(problem.tests)) >= 6, problem.id
        for test in problem.tests:
            (statement,) = ast.parse(test).body
            assert isinstance(statement, ast.Assert), f"{problem.id}: {test}"
        assert (problem.entry_point or "?") in problem.instruction, problem.id


def test_shipped_solutions_pass() -> None:
    failing = [problem.id for problem in handwritten() if not passes(problem)]
    assert not failing


@pytest.mark.parametrize("answer", ["None", "0", "1", "''", "[]", "{}", "True", "False", "args[0] if args else None"])
def test_trivial_answers_to_shipped_problems_fail(answer: str) -> None:
    def trivial(problem: Problem) -> str:
        name = problem.entry_point
        if f"class {name}" in (problem.solution or ""):
            return (
                f"class {name}:\n    def __init__(self, *args, **more): pass\n"
                f"    def __getattr__(self, name): return lambda *args, **more: {answer}\n"
            )
        return f"def {name}(*args, **more):\n    return {answer}\n"

    forged = [problem.id for problem in handwritten() if passes(problem, trivial(problem))]
    assert not forged


def test_only_a_doctest_at_the_start_of_a_line_ends_the_instruction(tmp_path: Path) -> None:
    shift = "Implement `f(a, n)`, the unsigned shift a >>> n of JavaScript. n may be 0 to 31."
    doc = "Add one with `f`.\n\n    >>> f(1)\n    2\n"
    source = write(
        tmp_path / "p.jsonl", [{"instruction": text, "tests": ["assert f(1) == 2"]} for text in (shift, doc)]
    )
    assert [problem.instruction for problem in load_problems(source)] == [shift, "Add one with `f`."]


def test_no_break_spaces_stay_in_literals_and_statements(tmp_path: Path) -> None:
    row = {"instruction": "`f(s)` replaces '\xa0' by '_'.", "tests": ["assert f('a\xa0b') == 'a_b'"]}
    row["solution"] = "def f(s):\n    return s.replace('\xa0', '_')\n"
    web = {**row, "solution": "def f(s):\n\xa0\xa0\xa0\xa0return s\n"}
    first, second = load_problems(write(tmp_path / "p.jsonl", [row, web]))
    assert (first.instruction, first.solution) == (row["instruction"], row["solution"])
    assert first.tests == ("assert f('a\\xa0b') == 'a_b'",) and passes(first)
    assert second.solution == "def f(s):\n    return s\n"


def test_tests_that_were_not_read_leave_a_reason(tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path / "p.jsonl", [{**ROWS[0], "tests": "print(add(1, 2))"}]))
    assert problem.tests == ()
    assert problem.extra == {"unread_tests": "calls of `print` without expected values"}
