"""The interpreter: its output, its limits, and its behaviour when its own processes die.

`sandbox/test_hostile.py` tests containment, `sandbox/test_soak.py` tests that many runs leave nothing behind.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import attended
from sandboxes import BOXED, HERE, family, one, started

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter import interpreter as module
from reflectioncoder.interpreter.interpreter import Interpreter, Limits, describe_isolation


@pytest.fixture(scope="module", params=[*BOXED, "none"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param)


# --- output of a cell -----------------------------------------------------------------------------------------------

MULTIPLY_DIGITS = """\
def multiply_digits(n):
    \"\"\"Product of the digits.\"\"\"
    product = 1
    while n > 0:
        product *= n % 10
        n //= 10
    return product


# edge cases
assert multiply_digits(123) == 6
assert multiply_digits(7) == 7
assert multiply_digits(22) == 4
assert multiply_digits(999) == 9 * 9 * 9
assert multiply_digits(0) == 0
assert multiply_digits(10) == 1 * 0
"""

FIGURE_1 = """\
---------------------------------------------------------------------------
AssertionError                            Traceback (most recent call last)
Cell In[1], line 15
     13 assert multiply_digits(22) == 4
     14 assert multiply_digits(999) == 9 * 9 * 9
---> 15 assert multiply_digits(0) == 0
     16 assert multiply_digits(10) == 1 * 0

AssertionError: """


def test_failing_assert_reads_as_in_figure_1(anywhere: Interpreter) -> None:
    result = anywhere.run([MULTIPLY_DIGITS])[0]
    assert result.text == FIGURE_1
    assert (result.outcome, result.exception, result.message, result.line) == ("error", "AssertionError", "", 15)


def test_error_inside_a_function_shows_both_frames_and_gives_the_top_level_line(anywhere: Interpreter) -> None:
    result = one(anywhere, "def f(x):\n    return x['k']\n\nf({})")
    expected = [
        "-" * 75,
        "KeyError                                  Traceback (most recent call last)",
        "Cell In[1], line 4",
        "      1 def f(x):",
        "      2     return x['k']",
        "----> 4 f({})",
        "",
        "Cell In[1], line 2, in f(x)",
        "      1 def f(x):",
        "----> 2     return x['k']",
        "",
        "KeyError: 'k'",
    ]
    assert result.text.split("\n") == expected
    assert (result.line, result.exception, result.message) == (4, "KeyError", "'k'")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("'Test passed'", "'Test passed'"),
        ("print('Test passed')", "Test passed\n"),
        ("x = 3\nx * 2", "6"),
        ("x = 3", ""),
        ("None", ""),
        ("1;", ""),
        ("", ""),
        ("print('a', end='')\n2", "a\n2"),
        ("import sys\nprint('1')\nprint('2', file=sys.stderr)\nprint('3')", "1\n2\n3\n"),
        ("import os\nprint('1')\n_ = os.system('echo 2')\nprint('3')", "1\n2\n3\n"),
        ("{'b': [1, 2], 'a': {3}}", "{'b': [1, 2], 'a': {3}}"),
        ("[[1] * 30, [2] * 30]", f"[{[1] * 30},\n {[2] * 30}]".replace(", ", ",\n  ").replace("],\n  [", "],\n [")),
        ("'\\ud800'.encode('utf-8', 'surrogatepass')", r"b'\xed\xa0\x80'"),
        ("print('\\u00fc\\ud800')", "\u00fc\\ud800\n"),
        ("import asyncio\nawait asyncio.sleep(0)\n'awaited'", "'awaited'"),
    ],
)
def test_output_and_expression_values(anywhere: Interpreter, code: str, text: str) -> None:
    result = anywhere.run([code])[0]
    assert (result.text, result.outcome, result.ok) == (text, "ok", True)


def test_syntax_error_is_shown_without_a_stack(anywhere: Interpreter) -> None:
    result = one(anywhere, "print('never')\nx = (1 +")
    assert result.text == "  Cell In[1], line 2\n    x = (1 +\n            ^\nSyntaxError: incomplete input\n"
    assert (result.outcome, result.exception, result.message, result.line) == (
        "error", "SyntaxError", "incomplete input", 2,
    )  # fmt: skip


def test_system_exit_is_an_error_and_not_a_success(anywhere: Interpreter) -> None:
    result = one(anywhere, "import sys\nsys.exit(0)")
    assert (result.outcome, result.exception, result.line) == ("error", "SystemExit", 2)
    assert "An exception has occurred, use %tb to see the full traceback.\n\nSystemExit: 0" in result.text
    assert "UserWarning: To exit: use 'exit', 'quit', or Ctrl-D." in result.text


def test_cells_share_state_and_are_numbered_and_sessions_do_not(anywhere: Interpreter) -> None:
    results = anywhere.run(["x = 1", "1 / 0", "x += 1\nx", "x / 0"])
    assert [r.outcome for r in results] == ["ok", "error", "ok", "error"]
    assert results[2].text == "2"
    assert "Cell In[2], line 1\n" in results[1].text and "Cell In[4], line 1\n" in results[3].text
    assert one(anywhere, "x").exception == "NameError"


def test_session_keeps_state_between_calls(anywhere: Interpreter) -> None:
    with anywhere.session() as session, anywhere.session() as other:
        assert session.run("y = 5").ok and other.run("y = 6").ok
        assert (session.run("y").text, other.run("y").text) == ("5", "6")
    assert session.run("y").outcome == "killed"


def test_order_of_a_set_of_strings_is_the_same_in_every_run(anywhere: Interpreter) -> None:
    code = "print({'apple', 'pear', 'plum', 'fig', 'lime'}, hash('fig'))"
    with Interpreter(isolation="none") as fresh:
        assert one(anywhere, code).text == one(fresh, code).text != ""


@pytest.mark.parametrize("code", ["x = 1\0", "#" * 1_000_000, "'\ud800'", "(" * 5000])
def test_strange_source_is_a_typed_outcome(anywhere: Interpreter, code: str) -> None:
    assert anywhere.run([code])[0].outcome in ("ok", "error", "memory")
    assert one(anywhere, "1").text == "1"


# --- how a cell ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
def test_past_the_time_limit_is_a_timeout(anywhere: Interpreter, code: str) -> None:
    began = time.monotonic()
    result = one(anywhere, "print('begun')\n" + code, Limits(seconds=0.5))
    assert (result.outcome, result.text) == ("timeout", "begun\n")
    assert result.seconds >= 0.5 and time.monotonic() - began < 8


def test_later_cells_of_an_ended_session_say_so(anywhere: Interpreter) -> None:
    results = anywhere.run(["1", "while True: pass", "2"], Limits(seconds=0.5))
    assert [r.outcome for r in results] == ["ok", "timeout", "killed"]
    assert results[2].message is not None and "earlier cell" in results[2].message


def test_memory_limit_raises_memory_error(anywhere: Interpreter) -> None:
    result = one(anywhere, "x = 'a' * (10 ** 9)", Limits(memory_mb=200))
    assert (result.outcome, result.exception, result.line) == ("memory", "MemoryError", 1)
    assert "MemoryError" in result.text
    assert one(anywhere, "x = bytearray(100 * 2 ** 20)\nlen(x)", Limits(memory_mb=200)).text == "104857600"


def test_output_over_the_cap_is_cut_and_typed(anywhere: Interpreter) -> None:
    result = one(anywhere, "while True: print('abcdefghi')", Limits(output_chars=1000))
    assert (result.outcome, result.text) == ("output_limit", "abcdefghi\n" * 100)
    assert one(anywhere, "print('a' * 999)", Limits(output_chars=1000)).ok
    assert one(anywhere, "raise ValueError('x' * 50_000_000)").outcome == "output_limit"


def test_exception_whose_text_cannot_be_had_is_still_an_error(anywhere: Interpreter) -> None:
    code = "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Bad()"
    result = one(anywhere, code)
    assert (result.outcome, result.exception, result.line) == ("error", "Bad", 4)


# --- what a program cannot reach ------------------------------------------------------------------------------------


def test_secrets_of_the_owner_are_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2")
    with Interpreter(isolation="none") as plain:
        read = "try:\n    print(open('/proc/self/environ').read())\nexcept PermissionError:\n    pass"
        text = one(plain, f"import os\nprint(dict(os.environ))\n{read}").text
    assert "hunter2" not in text and "PYTHONHASHSEED" in text


# --- nothing is left behind -----------------------------------------------------------------------------------------


def test_daemonised_grandchildren_die_with_the_session(anywhere: Interpreter) -> None:
    before = len(family(os.getpid()))
    code = """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(0)
            os.wait()
        'left'
    """
    assert one(anywhere, code).text == "'left'"
    assert len(family(os.getpid())) == before


@pytest.mark.slow
def test_many_runs_leave_no_processes_and_no_descriptors(anywhere: Interpreter) -> None:
    cells = ["1", "1/0", "import os; os._exit(3)", "print('a' * 30_000)"]
    anywhere.run(cells[:1])
    before = (len(family(os.getpid())), len(os.listdir("/proc/self/fd")))
    for n in range(60):
        anywhere.run([cells[n % len(cells)]])
    assert (len(family(os.getpid())), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killing_the_owner_leaves_no_process(how: signal.Signals) -> None:
    code = textwrap.dedent("""
        from reflectioncoder.interpreter.interpreter import Interpreter, Limits
        with Interpreter(Limits(seconds=100), isolation={level!r}) as interpreter:
            print("up", flush=True)
            interpreter.run(["while True: pass"])
    """).format(level="auto" if HERE else "none")
    command = [sys.executable, "-c", code]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=attended)
    assert owner.stdout is not None and owner.stdout.readline() == b"up\n"
    time.sleep(0.5)
    children = family(owner.pid)
    assert len(children) >= 2
    owner.send_signal(how)
    owner.wait(10)
    owner.stdout.close()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_death_of_the_warm_process_is_our_fault_and_is_mended() -> None:
    with Interpreter(isolation="none") as interpreter:
        with interpreter.session() as session:
            assert session.run("1").ok
            interpreter._warm.process.kill()
            interpreter._warm.process.wait()
            assert session.run("import time; time.sleep(10)").outcome == "infrastructure"
        assert interpreter.run(["2"])[0].text == "2"


# --- levels and bad input -------------------------------------------------------------------------------------------


def test_level_is_reported() -> None:
    lines = describe_isolation()
    if HERE:
        with Interpreter() as interpreter:
            assert interpreter.isolation in ("full", "reduced")
            assert lines[0] == f"interpreter isolation: {interpreter.isolation}"
    assert len(lines) >= 2


def test_without_isolation_it_refuses_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._STRATEGIES, "auto", ())
    with pytest.raises(UserError, match="isolation='none'"):
        Interpreter()
    with Interpreter(isolation="none") as interpreter:
        assert interpreter.isolation == "none" and interpreter.run(["1"])[0].ok


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UserError, match="'total' is not one of auto, full, reduced, none"):
        Interpreter(isolation="total")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="seconds = 0"):
        Limits(seconds=0)
