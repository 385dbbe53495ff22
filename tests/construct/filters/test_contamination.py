"""Copies of benchmark problems are found under other names and within other text, and little else is reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from reflectioncoder.construct.filters.contamination import (
    Detector,
    Thresholds,
    contaminated,
    runs,
    words_of,
)
from reflectioncoder.construct.filters.references import Reference, load_references, read_reference
from reflectioncoder.construct.filters.same_request import asked
from reflectioncoder.errors import UserError
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.problem import Problem

REQUEST = (
    "Check if in a given list of numbers any two of them are closer to each other than a threshold that is given,"
    " and count how many such pairs there are in the whole list."
)
CODE = (
    "def close_pairs(numbers, threshold):\n    count = 0\n    for place, first in enumerate(numbers):\n"
    "        for second in numbers[place + 1:]:\n            if abs(first - second) < threshold:\n"
    "                count += 1\n    return count\n"
)
REFERENCE = Reference("Bench/1", "Bench", REQUEST, CODE, "close_pairs")


def found(texts: tuple[str, ...], entry_point: str = "", *references: Reference) -> tuple[str, str, float] | None:
    item = Detector(references or [REFERENCE]).check("p", texts, entry_point)
    return (item.reference, item.part, item.share) if item else None


def test_words_hide_the_entry_point_however_it_is_written() -> None:
    assert words_of("def has_close(x): return hasClose(x - 1)", "has_close") == [
        "def", "§", "x", "return", "§", "x", "1",
    ]  # fmt: skip
    assert runs(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert runs(["a"], 2) == [("a",)]
    assert runs([], 2) == []


@pytest.mark.parametrize("name", ["close_pairs", "f", "countNear", "solve"])
def test_a_copy_is_found_under_any_name(name: str) -> None:
    code = CODE.replace("close_pairs", name)
    assert found(("Something else.", code), name) == ("Bench/1", "solution", 1.0)
    assert found(("Something else.", code)) == ("Bench/1", "solution", 1.0)  # the name is taken from the code
    named = f"{name}: {REQUEST}", "x = 1"
    assert found(named, name) == ("Bench/1", "prompt", 1.0)


def test_names_differ_in_every_run_and_the_copy_is_found_all_the_same() -> None:
    text = "let {0} of {0} be {0} times {0} where {0} of nothing is {0} and {0} of {0} is known"
    reference = Reference("r", "Bench", text.format("gcd"), "", "gcd")
    assert found((text.format("lcm"),), "lcm", reference) == ("r", "prompt", 1.0)
    assert found((text.format("lcm"),), "other", reference) is None


def test_a_name_in_common_says_nothing() -> None:
    other = "def close_pairs(pairs):\n    return [pair for pair in pairs if pair.closed]\n"
    assert found(("Write `close_pairs`, which gives the pairs that are closed.", other), "close_pairs") is None


def test_half_of_a_long_prompt_is_found_and_a_fifth_is_not() -> None:
    words = REQUEST.split()
    assert len(words) == 35
    half = " ".join(words[:22])  # 18 of the 31 runs of 5 words
    assert found((f"Please do this. {half} - if you can",)) == ("Bench/1", "prompt", round(18 / 31, 4))
    assert found((f"Please do this. {' '.join(words[:10])} or not",)) is None


def test_rows_of_numbers_and_boilerplate_do_not_count() -> None:
    table = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24"
    assert found((table,), "", Reference("r", "Bench", table)) is None
    assert found((f"sum of {table[:40]} here",), "", Reference("r", "Bench", f"product of {table} there")) is None
    phrase = "write a python function which takes a list of numbers as its input and gives back the"
    many = [Reference(str(k), "Bench", f"{phrase} w{k}a w{k}b w{k}c w{k}d w{k}e w{k}f w{k}g") for k in range(9)]
    assert found((f"{phrase} mean of them",), "", *many) is None
    assert found((f"{phrase} w3a w3b w3c w3d w3e w3f w3g",), "", *many) == ("3", "prompt", 1.0)


def test_idioms_of_code_are_not_copies() -> None:
    code = "def f(grid):\n    n = len(grid)\n    for i in range(n):\n        for j in range(i + 1, n): ...\n"
    short = Reference(
        "r", "Bench", "p", "def g(n):\n    for i in range(n):\n        for j in range(i + 1, n): ...\n", "g"
    )
    assert found(("Something else.", code), "f", short) is None


def test_a_share_above_one_finds_nothing() -> None:
    assert Detector([REFERENCE], Thresholds(share=1.1)).check("p", (REQUEST, CODE)) is None


def test_the_report_names_reference_share_and_the_longest_stretch() -> None:
    problems = [Problem("a", "Add one."), Problem("b", REQUEST.upper(), CODE, (), "close_pairs")]
    (item,) = contaminated(problems, Detector([REFERENCE]))
    line = item.to_dict()
    assert (line["id"], line["reference"], line["benchmark"], line["share"]) == ("b", "Bench/1", "Bench", 1.0)
    assert line["example"] == REQUEST.lower().replace(",", "").rstrip(".")


ROWS = {
    "HumanEval": (
        {"task_id": "HumanEval/7", "prompt": "def f(x):\n  '''One two three four five six\n  >>> f(1)\n  2'''\n",
         "entry_point": "f", "canonical_solution": "  return x", "test": "assert secret"},
        Reference("HumanEval/7", "HumanEval", "def f(x):\n  '''One two three four five six\n  ", "  return x", "f",
                  "HumanEval/7"),
    ),
    "MBPP+": (
        {"task_id": "Mbpp/2", "prompt": '"""\nWrite a function to find seven words.\nassert f(1) == 2\n"""\n',
         "entry_point": "f", "canonical_solution": "def f(x): ...", "assertion": "assert"},
        Reference("Mbpp/2", "MBPP+", '"""\nWrite a function to find seven words.', "def f(x): ...", "f", "Mbpp/2"),
    ),
    "MBPP": (
        {"task_id": 11, "text": "Write it.", "code": "def help(): ...\ndef f(x): ...", "test_list": ["assert f(1)"]},
        Reference("MBPP/11", "MBPP", "Write it.", "def help(): ...\ndef f(x): ...", "f"),
    ),
    "MultiPL-E": (
        {"name": "HumanEval_23_str_len", "language": "java", "prompt": "// Length", "tests": "assert", "task_id": "x"},
        Reference("MultiPL-E/java/HumanEval_23_str_len", "MultiPL-E", "// Length", "", "str_len", "HumanEval/23"),
    ),
    "DS-1000": (
        {"prompt": "Problem:\nDo it.\nA:\n<code>", "reference_code": "result = 1", "code_context": "secret",
         "metadata": {"problem_id": 3, "library": "Pandas", "perturbation_origin_id": 2}},
        Reference("DS-1000/3", "DS-1000", "Problem:\nDo it.", "result = 1", "", "Pandas/2"),
    ),
    "any other": (
        {"task_id": "x/0", "question": "p0", "test": "t", "meta": {"hint": 3}},
        Reference("place", "own", "p0"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_each_benchmark_is_read_in_its_own_format(name: str) -> None:
    row, expected = ROWS[name]
    assert list(read_reference(row, "place", "own")) == [expected]


def test_only_the_test_split_of_mbpp_is_banned() -> None:
    row = ROWS["MBPP"][0]
    kept = [id for id in (1, 10, 11, 510, 511, 601) if list(read_reference({**row, "task_id": id}, "p", "n"))]
    assert kept == [11, 510]


def test_references_come_from_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "a.jsonl"
    file.write_text(json.dumps({"question": "p0", "answers": ["a", 3]}) + "\n")
    (tmp_path / "readme.md").write_text("not data")
    place = f"file {file}, line 1"
    expected = [Reference(place, "a", "p0"), Reference(place, "a", "a")]
    assert list(load_references([str(tmp_path)])) == list(load_references([str(file)])) == expected
    with pytest.raises(UserError, match="no such file"):
        list(load_references([str(tmp_path / "none.jsonl")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data file"):
        list(load_references([str(tmp_path / "empty")]))


def test_rows_of_known_shapes_are_requests_and_answers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    talk = [{"from": "human", "value": "p"}, {"from": "gpt", "value": "s"}]
    rows = [{"question": "p", "answer": "s", "tools": [1]}, {"conversations": talk}, {"q": "p", "code": "s", "n": "f"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    found = list(load_references([str(file)]))
    places = [f"file {file}, line {number}" for number in (1, 2)]
    # tools cannot be expressed by a sample, so that row's texts are compared as they are
    assert found == [
        Reference(places[0], "a", "p"),
        Reference(places[0], "a", "s"),
        Reference(places[1], "a", "p", "s"),
    ]
    file.write_text(json.dumps(rows[2]))
    named = list(load_references([str(file)], "instruction=q,solution=code,entry_point=n"))
    assert named == [Reference(places[0], "a", "p", "s", "f")]
    with pytest.raises(UserError, match=r"decontaminate: .*line 1: column 'x' has no text; there are q, code, n"):
        list(load_references([str(file)], "instruction=x"))


def test_a_foreign_file_is_named_and_the_own_problems_are_no_benchmark(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "p"}))
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"question": "own"}))
    assert [item.prompt for item in load_references([str(tmp_path)], own=str(mine))] == ["p"]
    assert len(list(load_references([str(tmp_path)]))) == 2
    with pytest.raises(UserError, match=r"decontaminate: .*mine.jsonl is the source of the problems itself"):
        list(load_references([str(mine)], own=str(mine)))
    (tmp_path / "notes.json").write_text("these are no rows")
    with pytest.raises(UserError, match=r"decontaminate: file .*notes.json, line 1: not JSON .*; name its benchmark"):
        list(load_references([str(tmp_path)]))


@pytest.mark.slow
def test_real_benchmarks_are_found_in_their_other_editions_and_little_else(data: Path) -> None:
    mbpp = load_problems(str(data / "mbpp" / "mbpp.jsonl"), "mbpp")
    plus = list(load_references([str(data / "mbpp_plus")]))
    shared = {problem.id for problem in mbpp} & {reference.id.split("/")[1] for reference in plus}
    hit = {item.id for item in contaminated(mbpp, Detector(plus))}
    assert len(shared) == 108  # see MANIFEST.md; some of these prompts and solutions were rewritten
    assert len(hit & shared) >= 80
    java = list(load_references([str(data / "multipl_e" / "humaneval-java.jsonl")]))
    evals = list(load_references([str(data / "humaneval")]))
    renamed = [Problem(item.id, item.prompt, None, (), item.entry_point) for item in evals]
    assert len(contaminated(renamed, Detector(java))) >= 130  # of 158, whose prompts are worded for Java
    path = data / "instruct" / "leetcode" / "LeetCodeDataset-v0.2.0-train.jsonl.gz"
    leetcode = load_problems(str(path), "leetcode")
    found = contaminated(leetcode, Detector([*evals, *plus]))
    assert len([item for item in found if item.part != "request"]) <= 3  # matching any shared 10-gram reported 86
    # Checked by hand: each of them asks for the same task as its reference.
    told = {item.id: item.reference for item in found if item.part == "request"}
    assert told.items() >= {("string-to-url-lcci", "Mbpp/628"), ("valid-perfect-square", "Mbpp/803")}
    assert len(told) <= 5
    again = [
        dataclasses.replace(problem, solution=(problem.solution or "").replace(str(problem.entry_point), "renamed"),
                            entry_point="renamed")
        for problem in mbpp
    ]  # fmt: skip
    copied = {item.id for item in contaminated(mbpp, Detector(plus)) if item.part == "solution"}
    lost = copied - {item.id for item in contaminated(again, Detector(plus))}
    assert lost <= {"638"}  # in `wind_chill` a variable `windchill` counts as the name, too


SAME = (  # our own requests, worded as users would
    ("Calculate the Surface Area of a Cuboid.", "Write a function to find the surface area of a cuboid."),
    ("How would you reverse only the vowels of a string in Java?",
     "Write a python function to reverse only the vowels of a given string."),
    ("Create a Java method that computes the greatest common divisor (GCD) of two integers.",
     'def gcd(a: int, b: int) -> int:\n    """ Return a greatest common divisor of two integers a and b\n'),
    ("Returns the nth hexagonal number.", "Write a function to find the nth hexagonal number."),
    ("Converts an octal number to decimal", "Write a python function to convert octal number to decimal number."),
)  # fmt: skip
OTHER = (
    ("Convert a decimal number to octal.", "Write a python function to convert octal number to decimal number."),
    ("Calculate the volume of a cuboid.", "Write a function to find the surface area of a cuboid."),
    ("Write a Python function that takes a list of numbers and returns the result.",
     "Write a function to check whether the list of numbers is valid."),
    ("You walk along a row of houses with numbers. Find the nth hexagonal number of them.",
     "Write a function to find the nth hexagonal number."),
    ("Is the number prime?", "Write a function to check whether the number is prime."),
)  # fmt: skip


@pytest.mark.parametrize(("request_", "prompt"), [*SAME, *OTHER])
def test_a_short_request_in_other_words_is_found_and_another_task_is_not(request_: str, prompt: str) -> None:
    references = [Reference(str(k), "Bench", known) for k, (_, known) in enumerate([*SAME, *OTHER])]
    item = Detector(references).check("p", (request_, ""))
    if (request_, prompt) in SAME:
        assert item is not None
        assert (item.part, references[int(item.reference)].prompt) == ("request", prompt)
    else:
        assert item is None or references[int(item.reference)].prompt != prompt
    assert Detector(references, Thresholds(request=1.1)).check("p", (request_, "")) is None


def test_what_is_asked_for_is_read_past_code_and_in_one_form() -> None:
    assert asked("def f(x):\n    # Returns the largest words\n") == ("max", "word")
    assert asked("Lists of lists.\nCount the vowels in it!") == ("count", "vowel")
    assert asked("The weather was fine all day. Count the vowels in it!") == ()
    assert asked("\n" * 50_000 + "!" * 50_000) == ()
