import importlib
import pickle
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import reflectioncoder
from reflectioncoder.clients.budget import BudgetError, Usage
from reflectioncoder.errors import UserError, first_line

# Constructor arguments of exceptions that take more than a message.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "SamplerError": ("rate_limited", "slow down", Usage(1, 2, 3), 4.0, True),
    "OtherSettingsError": (Path("ledger.sqlite"), {"seed": 0}, {"seed": 1, "count": 2}),
    "_Refused": (SyntaxError("invalid syntax"), True),
}


def ours() -> list[type[BaseException]]:
    """Every exception class of the package."""
    found: dict[type[BaseException], None] = {}
    for module in pkgutil.walk_packages(reflectioncoder.__path__, "reflectioncoder."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, BaseException):
                    found[value] = None
    return [error for error in found if error.__module__.startswith("reflectioncoder.")]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no such file"), "no such file"),
        (RuntimeError("CUDA out of memory\nTried to allocate 2 GiB"), "CUDA out of memory"),
        (RuntimeError("\n\n  late to speak\nmore"), "late to speak"),
        (MemoryError(), "MemoryError"),
        (OSError(), "OSError"),
        (UserError("\n \r\n"), "UserError"),
        (KeyError("lm_head"), "'lm_head'"),
        ("", ""),
        ("\n\n", ""),
        (" first\nsecond", "first"),
    ],
)
def test_the_first_line_of_an_error_is_what_a_message_of_one_line_can_hold(error: BaseException | str, line: str):
    assert first_line(error) == line


def test_every_exception_survives_the_way_to_another_process():
    classes = ours()
    assert {"UserError", "SamplerError", "BudgetError", "OtherSettingsError"} <= {error.__name__ for error in classes}
    for error in classes:
        made = error(*ARGUMENTS.get(error.__name__, ("why",)))
        back = pickle.loads(pickle.dumps(made))
        assert type(back) is error
        # A nested exception equals only itself, so the texts are compared.
        assert (str(back), repr(back.args), repr(vars(back))) == (str(made), repr(made.args), repr(vars(made)))


def test_a_budget_that_is_spent_keeps_what_it_was_spent_on():
    error = BudgetError("the budget of 3 requests is spent")
    error.usage = Usage(3, 40, 5)
    assert pickle.loads(pickle.dumps(error)).usage == Usage(3, 40, 5)


def test_a_message_that_names_odd_characters_is_one_line_that_can_be_printed() -> None:
    assert str(UserError("row 3: field \ud83d is unknown")) == "row 3: field ? is unknown"
    assert str(UserError("block type 'a\nb\x1b[2J\u2028'")) == r"block type 'a\nb\x1b[2J\u2028'"
    assert str(pickle.loads(pickle.dumps(UserError("\udfff: é")))) == "?: é"


def test_a_long_message_loses_its_middle() -> None:
    message = str(UserError(f"file {'9' * 5000}: File name too long"))
    assert len(message) <= 1500 and message.startswith("file 99") and message.endswith("99: File name too long")
    assert "9...9" in message
    assert str(UserError("x" * 1500)) == "x" * 1500
