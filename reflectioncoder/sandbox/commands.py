"""The session process that runs commands instead of cells: compilers and programs in other languages.

It has no more privileges than the commands it starts, but it is a separate process: a command cannot write to its pipes
or read its memory. After each command it kills all processes the command left running, and reports the exit status.
"""

import base64
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

COMMAND_FD, RESULT_FD, ERRORS_FD = 201, 202, 203
ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG")


def serve_commands(confined: bool, memory_mb: int) -> None:
    """Run commands until the parent process closes the pipe; never returns.

    Args:
        confined: whether the session has a process-id namespace of its own, so that `kill(-1)` reaches only its
            processes.
        memory_mb: limit on the memory that one process may allocate, in MiB; the cgroup limits all of them together.
    """
    os.write(RESULT_FD, b"R")
    while header := _read(4):
        request = json.loads(_read(int.from_bytes(header, "little")))
        os.write(RESULT_FD, json.dumps(_run(request, confined, memory_mb)).encode() + b"\n")
    os._exit(0)


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(COMMAND_FD, size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _run(request: dict[str, Any], confined: bool, memory_mb: int) -> dict[str, Any]:
    try:
        for name, content in request["files"].items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
        source = _unnamed_file()
        os.write(source, base64.b64decode(request["stdin"]))
        os.lseek(source, 0, os.SEEK_SET)
    except OSError as error:
        return {"refused": f"{error.filename or 'input'}: {error.strerror}"}
    ours, theirs = os.pipe()  # closed by a successful exec
    child = os.fork()
    if child == 0:
        _become(request, source, theirs, memory_mb)
    os.close(theirs)
    os.close(source)
    refused = os.read(ours, 1000).decode()
    os.close(ours)
    _, status, usage = os.wait4(child, 0)
    _end_stragglers(child, confined)
    if refused:
        return {"refused": refused}
    return {"status": os.waitstatus_to_exitcode(status), "peak_kb": usage.ru_maxrss}


def _unnamed_file() -> int:
    try:
        return os.memfd_create("input")
    except OSError:  # without control groups, see `counting.py`
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _become(request: dict[str, Any], source: int, told: int, memory_mb: int) -> None:
    try:
        os.setsid()
        for target, fd in ((0, source), (2, ERRORS_FD)):
            os.dup2(fd, target)
        # RLIMIT_DATA, not RLIMIT_AS: language runtimes reserve far more address space than they use
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and a command would inherit that
            signal.signal(number, signal.SIG_DFL)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        os.execvpe(request["argv"][0], request["argv"], {**environment, **request["env"]})
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        os.write(told, f"{request['argv'][0]}: {reason}".encode())
    os._exit(127)


def _end_stragglers(child: int, confined: bool) -> None:
    try:
        if confined:
            os.kill(-1, signal.SIGKILL)  # every process except this one and the trusted first process
        else:
            os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    while True:
        try:
            os.waitpid(-1, 0)
        except (ChildProcessError, InterruptedError):
            return
