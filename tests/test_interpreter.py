"""The interpreter: what it prints, how it ends programs, and what programs cannot reach."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflectioncoder import interpreter as module
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter import CellResult, Interpreter, Limits, describe_isolation


def strategies_here() -> list[str]:
    """The ways of isolating that this machine allows, found by trying."""
    found = []
    for strategy in ("root", "user"):
        try:
            module._WarmProcess(strategy).stop()
            found.append(strategy)
        except module._InfrastructureError:
            pass
    return found


HERE = strategies_here()
BOXED = [
    pytest.param(s, marks=[] if s in HERE else pytest.mark.skip(reason=f"strategy {s!r} is not possible here"))
    for s in ("root", "user")
]


@pytest.fixture(scope="module", params=[*BOXED, "none"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param)


@pytest.fixture(scope="module", params=BOXED)
def boxed(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param)


def started(strategy: str) -> Iterator[Interpreter]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module._STRATEGIES, "none" if strategy == "none" else "auto", (strategy,))
        with Interpreter(Limits(seconds=20), isolation="none" if strategy == "none" else "auto") as interpreter:
            yield interpreter


def one(interpreter: Interpreter, code: str, limits: Limits | None = None) -> CellResult:
    return interpreter.run([textwrap.dedent(code)], limits)[0]


# --- what a cell prints ---------------------------------------------------------------------------------------------

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

SWALLOW = """
    import signal
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
SLOW_FAREWELL = """
    import time
    class Slow:
        def __del__(self):
            time.sleep(60)
    Slow()
    1
"""


IN_C = "2 ** (10 ** 10) % 7"


@pytest.mark.parametrize("code", ["while True: pass", SWALLOW, SLOW_FAREWELL, IN_C, "import time; time.sleep(60)"])
def test_past_the_time_limit_is_a_timeout(anywhere: Interpreter, code: str) -> None:
    began = time.monotonic()
    result = one(anywhere, "print('begun')\n" + textwrap.dedent(code), Limits(seconds=0.5))
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


def test_memory_of_many_processes_together_is_capped(boxed: Interpreter) -> None:
    if not boxed.layers["memory control group"]:
        pytest.skip("no memory control group can be made here")
    code = """
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                block = bytearray(90 * 2 ** 20)
                time.sleep(30)
        block = bytearray(90 * 2 ** 20)
        time.sleep(30)
    """
    result = one(boxed, code, Limits(seconds=3, memory_mb=100))
    assert result.outcome in ("memory", "timeout")  # whom the kernel picks decides; nobody got 2 GB
    assert one(boxed, "1").text == "1"


def test_output_over_the_cap_is_cut_and_typed(anywhere: Interpreter) -> None:
    result = one(anywhere, "while True: print('abcdefghi')", Limits(output_chars=1000))
    assert (result.outcome, result.text) == ("output_limit", "abcdefghi\n" * 100)
    assert one(anywhere, "print('a' * 999)", Limits(output_chars=1000)).ok
    assert one(anywhere, "raise ValueError('x' * 50_000_000)").outcome == "output_limit"


def test_output_that_is_not_utf8_is_replaced(anywhere: Interpreter) -> None:
    assert one(anywhere, "import os\n_ = os.write(1, b'a\\xffb\\n')").text == "a\ufffdb\n"


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.closerange(0, 1000)",
        "import os\nfor fd in range(3, 1000):\n    try: os.write(fd, b'ok' * 40)\n    except OSError: pass",
        "import os\nfor fd in range(3, 1000):\n    try: os.write(fd, bytes(40))\n    except OSError: pass\nos._exit(0)",
        "import os\nif os.fork() == 0:\n    import time; time.sleep(60)\nos._exit(0)",
    ],
)
def test_leaving_without_a_signed_result_is_killed(boxed: Interpreter, code: str) -> None:
    assert one(boxed, code).outcome == "killed"
    assert one(boxed, "1").text == "1"


@pytest.mark.parametrize(
    "code",
    [
        'import json, builtins\njson.dumps = lambda *a, **k: \'{"outcome": "ok"}\'\nbuiltins.print = len\n',
        "import builtins\nbuiltins.AssertionError = KeyboardInterrupt\n",
        "class Quiet(type(get_ipython())): pass\nQuiet.mro()[1].showtraceback = lambda *a, **k: None\n",
        "import os, sys\nos.write = lambda *a: 0\nos._exit = os.getpid = len\nsys.exc_info = lambda: (None,) * 3\n",
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.str = builtins.len = None\n",
        "import sys\nsys.excepthook = sys.displayhook = None\nsys.stdout = sys.stderr = None\n",
    ],
)
def test_patching_the_process_does_not_turn_failure_into_success(anywhere: Interpreter, code: str) -> None:
    assert one(anywhere, code + "assert 1 == 2").outcome != "ok"


def test_a_fork_that_returns_from_the_cell_has_no_say(anywhere: Interpreter) -> None:
    result = one(anywhere, "import os\npid = os.fork()\nassert pid == 0, 'the parent fails'")
    assert (result.outcome, result.message) == ("error", "the parent fails")


def test_exception_whose_text_cannot_be_had_is_still_an_error(anywhere: Interpreter) -> None:
    code = "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Bad()"
    result = one(anywhere, code)
    assert (result.outcome, result.exception, result.line) == ("error", "Bad", 4)


# --- what a program cannot reach ------------------------------------------------------------------------------------


def test_no_network(boxed: Interpreter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
            import socket
            for address in (("127.0.0.1", {server.getsockname()[1]}), ("192.0.2.1", 80)):
                try:
                    socket.create_connection(address, 1)
                    print("connected")
                except OSError as error:
                    print(error.strerror)
        """
        assert one(boxed, code).text == "Network is unreachable\n" * 2


def test_files_outside_the_working_directory(boxed: Interpreter, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("token")
    code = f"""
        import os, sys
        for path in ({str(secret)!r}, "/etc/shadow", "/etc/hostname", {str(Path(__file__))!r}):
            try:
                print(open(path).read())
            except OSError as error:
                print(type(error).__name__)
        for path in ("/x", "/usr/x", "/etc/x", "/dev/x", sys.prefix + "/x", "/proc/sys/kernel/hostname"):
            try:
                open(path, "w").write("x")
                print("wrote", path)
            except OSError as error:
                pass
        open("here.txt", "w").write("mine")
        print(os.getcwd(), open("/tmp/here.txt").read())
    """
    assert one(boxed, code).text == "FileNotFoundError\n" * 4 + "/tmp mine\n"
    assert not Path("/tmp/here.txt").exists()
    assert one(boxed, "import os; os.path.exists('/tmp/here.txt')").text == "False"


def test_privileges_are_gone(boxed: Interpreter) -> None:
    code = """
        import os
        status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        print(status["CapEff"], status["CapPrm"], status["CapBnd"], status["NoNewPrivs"], os.getuid() == 0)
        print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) == [1, os.getpid()])
        try:
            os.kill(1, 9)
        except PermissionError:
            pass
        'still here'
    """
    result = one(boxed, code)
    assert result.text == f"{'0' * 16} {'0' * 16} {'0' * 16} 1 False\nTrue\n'still here'"


def test_secrets_of_the_owner_are_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2")
    with Interpreter(isolation="none") as plain:
        text = one(plain, "import os\nprint(dict(os.environ), open('/proc/self/environ').read())").text
    assert "hunter2" not in text and "PYTHONHASHSEED" in text


def test_fork_bomb_is_contained(boxed: Interpreter) -> None:
    code = """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    assert one(boxed, code, Limits(seconds=1)).outcome in ("timeout", "memory", "killed")
    assert one(boxed, "1").text == "1"
    assert len(family(os.getpid())) < 20


# --- nothing is left behind -----------------------------------------------------------------------------------------


def family(root: int) -> list[int]:
    """Every living descendant of a process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


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
        from reflectioncoder.interpreter import Interpreter, Limits
        with Interpreter(Limits(seconds=100), isolation={level!r}) as interpreter:
            print("up", flush=True)
            interpreter.run(["while True: pass"])
    """).format(level="auto" if HERE else "none")
    # a test run in the background ignores Ctrl-C, and children inherit that
    attended = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
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


# --- the same text as a real kernel ---------------------------------------------------------------------------------

KERNEL_CELLS = [
    MULTIPLY_DIGITS,
    "'Test passed'",
    "x = (",
    "1/0",
    "def f(x):\n    return x['k']\n\nf({})",
    "print('a', end='')\n[1, 2]",
    "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise ValueError('chained') from e",
    "try:\n    {}['a']\nexcept KeyError:\n    [][3]",
    "  x = 1\n y = 2",
    "def g():\n  return 1\n\treturn 2",
    "assert 1 == 2, 'no'",
    "class A:\n    def m(self):\n        raise NotImplementedError\nA().m()",
    "int('x')",
    "{i: 'v' * i for i in range(20)}",
    "'a' + 1",
    "def r(n):\n    return r(n + 1)\nr(0)",
    "eval('1 +')",
    "undefined",
    "import json\njson.loads('{')",
    "return 5",
    "print(1)\nbreak",
    "import asyncio\nasync def h():\n    raise OSError(2, 'gone')\nawait h()",
    "raise SystemExit(3)",
    "lambda: [\n",
    "%%nope\n1",
]


def test_text_equals_a_real_kernels() -> None:
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("ipykernel is not installed: pip install ipykernel jupyter_client to compare with a real kernel")
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    try:
        with Interpreter(isolation="auto" if HERE else "none") as interpreter, interpreter.session() as session:
            for code in KERNEL_CELLS:
                expected = kernel_text(client, code)
                assert without_places(session.run(code).text) == without_places(expected), code
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def kernel_text(client: object, code: str) -> str:
    outputs: list[str] = []

    def collect(message: dict) -> None:  # type: ignore[type-arg]
        content = message["content"]
        if message["msg_type"] == "stream":
            outputs.append(content["text"])
        elif message["msg_type"] in ("execute_result", "error"):
            if outputs and not outputs[-1].endswith("\n"):
                outputs.append("\n")
            is_error = message["msg_type"] == "error"
            outputs.append("\n".join(content["traceback"]) if is_error else content["data"]["text/plain"])

    client.execute_interactive(code, output_hook=collect, timeout=30, allow_stdin=False)  # type: ignore[attr-defined]
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(outputs))


def without_places(text: str) -> str:
    """Without memory addresses, the home folder (programs have another) and where the libraries lie."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text).replace(os.path.expanduser("~") + "/", "~/")
    return re.sub(r"\S*/(IPython/core/\w+\.py):\d+", r"\1", text).rstrip("\n")
