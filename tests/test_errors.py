import pytest

from reflectioncoder.errors import UserError, first_line


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
