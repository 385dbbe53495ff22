"""The process of a session that runs commands instead of cells: compilers, and programs in other languages.

It is as little privileged as what it starts, but another process: a command cannot write to its pipes or read its
memory. It ends whatever a command leaves running, so that the next one starts alone, and tells how the command ended.
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
    """Run commands until the owner closes the pipe.

    Args:
        confined: whether a process-id namespace makes "all processes we may signal" mean the session's.
        memory_mb: cap on what one process may allocate; the session's control group caps all of them together.
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
        source = os.memfd_create("input")
        os.write(source, base64.b64decode(request["stdin"]))
        os.lseek(source, 0, os.SEEK_SET)
    except OSError as error:
        return {"refused": f"{error.filename or 'input'}: {error.strerror}"}
    ours, theirs = os.pipe()  # closes by itself when the command has really started
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


def _become(request: dict[str, Any], source: int, told: int, memory_mb: int) -> None:
    try:
        os.setsid()
        for target, fd in ((0, source), (2, ERRORS_FD)):
            os.dup2(fd, target)
        # address space is not limited here: virtual machines reserve much more of it than they use
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a command would inherit that
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
            os.kill(-1, signal.SIGKILL)  # all but ourselves and the trusted first process
        else:
            os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    while True:
        try:
            os.waitpid(-1, 0)
        except (ChildProcessError, InterruptedError):
            return
