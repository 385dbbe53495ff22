"""The program in an answer, in every shape: the right one is found, at least as often as by evalplus's sanitiser."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections import Counter

import pytest
from answer_grammar import ADD, WRONG, composed, fenced, shapes
from hypothesis import given
from hypothesis import strategies as st
from places import DATA

from reflectioncoder.syntax.answers.program import Asked, Program, read_program
from reflectioncoder.syntax.answers.thoughts import thought_was_cut

# Of the shapes of each kind, how many evalplus 0.3.1's `sanitize` turns into a program whose `add` adds, measured with
# tree-sitter 0.25.2 (with 0.24.0 and tree-sitter-python 0.25.0 it raises "Incompatible Language version 15").
EVALPLUS = {
    "fences": 477, "programs": 110, "trials": 48, "unclosed": 12, "closing on the code's line": 0, "bare": 108,
    "indented code": 0, "tags": 138, "list item": 0, "quotation": 0, "thoughts": 205, "draft and correction": 0,
    "wrong code later": 6, "several blocks": 0, "usage first": 4, "output first": 20, "console": 4,
    "fence inside the code": 63, "quoted as Markdown": 2, "odd characters": 2, "notebook": 1,
    "language on its own line": 1, "inline code": 0, "JSON": 0, "odd shapes": 56,
}  # fmt: skip


def adds(code: str) -> bool:
    """Whether a program runs, reads nothing, and has an `add` that adds."""
    names: dict[str, object] = {"__name__": "answer"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, "answer", "exec"), names)
            return names["add"](1, 2) == 3 and names["add"](5, 7) == 12  # type: ignore[operator]
    except (Exception, SystemExit):
        return False


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def program(text: str, name: str = "add", **asked: object) -> Program:
    return read_program(text, Asked(name=name, **asked))  # type: ignore[arg-type]


def test_the_right_program_is_found_in_every_shape() -> None:
    failed = [f"{kind}: {name}" for kind, name, text in shapes() if not adds(program(text).code)]
    assert failed == []


def test_the_right_program_is_found_in_random_compositions() -> None:
    assert [(name, text) for name, text in composed(600) if not adds(program(text).code)] == []


def test_evalplus_finds_no_more_in_any_kind() -> None:
    every, ours = Counter(kind for kind, _, _ in shapes()), Counter[str]()
    for kind, _, text in shapes():
        ours[kind] += adds(program(text).code)
    assert sum(every.values()) >= 300 and set(every) == set(EVALPLUS)
    assert {kind: found for kind, found in EVALPLUS.items() if found > ours[kind]} == {}


@pytest.mark.slow
def test_evalplus_finds_what_is_written_down_here() -> None:
    sanitize = pytest.importorskip("evalplus.sanitize").sanitize
    try:
        sanitize(ADD, "add")
    except ValueError as error:
        pytest.skip(f"evalplus's sanitiser does not run here: {error}")
    theirs = Counter[str]()
    for kind, _, text in shapes():
        theirs[kind] += adds(sanitize(text, "add"))
    assert dict(theirs) == {kind: EVALPLUS[kind] for kind in theirs}


# the two of the published shapes whose answer holds no whole program
BODY, CUT = "body only in fence", "think unclosed"


def test_the_published_shapes_are_read(published_shapes: dict[str, str]) -> None:
    failed = [name for name, text in published_shapes.items() if not adds(program(text).code)]
    assert set(failed) == {BODY, CUT} and len(published_shapes) == 52
    assert program(published_shapes[BODY]).code == "    return a + b\n"
    cut = program(published_shapes[CUT])
    assert (cut.code, cut.cut) == ("", True) and thought_was_cut(published_shapes[CUT])


@pytest.fixture
def published_shapes() -> dict[str, str]:
    """The shapes of issue 13; skipped where the project's shared folder is absent."""
    path = DATA.parent / "cases" / "answer_shapes.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.", "Sorry.", "Done", "The answer is 3", "To add, return a + b.\n\nThat is all.",
        "Output: 3\n", "Here is the output:\n```text\nadd 1 2\n```", "```\nSome words of prose.\n```", "", "```",
        "<think>\ndef add(a, b):\n    return a", "if you like, I can explain it", "For example, with 1 and 2 it is 3.",
        "import nothing, just add the numbers", "```json\n{\"a\": 1}\n```", "```bash\npip install add\n```",
    ],
)  # fmt: skip
def test_prose_is_never_taken_for_a_program(text: str) -> None:
    assert program(text).code == "" and read_program(text, Asked()).code == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            f"Sure:\n```python\n{ADD[:-3]}",
            ADD[:-3].rstrip() + "\n",
        ),  # a whole line may be missing, but this much is there
        ("```python\ndef add(a, b):\n    return (a +", "def add(a, b):\n    return (a +\n"),
        (f"```python\n{ADD}\n\nprint(add(1,", ADD + "\n"),
        (f"```python\n{ADD}\n\n@lru", ADD + "\n"),
        (f"{fenced(ADD)}\n<think>was it", ADD + "\n"),
    ],
)
def test_code_that_was_cut_off_stays_as_it_is_but_for_another_statement(text: str, code: str) -> None:
    assert program(text).code == code


def test_two_definitions_are_rivals_unless_the_words_between_choose() -> None:
    assert program(f"{fenced(ADD)}\nor\n{fenced(WRONG)}").rivals
    assert not program(f"{fenced(WRONG)}\nThat is wrong. Corrected:\n{fenced(ADD)}").rivals
    assert not program(f"{fenced(ADD)}\nAgain:\n{fenced(ADD)}").rivals


def test_trials_stay_where_they_are_wanted() -> None:
    text = fenced(ADD + "\n\nassert add(1, 2) == 3")
    assert program(text).code == ADD + "\n"
    assert program(text, trials=True).code == ADD + "\n\nassert add(1, 2) == 3\n"


def test_settings_of_the_recursion_limit_are_no_trial() -> None:
    code = f"import sys\n\n{ADD}\n\nsys.setrecursionlimit(5000)\nadd = staticmethod(add)"
    assert program(fenced(code)).code == code + "\n"


@pytest.mark.parametrize("language", ["java", "js", "javascript", "ts", "c++", "cpp", "C#", "cs", "rs", "php", "sh"])
def test_other_languages_are_found_under_their_other_names(language: str) -> None:
    ours = {"js": "javascript", "ts": "typescript", "c++": "cpp", "C#": "csharp", "cs": "csharp", "rs": "rust"}
    head = {
        "java": "static int add(int a, int b) {", "javascript": "function add(a, b) {",
        "typescript": "function add(a: number, b: number): number {", "cpp": "int add(int a, int b) {",
        "csharp": "static int Add(int a, int b) {", "rust": "fn add(a: i32, b: i32) -> i32 {",
        "php": "function add($a, $b) {", "sh": "add() {",
    }[ours.get(language, language)]  # fmt: skip
    name = "Add" if "Add" in head else "add"
    right, wrong = f"{head}\n    right;\n}}", f"{head}\n    wrong;\n}}"
    asked = Asked(ours.get(language, language), name)
    for text in (
        f"In Python:\n{fenced(ADD)}\nNow:\n```{language}\n{right}\n```\nDone.",
        f"```{language}\n{wrong}\n```\nOops, corrected:\n```{language}\n{right}\n```",
        f"Use:\n```{language}\n{name}(1, 2);\n```\nCode:\n```{language}\n{right}\n```",
        f"<think>\n```{language}\n{wrong}\n```\n</think>\n```{language}\n{right}\n```",
        f"````{language}\n{right}\n````", f"~~~ {language}\n{right}\n~~~", f"Here: ```{language}\n{right}\n```",
        right, f"{right}\n```\nIt adds.", f"Here is the function.\nIt adds:\n\n{right}",
    ):  # fmt: skip
        assert read_program(text, asked).code == right + "\n", text


@given(st.text(alphabet="`~ \n'\"#<>/:{}()abdef=thinkpyor\r\f\u2028", max_size=120), st.booleans())
def test_any_text_can_be_read(text: str, opened: bool) -> None:
    for name in ("", "f"):
        code = read_program(text, Asked(name=name, opened=opened)).code
        assert code == "" or code.endswith("\n")


@pytest.mark.parametrize(
    "piece", ["```\n", "```python\n", "<think>\n", "</think>\n", "def f(\n", "{", "'''python\n", "> "]
)
def test_a_long_answer_of_one_piece_is_read_in_time(piece: str) -> None:
    started = time.process_time()
    read_program(piece * (10_000 // len(piece)), Asked(name="f"))
    read_program(piece * (10_000 // len(piece)), Asked("java", "f"))
    assert time.process_time() - started < 5
