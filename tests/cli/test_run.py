"""`reflectioncoder run`, and the interpreter pool for asynchronous code."""

import asyncio
import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from reflectioncoder.cli.main import main
from reflectioncoder.construct.engines.interpreters import InterpreterPool
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Limits


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["run", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_text_and_status_of_a_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("print('hello')\n1 + 1")
    bad.write_text("x = 1\nassert x == 2, 'no'")
    assert run(capsys, str(good)) == (0, "hello\n2\n", "")
    status, out, err = run(capsys, str(bad))
    assert status == 1 and "----> 2 assert x == 2, 'no'" in out and err == ""


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = bytearray(100 * 2 ** 20)\n1 / 0")
    status, out, _ = run(capsys, str(file), "--json")
    facts = json.loads(out)
    assert list(facts) == ["status", "output", "exception", "line", "seconds", "peak_mb", "isolation"]
    assert (status, facts["status"], facts["exception"], facts["line"]) == (1, "error", "ZeroDivisionError", 2)
    assert 100 <= facts["peak_mb"] <= 130 and facts["isolation"] in ("full", "reduced")


def test_cells_and_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program = b"# %% first\nx = 2\nx\n# %%\nx * 3\n# %%\nundefined\n# %%\nprint('never')"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(program)))
    status, out, _ = run(capsys, "-", "--cells")
    assert status == 1 and out.startswith("2\n6\n---") and "Cell In[3]" in out and "never" not in out


def test_limits_and_their_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text("import time\nprint('begun')\ntime.sleep(60)")
    began = time.monotonic()
    assert run(capsys, str(file), "--timeout", "0.5") == (1, "begun\n", "reflectioncoder run: timeout: over 0.5 s\n")
    assert time.monotonic() - began < 20
    file.write_text("x = bytearray(300 * 2 ** 20)")
    assert json.loads(run(capsys, str(file), "--memory=100", "--json")[1])["status"] == "memory"


@pytest.mark.parametrize(
    ("data", "status", "exception"),
    [
        (b"", "ok", None),
        (b"x = 1\0", "error", "SyntaxError"),
        (b"x = 1\ny = '\xff'", "error", "SyntaxError"),
        (b"#" * 1_000_000, "ok", None),
        (b"x = " + b"(" * 5000, "error", "SyntaxError"),
    ],
)
def test_strange_files_are_typed_outcomes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: bytes, status: str, exception: str | None
) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(data)
    facts = json.loads(run(capsys, str(file), "--json")[1])
    assert (facts["status"], facts["exception"]) == (status, exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch.py"], "nosuch.py: No such file or directory"),
        (["a.py", "b.py"], "is one word too many; usage: reflectioncoder run FILE [--KEY VALUE ...]"),
        (["a.py", "--tmeout", "3"], "flag --tmeout: unknown key 'tmeout'; perhaps you meant --timeout"),
        (["a.py", "--timeout"], "flag --timeout needs a value"),
        (["a.py", "--timeout", "soon"], "flag --timeout: expected float, found 'soon'"),
        (["a.py", "--timeout", "-1"], "seconds = -1.0: give a number above 0"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_isolation_none_must_be_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("1")
    assert json.loads(run(capsys, str(file), "--json", "--isolation", "none")[1])["isolation"] == "none"


# --- the pool -------------------------------------------------------------------------------------------------------


def test_a_pool_runs_programs_at_once_and_keeps_order() -> None:
    async def many() -> list[str]:
        async with InterpreterPool(2, Limits(seconds=20)) as pool:
            results = await asyncio.gather(*(pool.run(f"{n} * 2") for n in range(20)))
            lists = await pool.run(["x = 1", "x + 1"])
            return [result.text for result in (*results, *lists)]

    assert asyncio.run(many()) == [*(str(2 * n) for n in range(20)), "", "2"]


def test_a_cancelled_program_gives_its_interpreter_back() -> None:
    async def cancel() -> str:
        async with InterpreterPool(1, Limits(seconds=1)) as pool:
            task = asyncio.create_task(pool.run("while True: pass"))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await pool.run("'free'")).text

    assert asyncio.run(cancel()) == "'free'"


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(UserError, match="size = 0"):
        InterpreterPool(0)
