"""Each filter accepts good sequences and rejects bad ones with a reason."""

from __future__ import annotations

import dataclasses

import pytest

from reflectioncoder.construct.filters.sequence import (
    FilterSettings,
    Rejected,
    apply_filters,
    final_code_fails,
    io_in_code,
)
from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message, reflection_dialogue
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.problem import Problem

PROBLEM = Problem("p1", "Write `double`.", "def double(x):\n    return 2 * x\n", ("assert double(2) == 4",), "double")
TRACE = (
    "AssertionError                            Traceback (most recent call last)\nCell In[1], line 4\nAssertionError: "
)
BAD = "def double(x):\n    return x\n\nassert double(2) == 4\n"
GOOD = "def double(x):\n    return 2 * x\n\nassert double(2) == 4\n"
FINAL = "def double(x):\n    return 2 * x"


def sequence(*rounds: tuple[str, str], final: str = FINAL) -> Dialogue:
    blocks: list[Block] = []
    for code, printed in rounds:
        blocks += [Block("text", "Next."), Block("code", code), Block("execution", printed)]
    return reflection_dialogue("Write and test `double`.", blocks, PROBLEM.instruction, final)


KEPT = sequence((BAD, TRACE), (GOOD, ""))


def reason(dialogue: Dialogue, settings: FilterSettings | None = None) -> str | None:
    rejected = apply_filters(dialogue, PROBLEM, settings)
    return rejected.reason if rejected else None


def test_a_good_sequence_passes_every_filter() -> None:
    assert apply_filters(KEPT, PROBLEM) is None


def test_a_rejection_says_who_why_and_where() -> None:
    code = "def double(x):\n    print(open('f').read())\n    return 2 * x\nassert double(2) == 4"
    found = apply_filters(sequence((BAD, TRACE), (code, "")), PROBLEM)
    assert found == Rejected("p1", "input_output", "`open` in line 2")


@pytest.mark.parametrize(
    "code",
    [
        "with open('x') as f: pass",
        "name = input('who? ')",
        "import json\njson.dump({}, f)",
        "from json import dump as d\nd({}, f)",
        "import os\nos.path.sep\nos.system('ls')",
        "import subprocess",
        "from urllib.request import urlopen",
        "import os.path as p, shutil",
        "x = list(map(open, names))",
        "!pip install numpy",
        "pip install numpy",
        "import io\nio.open('x')",
        "!ls",
        "x = !ls -l\nprint(x)",
        "files = 1\nfor f in range(2):\n    !touch $f",
        "%run other.py",
        "%%bash\necho hello",
        "%%writefile a.py\nx = 1",
        "%matplotlib inline\nwith open('x') as f: pass",
        "%timeit open('x')",
        "import sys\nfor line in sys.stdin:\n    print(line)",
        "from sys import stdin\nstdin.readline()",
        "import sys as s\ndata = s.stdin.read()",
        "sys.stdin.read()",
        "plt.savefig('x.png')",
        "figure.savefig('x.png')",
        "table.to_csv('x.csv')",
        "os.remove('x')",
        "get_ipython().system('ls')",
    ],
)
def test_input_and_output_are_found(code: str) -> None:
    assert io_in_code(code) is not None


@pytest.mark.parametrize(
    "code",
    [
        "x = 'open the file and dump it'",
        "# open(...)\nx = 1",
        "class Door:\n    def open(self):\n        self.state = 'open'\nDoor().open()",
        "def f(input):\n    return input + 1",
        "def dump(xs):\n    return xs\ndump([1])",
        "import json\njson.dumps({})",
        "items = [1]\nitems.remove(1)",
        "shop.open()",
        "door = {'open': 1}\ndoor['open']",
        "opened = is_open = 3\nreopen = opened",
        "import math\nmath.sqrt(2)",
        "%matplotlib inline\nx = 1",
        "%timeit sum(range(9))",
        "x = (7\n     % 3)",
        "import sys\nsys.stdout.write('x')\nsys.exit()",
        "class Figure:\n    def savefig(self):\n        return 1\nFigure().savefig()",
        "stdin = [1]\nqueue.stdin = stdin",
        "os = {}\nos.remove = 1",
    ],
)
def test_the_words_alone_do_not_count(code: str) -> None:
    assert io_in_code(code) is None


def test_the_list_of_names_is_configurable() -> None:
    settings = FilterSettings(io_names=("randint",), io_modules=())
    assert io_in_code("import random\nrandom.randint(1, 2)", settings) == "`random.randint` in line 2"
    assert io_in_code("open('x')\nimport subprocess", settings) is None


@pytest.mark.parametrize(
    "code", ["x = 'open the file'", "# pip\nx = 1", "shop.open()", "import json\njson.dump({}, f)"]
)
def test_plain_words_are_matched_where_asked_for(code: str) -> None:
    assert (io_in_code(code, FilterSettings(io_match="words")) or "").startswith("the word `")
    assert io_in_code("opened = reopen = dumps(1)", FilterSettings(io_match="words")) is None


def test_unresolved_single_and_too_many_rounds() -> None:
    assert reason(sequence((BAD, TRACE), (BAD, TRACE))) == "unresolved"
    assert reason(sequence((BAD, "SyntaxError: invalid syntax"))) == "unresolved"
    assert reason(sequence((GOOD, ""))) == "single_round"
    nine = sequence(*[(BAD, TRACE)] * 8, (GOOD, ""))
    assert reason(nine) == "unresolved"
    assert reason(nine, FilterSettings(max_rounds=9)) is None
    assert reason(sequence()) == "unresolved"


def test_final_code_must_be_there_and_define_the_entry_point() -> None:
    assert reason(sequence((BAD, TRACE), (GOOD, ""), final="def other(x):\n    return 2 * x")) == "no_final_code"
    assert reason(sequence((BAD, TRACE), (GOOD, ""), final="def double(x:")) == "no_final_code"
    bare = Dialogue((*KEPT.messages[:3], Message("assistant", (Block("text", "It is easy."),))), KEPT.type)
    assert reason(bare) == "no_final_code"
    assert reason(sequence((BAD, TRACE), (GOOD, ""), final="double = lambda x: 2 * x")) is None


def test_asserts_must_use_the_entry_point() -> None:
    idle = GOOD.replace("assert double(2) == 4", "assert 4 == 4")
    assert reason(sequence((BAD, TRACE), (idle, ""))) == "idle_asserts"
    assert reason(sequence((BAD, TRACE), (FINAL, ""))) == "idle_asserts"
    through = FINAL + "\n\nresult = double(2)\nhalf = result / 2\nassert half == 2"
    assert reason(sequence((BAD, TRACE), (through, ""))) is None


def test_final_answer_must_not_mention_the_rounds() -> None:
    told = FINAL.replace("return", "# in the previous version this was x\n    return")
    assert reason(sequence((BAD, TRACE), (GOOD, ""), final=told)) == "mentions_sequence"
    harmless = FINAL.replace("return", "# the previous number, doubled\n    return")
    assert reason(sequence((BAD, TRACE), (GOOD, ""), final=harmless)) is None


@pytest.mark.parametrize(
    "final",
    [
        'def double(x):\n    """Double x; the last error is in Traceback (most recent call last)."""\n    return 2 * x',
        "def double(x):\n    traceback = 'the assertion failed: AssertionError: bug fix'\n    return 2 * x",
        "def double(x):\n    # keep the first error and its traceback\n    return 2 * x",
    ],
)
def test_docstrings_literals_and_names_are_not_about_the_rounds(final: str) -> None:
    assert reason(sequence((BAD, TRACE), (GOOD, ""), final=final)) is None


@pytest.mark.parametrize("said", ["The traceback is gone.", "The first error is fixed.", "As shown above, it works."])
def test_prose_of_the_final_answer_must_not_mention_the_rounds(said: str) -> None:
    told = Message("assistant", (Block("text", f"{said}\n\n```python\n{FINAL}\n```"),))
    assert reason(Dialogue((*KEPT.messages[:3], told), KEPT.type)) == "mentions_sequence"


@pytest.mark.parametrize(
    "answer",
    [
        f"As shown above, it works: ```python\n{FINAL}\n```",  # on the line of the fence
        f"a\rb\rc\n\n```python\n{FINAL}\n```\nThe traceback is gone.",  # other line ends than those of the blocks
    ],
)
def test_all_prose_around_the_code_is_read(answer: str) -> None:
    told = Message("assistant", (Block("text", answer),))
    assert reason(Dialogue((*KEPT.messages[:3], told), KEPT.type)) == "mentions_sequence"


def test_fences_of_all_kinds_hold_the_final_code() -> None:
    told = Message("assistant", (Block("text", f"~~~python\n{FINAL}\n~~~"),))
    assert reason(Dialogue((*KEPT.messages[:3], told), KEPT.type)) is None


def test_comments_of_the_problems_own_solution_may_say_anything() -> None:
    told = FINAL.replace("return", "# see bugfix 17\n    return")
    dialogue = sequence((BAD, TRACE), (GOOD, ""), final=told)
    assert reason(dialogue) == "mentions_sequence"
    assert apply_filters(dialogue, dataclasses.replace(PROBLEM, solution=told)) is None


def test_length_is_limited() -> None:
    length = sum(len(block.content) for message in KEPT.messages for block in message.blocks)
    assert reason(KEPT, FilterSettings(max_chars=length)) is None
    assert reason(KEPT, FilterSettings(max_chars=length - 1)) == "too_long"


def test_final_code_is_run_with_the_problems_own_tests() -> None:
    with Interpreter() as interpreter:
        assert final_code_fails(KEPT, PROBLEM, interpreter) is None
        wrong = sequence((BAD, TRACE), (GOOD, ""), final="def double(x):\n    return x")
        assert (final_code_fails(wrong, PROBLEM, interpreter) or "").startswith("error: AssertionError")
        crash = sequence((BAD, TRACE), (GOOD, ""), final="def double(x):\n    return y")
        assert "name 'y' is not defined" in (final_code_fails(crash, PROBLEM, interpreter) or "")
