"""The code in a model's output: continuations are never cut inside a statement, and cut thoughts are no answers."""

# ruff: noqa: E501 (answers on one line each read better)
from __future__ import annotations

import pytest

from reflectioncoder.generate.completions import Completion, code_of, continued
from reflectioncoder.tasks.base import Prompt
from reflectioncoder.tasks.evalplus.task import CONTINUATION_STOPS

HEAD = 'from typing import List\n\n\ndef add(a, b):\n    """Add two numbers.\n    """\n'
BODY = "    return a + b\n"


@pytest.mark.parametrize(
    "more",
    [
        "", "\ndef other():\n    pass\n", "\n\nclass Other:", "\nif __name__ == '__main__':\n    add(1,", "\n#", "\n```\nDone.",
        "\n@lru_cache(maxsize=None)\ndef other():\n    return", "\n@decorated\n@twice\n", "\n@decorated", "\nif x:",
        "\nif x:\n    print(1)\nelse:\n", "\nfor i in range(3):\n", "\nwhile True:\n\n", "\nwith open(x) as f:\n", "\ntry:\n    x = 1\n",
        "\nx = [1,\n     2", "\nx = (1 +", '\n"""An unfinished text', "\nThis function adds two numbers.\n", "\nThe end",
        "\nreturn a\n", "\nasync def f():\n", "\n@decorated\n\n# about it\ndef f(", "\nfrom x import (", "\nprint(add(1, 2))\n",
    ],
)  # fmt: skip
def test_what_a_base_model_adds_is_cut_off_between_statements(more: str) -> None:
    assert continued(BODY + more, HEAD, CONTINUATION_STOPS) == BODY
    assert continued((BODY + more).replace("\n", "\r\n"), HEAD, CONTINUATION_STOPS) == BODY


def test_a_stop_inside_a_literal_ends_nothing() -> None:
    body = '    return """\n# a heading\nprint(1)\n\ndef f(): pass\n"""\n'
    assert continued(body + "\n# next\nx = 1\n", HEAD, CONTINUATION_STOPS) == body
    body = "    '''\x0c\u2028\x85'''\n    return a + b\n"
    assert continued(body + "\nif x:", HEAD, CONTINUATION_STOPS) == body


def test_statements_that_are_whole_stay() -> None:
    code = f"{BODY}\nEND = 3\n"
    assert continued(code + "\n@x", HEAD, CONTINUATION_STOPS) == code


@pytest.mark.parametrize("body", ["    return (a +\n", "    if a:\n", "    retrun a b\n", "    x = [\n    1,\n"])
def test_a_body_with_an_error_stays_as_it_is(body: str) -> None:
    """The error is the model's; a part of the body that happens to parse would be another program."""
    assert continued(body, HEAD, CONTINUATION_STOPS) == body
    assert continued(f"{body}\n# next\n", HEAD, CONTINUATION_STOPS) == body


def test_the_code_of_another_language_ends_at_its_first_stop() -> None:
    assert continued("    return 1;\n}\nint x", "int f() {\n", ("\n}",), python=False) == "    return 1;\n"


def test_the_form_of_the_output_decides_how_it_is_read() -> None:
    prompt = Prompt("t", "Write add.", HEAD, CONTINUATION_STOPS, function="add")
    assert code_of(f"{BODY}\n@x", prompt, "continuation") == BODY
    assert code_of(f"{BODY}```\nDone.", prompt, "block") == BODY
    answer = f"It is:\n```python\n{HEAD}{BODY}```\nDone."
    assert code_of(answer, prompt, "chat") == code_of(answer, prompt, "block") == HEAD + BODY
    opens = Prompt("t", "Write add.", "Write add.\n\n```python\n", function="add")
    assert code_of(f"{HEAD}{BODY}```\nDone.", opens, "continuation") == HEAD + BODY


def test_a_thought_that_was_cut_is_a_truncated_answer() -> None:
    raw = f"<think>\nMaybe\n```python\n{HEAD}{BODY}```\n"
    code = code_of(raw, Prompt("t", "", "", function="add"), "chat")
    assert code == ""
    assert all(Completion("t", 0, code, raw, finish=finish).truncated for finish in ("length", "end", "stop", ""))
    whole = Completion("t", 0, BODY, f"<think>x</think>{BODY}", finish="end")
    assert not whole.truncated and not Completion("t", 0, "", "I cannot.", finish="end").truncated
    custom = code_of(
        f"<plan>\n{HEAD}{BODY}</plan>\nNo code.", Prompt("t", "", "", function="add"), "chat", ["<plan> </plan>"]
    )
    assert custom == ""
