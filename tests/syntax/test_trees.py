import ast
from pathlib import Path

import pytest
from places import ROOT

from reflectioncoder.syntax import trees

PACKAGE = sorted((ROOT / "reflectioncoder").rglob("*.py"))


@pytest.mark.parametrize("path", PACKAGE[::12], ids=lambda path: path.name)
def test_walk_is_that_of_ast_without_contexts(path: Path) -> None:
    code = path.read_text()
    tree = trees.parse(code)
    expected = [node for node in ast.walk(tree) if not isinstance(node, ast.expr_context)]
    assert trees.walk(tree) == expected
    assert [ast.dump(node) for node in trees.walk(trees.parse_cached(code))] == [ast.dump(node) for node in expected]
    assert trees.names_in(tree) == {node.id for node in expected if isinstance(node, ast.Name)}


def test_what_was_read_is_shared_and_what_was_parsed_is_not() -> None:
    assert trees.parse_cached("x = 1") is trees.parse_cached("x = 1")
    assert trees.parse("x = 1") is not trees.parse("x = 1")


def test_code_that_is_no_python_raises_each_time_without_gathering_a_traceback() -> None:
    raised = []
    for _ in range(3):
        with pytest.raises(SyntaxError, match="invalid syntax") as caught:
            trees.parse_cached("x = = 1")
        raised.append(caught.value)
    assert len({id(error) for error in raised}) == 3 and raised[0].lineno == 1
    with pytest.raises(SyntaxError):
        trees.parse("\0")
    with pytest.raises(SyntaxError):
        trees.parse_cached("(" * 5000)


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "a\n\nb", "a\r\nb\rc\n", "\n\na\r\n\r\n"])
def test_lines_are_those_of_splitlines_where_newlines_are_newlines(text: str):
    assert trees.lines_of(text) == text.splitlines()


def test_what_a_string_literal_may_hold_breaks_no_line():
    code = 'a = "\x0c\x85\u2028"\nb = 1\n'
    assert trees.lines_of(code) == ['a = "\x0c\x85\u2028"', "b = 1"]
