"""Tests in the formats that data sets have become single asserts, or there is a reason why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reflectioncoder.syntax.asserts import read_tests, split_tests

PYTEST = """
import math
import pytest
from solution import f, Stack

CASES = [(1, 2)]

def helper(x):
    return x

def test_plain():
    assert f(1) == 2
    assert f(2) == 3, "message"

def test_values_in_between():
    expected = [1, 2]
    result = f(3)
    assert result == expected

@pytest.mark.parametrize("x, want", [(4, 5), (5, 6)])
def test_cases(x, want):
    assert f(x) == want

def test_loop():
    for x, want in [(6, 7), (7, 8)]:
        assert f(x) == want

def test_raises():
    with pytest.raises(ValueError):
        f(-1)

def test_state():
    stack = Stack()
    stack.push(1)
    assert stack.pop() == 1

def test_fixture(tmp_path):
    assert f(tmp_path) == 1

def test_foreign():
    assert math.isclose(f(1), 2) and helper(f(2)) == 3

class TestMore:
    def test_in_class(self):
        assert f(8) == 9
"""
UNITTEST = """
import unittest

class T(unittest.TestCase):
    def setUp(self):
        self.s = Solution()
        self.used = Solution()

    def test_a(self):
        self.assertEqual(f(1), 2)
        self.assertTrue(g(1))
        self.assertFalse(g(2))
        self.assertIsNone(g(3), "message")
        self.assertIn(1, f(4))
        self.assertAlmostEqual(f(0.1), 0.3)
        self.assertIsInstance(f(1), int)
        self.assertEqual(self.s.twice(2), 4)
        with self.assertRaises(ValueError):
            f(-1)

    def test_b(self):
        self.used.add(1)
        self.assertEqual(self.used.sum(), 1)

    def test_c(self):
        for x in (1, 2):
            with self.subTest(x=x):
                self.assertLess(f(x), 9)

unittest.main()
"""


def test_asserts_of_pytest_functions_stand_alone() -> None:
    assert split_tests(PYTEST) == (
        "assert f(1) == 2",
        "assert f(2) == 3",
        "assert f(3) == [1, 2]",
        "assert f(4) == 5",
        "assert f(5) == 6",
        "assert f(6) == 7",
        "assert f(7) == 8",
        "assert f(8) == 9",
    )


def test_methods_of_unittest_become_asserts() -> None:
    assert split_tests(UNITTEST) == (
        "assert f(1) == 2",
        "assert g(1)",
        "assert not g(2)",
        "assert g(3) is None",
        "assert 1 in f(4)",
        "assert round(f(0.1) - 0.3, 7) == 0",
        "assert isinstance(f(1), int)",
        "assert Solution().twice(2) == 4",
        "assert f(1) < 9",
        "assert f(2) < 9",
    )


@pytest.mark.parametrize(
    "text", [json.dumps(["assert f(1) == 2", "assert f(2) == 3"]), "['assert f(1) == 2;assert f(2) == 3']"]
)
def test_a_list_in_a_text_is_read(text: str) -> None:
    assert split_tests(text) == ("assert f(1) == 2", "assert f(2) == 3")


def test_doctests_in_a_text_are_read() -> None:
    assert split_tests("Examples:\n\n    >>> f(1)\n    2\n    >>> f('a')\n    'b'\n") == (
        "assert f(1) == 2",
        "assert f('a') == 'b'",
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("print(f(1))", "print"),
        ("f(1)\nf(2)", "without an assert"),
        ('{"inputs": ["1"], "outputs": ["2"]}', "inputs and outputs"),
        ("def test_f(tmp_path):\n    assert f(tmp_path) == 1", "cannot stand alone"),
        ([["print(f(1))\n", "2\n"]], "no literal"),
        ("", ""),
        (None, ""),
        ([], ""),
    ],
)
def test_tests_that_cannot_be_used_have_a_reason(value: Any, why: str) -> None:
    found = read_tests(value)
    assert found.asserts == ()
    assert why in found.unread and bool(why) == bool(found.unread)
