"""A command whose reader has gone ends silently; a build without sequences says what to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reflectioncoder.cli.main import NO_READER, main
from reflectioncoder.construct.advice import REMEDIES, advise

PROGRAM = [sys.executable, "-m", "reflectioncoder"]


def unread(words: list[str], tmp_path: Path, errors_too: bool = False) -> tuple[int, bytes]:
    """Run a command whose standard output nobody reads; its status and what it wrote to standard error."""
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT if errors_too else file, cwd=tmp_path
        )
        assert process.stdout is not None
        process.stdout.close()
        return process.wait(60), errors.read_bytes()


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["evaluate", "--help"], ["train", "--print-config"], ["completion", "bash"]],
)
def test_a_command_without_a_reader_ends_silently(words: list[str], tmp_path: Path) -> None:
    status, errors = unread(words, tmp_path)
    assert errors == b""
    assert status in (0, NO_READER)


def test_an_error_without_a_reader_ends_silently_too(tmp_path: Path) -> None:
    assert unread(["trian"], tmp_path, errors_too=True) == (NO_READER, b"")


@pytest.mark.slow
def test_a_build_without_a_reader_ends_silently_and_resumes(tmp_path: Path) -> None:
    words = ["build", "--count", "2", "--workers", "1", "--output", "b"]
    status, errors = unread(words, tmp_path)
    assert (status, errors) == (NO_READER, b"")
    assert subprocess.run([*PROGRAM, *words], cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    assert len((tmp_path / "b" / "sequences.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_output_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"reflectioncoder: output: No space left on device\n"


ROW = {"text": "Write `f`.", "code": "def f(n):\n    return n + 1\n", "test_list": ["assert f(1) == 2"]}


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        (ROW, "instruction=text,tests=test_list", "--fields solution=COLUMN.*the columns are text, code, test_list"),
        (ROW, "instruction=text,solution=code", "no tests 2.*--fields tests=COLUMN"),
        ({**ROW, "test_list": ["assert f(1) == 3"]}, "instruction=text,solution=code,tests=test_list", "its tests 2"),
        ({**ROW, "test_list": "print(f(1))"}, "instruction=text,solution=code,tests=test_list", "tests not read 2"),
    ],
)
def test_a_build_without_sequences_has_status_1_and_says_what_to_do(
    row: dict, fields: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    words = ["--problems", str(tmp_path / "p.jsonl"), "--fields", fields, "--output", str(tmp_path / "b")]
    for _ in range(2):  # the second time there is nothing to do
        assert main(["build", *words, "--workers", "1"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("reflectioncoder build: no sequence was made from 2 problems (")
        assert re.search(message, line)


def test_advice_names_the_reasons_by_their_size() -> None:
    assert advise({"problems": 3, "sequences": 1}) == ""
    assert advise({"problems": 0, "sequences": 0}) == "no sequence was made: there are no problems"
    said = advise({"skipped_rows": 9, "problems": 6, "other": 1, "no_tests": 5, "sequences": 0})
    assert said == f"no sequence was made from 6 problems (no tests 5, other 1): {REMEDIES['no_tests']}"
    assert "internal error 2): this is an error of the program" in advise({"problems": 2, "internal_error": 2})
    assert "rerun to continue" in advise({"problems": 2, "unfinished": 2, "sequences": 0})
