"""Programs that attack the interpreter are contained, end with an allowed outcome, and leave no traces."""

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile import MARK, PROGRAMS, Hostile
from sandboxes import BOXED, family, session_uids, started

from reflectioncoder.interpreter.interpreter import Interpreter, Limits

FOLDERS = ("/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/run", "/etc", "/usr/bin", str(Path.home()), os.getcwd())
SETTINGS = ("kernel/hostname", "kernel/core_pattern", "kernel/modprobe", "fs/file-max", "net/ipv4/ip_forward")
SOCKET = f"{MARK}-{os.getpid()}"  # with the pid, as abstract socket names are shared by the whole machine
FORGERIES = [program for program in PROGRAMS if program.family.startswith("forgeries")]


class Bait(NamedTuple):
    """Targets that programs must not reach: a server, and a file with a secret."""

    port: int
    secret: Path

    def program(self, hostile: Hostile) -> str:
        """Return the source of a program with the addresses and paths of the targets filled in."""
        text = hostile.program.replace("@PORT@", str(self.port)).replace("@SECRET@", str(self.secret))
        return text.replace("@SOCKET@", SOCKET).replace("@MARK@", MARK)


@pytest.fixture(scope="module")
def bait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bait]:
    secret = tmp_path_factory.mktemp("secret") / "token.txt"
    secret.write_text("hunter2")
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
    abstract = [socket.socket(socket.AF_UNIX, kind) for kind in kinds]
    for kind, server in zip(kinds, abstract, strict=True):
        server.bind(f"\0{SOCKET}-{kind.name}")
        if kind != socket.SOCK_DGRAM:
            server.listen()
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("MY_API_KEY", "hunter2")
        yield Bait(server.getsockname()[1], secret)
    for server in abstract:
        server.close()


@pytest.fixture(scope="module", params=BOXED)
def boxed(request: pytest.FixtureRequest, bait: Bait) -> Iterator[Interpreter]:
    yield from started(request.param)


@pytest.fixture(scope="module")
def unboxed(bait: Bait) -> Iterator[Interpreter]:
    yield from started("none")


def traces() -> dict[str, object]:
    """The state outside the sandbox that programs try to change."""
    found = {folder: sorted(name for name in _names(folder) if MARK in name) for folder in FOLDERS}
    settings = {name: _content(f"/proc/sys/{name}") for name in SETTINGS}
    return {**found, **settings, "nice": os.nice(0), "env": os.stat("/usr/bin/env")[:7]}


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _content(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def left_running(interpreter: Interpreter, before: int) -> list[int]:
    """Wait up to ten seconds for processes to end; return those beyond the first `before`, and those of sessions."""
    uids = session_uids(interpreter)
    until = time.monotonic() + 10
    while True:
        processes = family(os.getpid())
        mine = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _uid(pid) in uids]
        if (len(processes) <= before and not mine) or time.monotonic() > until:
            return processes[before:] + mine
        time.sleep(0.02)


def _uid(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def skip_without(interpreter: Interpreter, needs: tuple[str, ...]) -> None:
    """Skip the test if a layer is missing without which the program is not contained."""
    there = interpreter.layers
    there["local variables that cannot be written"] = sys.version_info < (3, 13)  # since 3.13 f_locals is writable
    there["memory of its own that it cannot open"] = os.geteuid() != 0 or there["user id of its own"]
    for layer in needs:
        if not there[layer]:
            pytest.skip(f"not contained without the layer '{layer}', which is missing; see reflectioncoder doctor")


def each(programs: list[Hostile]) -> pytest.MarkDecorator:
    """Parametrize a test with programs, with their names as ids."""
    return pytest.mark.parametrize("hostile", programs, ids=[f"{p.family}: {p.name}" for p in programs])


@each(PROGRAMS)
def test_hostile_program_is_contained(boxed: Interpreter, bait: Bait, hostile: Hostile) -> None:
    skip_without(boxed, hostile.needs)
    assert boxed.run("1").ok  # so that the processes that the warm process prepares in advance exist
    processes, outside, clock = len(family(os.getpid())), traces(), time.time() - time.monotonic()
    result = boxed.run(bait.program(hostile), hostile.limits)
    assert result.outcome in hostile.outcomes, result
    if hostile.text is not None:
        assert result.text == hostile.text
    busy = max(1.0, 2 * os.getloadavg()[0] / len(os.sched_getaffinity(0)))  # a limit is processor time
    assert result.outcome != "timeout" or result.seconds < busy * (hostile.limits.seconds + 2)
    assert "hunter2" not in result.text
    assert left_running(boxed, processes) == []
    assert traces() == outside
    assert abs(time.time() - time.monotonic() - clock) < 60
    assert boxed.run("print(1)").text == "1\n"


@pytest.fixture(scope="module", params=BOXED)
def uncounted(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    yield from started(request.param, groups=False)


@each([program for program in PROGRAMS if program.family == "children"])
def test_children_are_contained_without_control_groups(uncounted: Interpreter, bait: Bait, hostile: Hostile) -> None:
    result = uncounted.run(bait.program(hostile), hostile.limits)
    assert result.outcome in hostile.outcomes - {"ok"}, result
    assert uncounted.run("print(1)").text == "1\n"


@each(FORGERIES)
def test_failure_is_no_success_even_without_isolation(unboxed: Interpreter, bait: Bait, hostile: Hostile) -> None:
    skip_without(unboxed, hostile.needs)
    assert unboxed.run(bait.program(hostile), hostile.limits).outcome in hostile.outcomes
    assert unboxed.run("print(1)").text == "1\n"


def test_the_corpus_is_large_and_no_forgery_may_succeed() -> None:
    families = Counter(program.family for program in PROGRAMS)
    assert len(PROGRAMS) >= 260 and len(families) >= 20 and min(families.values()) >= 3
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)
    assert len(FORGERIES) >= 30 and not any("ok" in program.outcomes for program in FORGERIES)


PLACES = """\
import ctypes, os, socket
from socket import AF_INET, AF_INET6, AF_UNIX, SOCK_DGRAM, SOCK_STREAM
places = [
    (AF_UNIX, SOCK_STREAM, "\\0met"),
    (AF_UNIX, SOCK_DGRAM, "\\0met too"),
    (AF_UNIX, SOCK_STREAM, "/tmp/met.socket"),
    (AF_INET, SOCK_STREAM, ("127.0.0.1", 4711)),
    (AF_INET6, SOCK_DGRAM, ("::1", 4712)),
]
files = ["/tmp/met", "/dev/shm/met"]
libc = ctypes.CDLL(None)
"""
OFFER = f"""{PLACES}
offers = []
for family, kind, address in places:
    try:
        offers.append(socket.socket(family, kind))
        offers[-1].bind(address)
        offers[-1].listen()
    except OSError:
        pass
for file in files:
    open(file, "w").write("x")
_ = libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)
"""
LOOK = f"""{PLACES}
for family, kind, address in places:
    try:
        socket.socket(family, kind).connect(address)
        print("met at", address)
    except OSError:
        pass
for name in filter(os.path.exists, files):
    print("met at", name)
for name, arguments in (("shmget", (4711, 4096, 0)), ("semget", (4711, 1, 0)), ("msgget", (4711, 0))):
    if getattr(libc, name)(*arguments) >= 0:
        print("met by", name)
"""


def test_sessions_do_not_meet(boxed: Interpreter) -> None:
    skip_without(boxed, ("seccomp filter",))
    with boxed.session() as one, boxed.session() as other:
        assert one.run(OFFER).ok
        ours, theirs = one.run(LOOK), other.run(LOOK)
        assert "met at /tmp/met" in ours.text and "met by msgget" in ours.text
        assert (theirs.outcome, theirs.text) == ("ok", "")
        users = {session.run("import os\nos.getuid()").text for session in (one, other)}
        assert len(users) == (2 if boxed.layers["user id of its own"] else 1)


@pytest.mark.parametrize(
    "bomb", ["fork bomb", "fork bomb that hides", "thread bomb that goes on", "memory that grows again"]
)
def test_neighbours_of_a_bomb_run_on(boxed: Interpreter, bomb: str) -> None:
    skip_without(boxed, ("user id of its own",))  # the limit on processes is per user
    program = next(program.program for program in PROGRAMS if program.name == bomb)
    with boxed.session() as neighbour, ThreadPoolExecutor(1) as pool:
        assert neighbour.run("import os").ok
        going = pool.submit(boxed.run, program, Limits(seconds=2, memory_mb=200))
        time.sleep(0.5)
        child = "if os.fork() == 0:\n    os._exit(0)\nos.wait()[1]"
        assert neighbour.run(child, Limits(seconds=20)).text == "0"
        assert boxed.run("print(1)").text == "1\n"
        assert going.result().outcome in ("timeout", "memory", "error")
