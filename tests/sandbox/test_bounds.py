"""The memory of a session as a whole, sessions side by side, descriptors, and very long time limits."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sandboxes import BOXED, one, started

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter import warm_process
from reflectioncoder.interpreter.interpreter import MOST, Interpreter, Limits, describe_isolation
from reflectioncoder.interpreter.workspace import workspace

SMALL = Limits(seconds=20, memory_mb=50)


@pytest.fixture(scope="module", params=BOXED)
def counted(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    """An interpreter without control groups."""
    yield from started(request.param, groups=False)


@pytest.fixture(scope="module", params=BOXED)
def boxed(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param)


def children(count: int, work: str, end: str = "time.sleep(2)\nprint('free')") -> str:
    """A program whose children do some work, then wait."""
    body = f"    if os.fork() == 0:\n        {work}\n        time.sleep(60)\n        os._exit(0)"
    return f"import ctypes, mmap, os, subprocess, sys, time\nfor _ in range({count}):\n{body}\n{end}"


OTHER_PROGRAM = "os.execv('/usr/bin/perl', ['perl', '-e', '$x = chr(33) x 40_000_000; sleep 60'])"
MUCH = [
    children(60, "x = bytearray(40 << 20)"),
    children(60, "m = mmap.mmap(-1, 40 << 20); [m.__setitem__(n, 1) for n in range(0, 40 << 20, 4096)]"),
    children(60, OTHER_PROGRAM),
    children(30, "os.fork(); x = bytearray(20 << 20)"),
    children(1, "os.setsid(); os.fork(); x = [os.fork() for _ in range(4)]; x = bytearray(40 << 20)"),
]


@pytest.mark.parametrize("program", MUCH)
def test_children_together_have_the_memory_of_their_session(counted: Interpreter, program: str) -> None:
    result = counted.run(program, SMALL)
    assert (result.outcome, result.text, result.message) == ("memory", "", "over 50 MiB of memory")
    assert one(counted, "print(1)").text == "1\n"


LITTLE = [
    children(60, "x = bytearray(1 << 20)"),
    children(20, "os.execv('/bin/sleep', ['sleep', '60'])"),
    "x = bytearray(45 << 20)\nimport time\ntime.sleep(0.5)\nprint('free')",
    "open('/tmp/file', 'wb').write(b'x' * (50 << 20))\nimport time\ntime.sleep(0.5)\nprint('free')",
    "from multiprocessing import Pool\nwith Pool(4) as pool:\n    pool.map(abs, range(100))\nprint('free')",
    "import mmap, os, time\nfile = os.open('/tmp/map', os.O_RDWR | os.O_CREAT)\nos.truncate(file, 40 << 20)\n"
    + "m = mmap.mmap(file, 40 << 20)\nfor n in range(0, 40 << 20, 4096):\n    m[n] = 1\n"
    + "for _ in range(8):\n    if os.fork() == 0:\n"
    + "        sum(m[::4096]); time.sleep(60)\ntime.sleep(1)\nprint('free')",
]


@pytest.mark.parametrize("program", LITTLE)
def test_what_children_share_counts_once(counted: Interpreter, program: str) -> None:
    result = counted.run(program, SMALL)
    assert (result.outcome, result.text) == ("ok", "free\n"), result


def test_memory_that_cannot_be_counted_is_refused(counted: Interpreter) -> None:
    code = "import os\ntry:\n    os.memfd_create('x')\nexcept OSError as error:\n    print(error.errno)"
    assert one(counted, code).text == "38\n"  # ENOSYS
    with workspace(counted) as place:
        assert place.run(["cat"], stdin="standard input").stdout == "standard input"


def test_doctor_says_what_is_not_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_process, "CONTROL_GROUPS", False)
    text = "\n".join(describe_isolation())
    assert "no  memory control group" in text and "counted every 50 ms" in text and "not bounded: buffers" in text


# --- sessions side by side --------------------------------------------------------------------------------------------


def test_a_session_that_ends_takes_nothing_from_its_neighbours(boxed: Interpreter) -> None:
    holds = "import os, time\nkept = [bytearray(200 << 20)]\nif os.fork() == 0:\n    time.sleep(60)"
    large, small = Limits(20, 600), Limits(20, 50)
    with boxed.session(large) as neighbour:
        assert neighbour.run(holds).ok
        for _ in range(5):
            assert boxed.run("x = bytearray(20 << 20)", small).ok
            assert boxed.run("x = [bytearray(9 << 20) for _ in range(9)]", small).outcome == "memory"
        assert neighbour.run("kept.append(bytearray(200 << 20))\nlen(kept)").text == "2"


def test_sessions_with_different_limits_side_by_side(boxed: Interpreter) -> None:
    def run(number: int) -> str:
        megabytes = (40, 100, 200, 400)[number % 4]
        fits = boxed.run(f"x = bytearray({megabytes - 15} << 20)\nlen(x)", Limits(60, megabytes))
        return f"{fits.outcome} {boxed.run('x = bytearray(10 ** 9)', Limits(60, megabytes)).outcome}"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(16))) == {"ok memory"}


# --- descriptors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip(f"this user may have {hard} open files; the test needs 3,000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    yield
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("strategy", [*BOXED, "none"])
def test_with_more_than_1024_open_descriptors(many_descriptors: None, strategy: str) -> None:
    for interpreter in started(strategy):
        assert one(interpreter, "print(1)").text == "1\n"
        with workspace(interpreter) as place:
            assert place.run(["echo", "2"]).stdout == "2\n"


@pytest.mark.parametrize("number", [199, 200, 201, 202, 203, 255, 256, 300])
def test_the_control_socket_may_have_any_number(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    made = socket.socketpair

    def at_number(*kind: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = made(*kind)
        moved = socket.socket(fileno=fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, number))
        theirs.close()
        return ours, moved

    monkeypatch.setattr(socket, "socketpair", at_number)
    with Interpreter(isolation="none") as interpreter:
        assert [interpreter.run("print(1)").text for _ in range(2)] == ["1\n", "1\n"]


def test_too_many_open_files_are_named() -> None:
    code = """
import os, resource
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter
with Interpreter(isolation="none") as interpreter, interpreter.session() as neighbour:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        interpreter.run("1")
    except UserError as error:
        print(error)
    print(neighbour.run("2").text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "cannot start a session of the interpreter: Too many open files; this process may have 64 (ulimit -n):"
        " raise that, or close sessions\n2\n"
    )


# --- limits that are too large ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [2_147_484.0, 30 * 86_400.0, 1e9])
def test_a_time_limit_of_weeks(boxed: Interpreter, seconds: float) -> None:
    assert one(boxed, "print(1)", Limits(seconds)).text == "1\n"
    with workspace(boxed, Limits(seconds)) as place:
        assert place.run(["echo", "2"]).stdout == "2\n"


@pytest.mark.parametrize(("name", "value"), [("seconds", float("inf")), ("seconds", 1e10), ("memory_mb", 10**15)])
def test_a_limit_that_no_machine_can_count_is_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"interpreter limit {name} = .*: give a number up to {MOST[name]:,}"):
        Limits(**{name: value})  # type: ignore[arg-type]
    assert one  # the largest ones are accepted
    Limits(**{name: MOST[name]})  # type: ignore[arg-type]
