"""Commands run under the interpreter's isolation: compilers, and programs in other languages."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.warm_process import Remote
from reflectioncoder.interpreter.workspace import Workspace, workspace

needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed; run: make toolchains")
    for name in ("gcc", "node")
}


@pytest.fixture(scope="module", params=["auto", "none"])
def interpreter(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    with Interpreter(Limits(seconds=20, memory_mb=256), isolation=request.param) as opened:
        yield opened


@pytest.fixture
def place(interpreter: Interpreter) -> Iterator[Workspace]:
    with workspace(interpreter) as opened:
        yield opened


@needs["gcc"]
def test_compile_then_run_with_input_files_and_status(place: Workspace) -> None:
    body = 'int x; scanf("%d", &x); printf("%d\\n", 2 * x); fputs("e", stderr); return 3;'
    source = f"#include <stdio.h>\nint main() {{ {body} }}"
    assert place.run(["gcc", "main.c", "-o", "main"], {"main.c": source}).ok
    result = place.run(["./main"], stdin="21")
    assert (result.outcome, result.stdout, result.stderr, result.status) == ("error", "42\n", "e", 3)


@needs["node"]
def test_a_virtual_machine_that_reserves_much_address_space_runs(interpreter: Interpreter) -> None:
    with workspace(interpreter, Limits(seconds=20, memory_mb=1024)) as place:
        assert place.run(["node", "-e", "console.log([1,2].map(x => x + 1))"]).stdout == "[ 2, 3 ]\n"


def test_files_below_folders_environment_and_bytes(place: Workspace) -> None:
    files: dict[str, str | bytes] = {"a/b.txt": b"\xff\x00", "c.txt": "text"}
    result = place.run(["sh", "-c", "wc -c < a/b.txt; cat c.txt; echo $WORD; env"], files, env={"WORD": "here"})
    assert result.stdout.startswith("2\ntexthere\n")
    assert "SECRET" not in result.stdout


def test_limits_are_typed(interpreter: Interpreter) -> None:
    began = time.monotonic()
    with workspace(interpreter) as place:
        slow = place.run(["sleep", "60"], limits=Limits(seconds=0.5))
        assert (slow.outcome, slow.message, slow.status) == ("timeout", "over 0.5 s", None)
        assert place.run(["true"]).outcome == "killed"
    with workspace(interpreter, Limits(output_chars=1000)) as place:
        loud = place.run(["yes"])
        assert loud.outcome == "output_limit" and len(loud.stdout) == 1000
    with workspace(interpreter) as place:
        assert place.run(["sh", "-c", "kill -SEGV $$"]).message == "ended by SIGSEGV"
        assert place.run(["python3", "-c", "x = bytearray(10 ** 9)"]).outcome in ("error", "memory", "killed")
        assert place.run(["true"]).ok
    assert time.monotonic() - began < 30


def test_what_a_command_leaves_running_is_gone_before_the_next(place: Workspace) -> None:
    assert place.run(["sh", "-c", "(sleep 300; echo late) & echo now"]).stdout == "now\n"
    listed = place.run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"]).stdout
    assert "sleep 300" not in listed


def test_a_command_cannot_reach_network_or_host_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token")
    with Interpreter(Limits(seconds=20)) as interpreter, workspace(interpreter) as place:
        assert interpreter.isolation in ("full", "reduced")
        assert "token" not in place.run(["sh", "-c", f"cat {secret} /etc/shadow; touch /usr/x /etc/x"]).stdout
        code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
        assert "Network is unreachable" in place.run(["python3", "-c", code]).stderr


def test_what_an_earlier_command_made_and_cannot_be_started_is_the_programs_failure(place: Workspace) -> None:
    assert place.run(["sh", "-c", "echo library > main; mkdir source"]).ok
    result = place.run(["./main"], made=True)
    assert (result.outcome, result.status) == ("error", None) and result.message.startswith("./main: ")
    assert place.run(["true"], {"source": ""}, made=True).message == "source: Is a directory"
    assert place.run(["true"]).ok


def test_a_lost_warm_process_is_no_failure_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interpreter(Limits(seconds=20)) as interpreter, workspace(interpreter) as place:
        ask = Remote.memory_kills

        def lose_then_ask(remote: Remote) -> int:
            remote._warm.process.kill()
            remote._warm.process.wait()
            return ask(remote)

        monkeypatch.setattr(Remote, "memory_kills", lose_then_ask)
        assert place.run(["sh", "-c", "kill -KILL $$"]).outcome == "infrastructure"


def test_bad_requests_are_named(place: Workspace) -> None:
    with pytest.raises(UserError, match="nosuchcompiler: No such file or directory; check that it is installed"):
        place.run(["nosuchcompiler"])
    for name in ("/etc/x", "../x", "a/../../x"):
        with pytest.raises(UserError, match="must lie below the program's working directory"):
            place.run(["true"], {name: ""})
    assert place.run(["true"]).ok
