"""Damaged files, and what a command must say to them: status 0, 1 or 2, one line, and no traceback."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

from reflectioncoder.cli.main import main

SEED = 20_261_130
HANGS = 60  # seconds that one command may take on a busy machine
DEEP = 20_000
RAW = [
    "9" * 5000,
    "[" * DEEP,
    '{"a":' * DEEP,
    "[" * 900 + "]" * 900,
    "1e999",
    "NaN",
    "-0",
    '"\\ud83d"',
    "nul",
    "'a'",
    "",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    "",
    " ",
    "\ud83d",
    "a\x00b",
    "\u2028",
    "x" * 3000,
    [],
    {},
    [[]],
    [1],
]
VALUES += [
    ["a", None],
    {"a": {"b": 1}},
    "/",
    "..",
    "../../etc/passwd",
    "%s",
    "{0}",
    ["assert f(1) == 2"],
    "a\nb",
    "\ufeff",
]


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def late(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {seconds} s, in {frame}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged_json(dice: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced, removed or repeated."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        how = dice.random()
        if how < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.2:
            return {**value, str(dice.choice(VALUES)): value[key]}
        return {**value, key: damaged_json(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.85:
        place = dice.randrange(len(value))
        how = dice.random()
        if how < 0.2:
            return value[:place] + value[place + 1 :]
        if how < 0.3:
            return [*value, value[place]]
        return [*value[:place], damaged_json(dice, value[place]), *value[place + 1 :]]
    return dice.choice(VALUES)


def damaged(dice: random.Random, data: bytes) -> bytes:
    """The bytes of a file with one or two faults."""
    for _ in range(dice.choice((1, 1, 2))):
        how = dice.random()
        lines = data.split(b"\n")
        at = dice.randrange(len(lines))
        if how < 0.55:  # one value in the JSON of a line, or of the whole file
            with suppress(ValueError, RecursionError):
                lines[at] = json.dumps(damaged_json(dice, json.loads(lines[at]))).encode()
                data = b"\n".join(lines)
                continue
            with suppress(ValueError, RecursionError):
                data = json.dumps(damaged_json(dice, json.loads(data)), indent=1).encode()
        elif how < 0.7:  # what is no JSON, or more than a parser takes
            line, raw = lines[at], dice.choice(RAW).encode()
            place = line.find(b":", dice.randrange(len(line) + 1)) + 1
            lines[at] = raw if dice.random() < 0.4 else line[:place] + raw + line[place:][dice.randrange(9) :]
            data = b"\n".join(lines)
        elif how < 0.8:
            data = data[: dice.randrange(len(data) + 1)]
        elif how < 0.95:
            place = dice.randrange(len(data) + 1)
            data = data[:place] + dice.randbytes(dice.randrange(1, 5)) + data[place + dice.randrange(4) :]
        else:
            heads = [
                b"",
                b"\x1f\x8b\x08",
                b"PAR1",
                b"\xff\xfe",
                b"\xef\xbb\xbf",
                b"[",
                b"{",
                b"\x00" * 9,
                b"PK\x03\x04",
            ]
            data = dice.choice(heads) + (data if dice.random() < 0.5 else b"")
    return data


def judge(line: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    with no_longer_than(HANGS):
        status = main(line)
    errors = capsys.readouterr().err
    assert status in (0, 1, 2), (line, status)
    assert "Traceback" not in errors, (line, errors)
    if status == 2:
        assert errors.split("\n")[-2].startswith("reflectioncoder "), (line, errors)
        assert len(errors) < 5000, (line, len(errors))
    return status
