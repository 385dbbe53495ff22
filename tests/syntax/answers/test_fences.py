"""A text is split into the code of its fenced blocks and its prose, and nothing is lost or counted twice."""

from __future__ import annotations

import pytest
from answer_grammar import composed, shapes
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.syntax.answers.fences import fenced_blocks, prose_of, split_fenced

TEXTS = [text for _, _, text in shapes()] + [text for _, text in composed(100)]


def test_the_pieces_of_every_shape_are_its_text() -> None:
    for text in TEXTS:
        pieces = split_fenced(text)
        assert "".join(piece for piece, _ in pieces) == text
        assert all(piece.strip("\n") == block.code for piece, block in pieces if block is not None)


@given(st.text(alphabet="`~ \n\r>-'\"ab:", max_size=80))
def test_the_pieces_of_any_text_are_its_text(text: str) -> None:
    assert "".join(piece for piece, _ in split_fenced(text)) == text


@pytest.mark.parametrize(
    ("text", "codes", "prose"),
    [
        ("a\n```python\nx\n```\nb", ["x\n"], "a\n\nb"),
        ("a\n```\n```\nb", [""], "a\n\nb"),
        ("a: ```python\nx\n```", ["x\n"], "a:"),
        ("1. ```python\n   x\n   ```\nb", [], "\nb"),  # code of a list item is indented, so it is no piece
        ("```python\nx", [], ""),
        ("a", [], "a"),
        ("", [], ""),
    ],
)
def test_code_and_prose(text: str, codes: list[str], prose: str) -> None:
    assert [piece for piece, block in split_fenced(text) if block is not None] == codes
    assert prose_of(text, fenced_blocks(text)) == prose
