"""An assert counts if the value it checks comes from a call of the function, directly or indirectly."""

from __future__ import annotations

import pytest

from reflectioncoder.syntax.asserted import exercised
from reflectioncoder.syntax.trees import parse

F = "def f(x):\n    return 2 * x\n"


def calls(code: str, entry_point: str | None = "f", earlier: str = "") -> bool:
    tree = parse(code)
    return exercised(tree, [tree, parse(earlier)], entry_point)


@pytest.mark.parametrize("entry_point", ["f", None])
@pytest.mark.parametrize(
    "code",
    [
        "assert f(1) == 2",
        "y = f(1)\nassert y == 2",
        "y: int = f(1)\nz = y + 1\nassert z == 3",
        "total = 0\ntotal += f(1)\nassert total",
        "assert (y := f(1)) == 2",
        "for got, want in zip(map(f, [1]), [2]):\n    assert got == want",
        "for x, want in [(1, 2)]:\n    assert f(x) == want, x",
        "assert all(f(x) == 2 * x for x in range(3))",
        "assert list(map(f, [1])) == [2]",
        "g = f\nassert g(1) == 2",
        "from functools import partial\ng = partial(f, 1)\nassert g() == 2",
        "def test():\n    assert f(1) == 2\ntest()",
        "def run(x):\n    return f(x)\nassert run(1) == 2",
        "def check(function):\n    assert function(1) == 2\nassert check(f) is None",
        "with suppress(ValueError):\n    y = f(1)\nassert y",
        "for function in (f, f):\n    assert f(1)",
    ],
)
def test_calls_are_followed(code: str, entry_point: str | None) -> None:
    assert calls(F + code, entry_point)


@pytest.mark.parametrize("entry_point", ["f", None])
@pytest.mark.parametrize(
    "code",
    [
        "assert True",
        "assert 4 == 4",
        "f(1)\nassert 2 * 1 == 2",
        "assert callable(f)",
        "assert f is not None",
        "assert isinstance(f, object)",
        "x = 2\nassert x == 2",
    ],
)
def test_idle_asserts(code: str, entry_point: str | None) -> None:
    assert not calls(F + code, entry_point)


def test_an_assert_inside_a_function_does_not_test_that_function() -> None:
    code = "def f(x):\n    assert isinstance(x, int)\n    assert f(0) == 0 or x\n    return x\nf(3)"
    assert not calls(code)
    assert not calls(code, None)
    assert calls(code + "\nassert f(1) == 1")


def test_classes_and_cells_before() -> None:
    code = "class Solution:\n    def two(self, x):\n        return x\n"
    assert calls(code + "s = Solution()\nr = s.two(1)\nassert r == 1", "Solution")
    assert calls(code + "assert Solution().two(1) == 1", None)
    assert calls("assert f(1) == 2", None, F)
    assert not calls("assert g == 2", None, F)
