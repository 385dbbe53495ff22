"""The program's process of a session: gives up every privilege, then runs cells until the owner closes the pipe.

What this process says about a failure is only told on; that a cell ran to its end counts only with the signature that
`_serve_cells` guards. Python code of the program cannot get at the signature; native code in the same process can read
all of its memory, and a program can make its own asserts meaningless (`__eq__`). Where that matters, use the outside
judge (`judge.py`), which trusts values only. Cells of one session share a process: threads that an earlier cell left
behind can meddle with later ones, so judge with one cell.
"""

import inspect
import io
import os
import signal
import struct
import sys
from typing import Any

from reflectioncoder.sandbox.commands import serve_commands
from reflectioncoder.sandbox.guard import close_doors
from reflectioncoder.sandbox.layers import Isolation
from reflectioncoder.sandbox.notebook import Notebook, Output, Unit, in_place

NONCE_BYTES = 16
OUTPUT_FD, COMMAND_FD, RESULT_FD = 200, 201, 202
RESULT = struct.Struct("<?III")  # whether memory ran out, line, bytes of the exception's name and of its message
LONGEST_MESSAGE = 2000
KERNEL_DEPTH = 24  # frames above `_serve_cells`: "(971 times)" in the text of an endless recursion depends on it


def _text_of(error: BaseException) -> tuple[bytes, bytes]:
    """Name and message of an exception; both may run the program's own code, so nothing is trusted here."""
    parts = []
    for part in ("name", "message"):
        try:
            said = error.msg if isinstance(error, SyntaxError) else error
            text = str(type(error).__name__ if part == "name" else said)[:LONGEST_MESSAGE]
            parts.append(text.encode("utf-8", "replace"))
        except BaseException:
            parts.append(b"")
    return parts[0], parts[1]


def _read_exactly(fd: int, size: int, read: Any = os.read) -> bytes:
    data = b""
    while len(data) < size:
        piece = read(fd, min(size - len(data), 1 << 20))
        if not piece:
            return b""
        data += piece
    return data


def _deeper(run: Any, *arguments: Any) -> None:
    """Call from as deep in the stack as a kernel."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    if depth < KERNEL_DEPTH:
        _deeper(run, *arguments)
    else:
        run(*arguments)


def _serve_cells(notebook: Notebook, command: int, result: int) -> None:
    """Run cells until the command pipe closes, and sign the result of each that ran to its end.

    What comes is a number of cells to run as one, each with its length, and a nonce; sending the nonce back is the only
    way to be `ok`. All are compiled before the first runs, so that a solution cannot swallow its tests. The frames,
    locals and globals of this function lie within reach of a program that looks for them, so while it runs the nonce is
    in none of them: it is an argument of a `map` that only the evaluation stack of this frame holds, whose next step
    writes it, and that step is reached only where every unit has returned. What decides here is bound to local names,
    which a program cannot set, and is made of the interpreter's own functions, which it cannot patch; `guard.py` closes
    the doors to stacks and to setting locals. What is sent of failures needs no protection.
    """
    __tracebackhide__ = "__ipython_bottom__"  # IPython hides the frames above this one
    write, execute, leave, getpid, steps, every = os.write, exec, os._exit, os.getpid, map, BaseException
    namespace = notebook.shell.user_ns
    receive, failed, run_async, settle, report = (
        _receive, notebook.failed, notebook.run_async, _settle, _report,
    )  # fmt: skip
    ours, waits = getpid(), inspect.CO_COROUTINE
    write(result, b"R")
    while (units := receive(notebook, command)) is not None:
        failure = None
        for signed in steps(write, (result, result), (b"", _read_exactly(command, NONCE_BYTES))):
            if signed:
                break
            try:
                for code, again, name in units:
                    if again is not None:
                        again()
                    if code.co_flags & waits:
                        failure = run_async(code, name)
                        if failure is not None:
                            break
                    else:
                        execute(code, namespace, namespace)
            except every as error:
                failure = failed(error, name) or (error, 0)
            if getpid() != ours:  # a fork made by the program came back out of the cell: it has no say
                leave(0)
            settle(notebook)
            if failure is not None:
                break
        if failure is not None:
            write(result, report(*failure))
        failure = None
        Output.at_line_start = True
    leave(0)


def _receive(notebook: Notebook, command: int) -> tuple[Unit, ...] | None:
    """The pieces of the cells that are to run as one; None: there are no more.

    A loop of its own, because `_serve_cells` has to turn as often as a kernel runs statements: from the eighth on
    CPython runs `exec` with one level less of recursion.
    """
    count = _read_exactly(command, 4)
    if not count:
        return None
    units: tuple[Unit, ...] = ()
    for _ in range(int.from_bytes(count, "little")):
        size = int.from_bytes(_read_exactly(command, 4), "little")
        units += notebook.begin(_read_exactly(command, size).decode("utf-8", "replace"))
    return units


def _settle(notebook: Notebook) -> None:
    """Bring out what the program has written or drawn; its own streams may do anything."""
    for bring_out in (notebook.finish, lambda: sys.stdout.flush(), lambda: sys.stderr.flush()):
        try:
            bring_out()
        except BaseException:
            pass


def _report(error: BaseException, line: int) -> bytes:
    """What is told about a failure."""
    name, message = _text_of(error)
    return b"E" + RESULT.pack(isinstance(error, MemoryError), max(line, 0), len(name), len(message)) + name + message


def as_ipython(notebook: Notebook) -> Any:
    """`_serve_cells` as a part of IPython, for the tracebacks that show its frame."""
    ours, theirs = "execute(code, namespace, namespace)", "exec(code_obj, self.user_global_ns, self.user_ns)"
    return in_place(_serve_cells, ours, notebook.file, notebook.source, theirs)


def become_program(
    isolation: Isolation, notebook: Notebook, serve: Any, slot: int, fds: list[int], request: dict[str, Any]
) -> None:
    """Turn this fork into the untrusted process of a session, and serve its cells or commands; never returns."""
    told = fds[1]
    try:
        _take_places(fds)
        told = RESULT_FD
        confined = isolation.strategy != "none"
        os.chdir("/tmp" if confined else request["folder"])
        if request["kind"] == "commands":
            isolation.become_untrusted(slot, None, request["seconds"])
            serve_commands(confined, request["memory_mb"])
        isolation.become_untrusted(slot, request["memory_mb"], request["seconds"])
        _open_streams(notebook)
        close_doors()
        _deeper(serve, notebook, COMMAND_FD, RESULT_FD)
    except BaseException as error:
        os.write(told, f"X{error!r}".encode())
    os._exit(70)


def _take_places(fds: list[int]) -> None:
    """The standard streams, and the pipes at the top of the table, away from what a program opens and closes."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open("/dev/null", os.O_RDWR)
    command_fd, result_fd, output_fd, *others = fds
    for target, source in ((0, null), (1, output_fd), (2, output_fd)):
        os.dup2(source, target)
    ordered = (output_fd, command_fd, result_fd, *others)
    for target, source in zip(range(OUTPUT_FD, OUTPUT_FD + len(ordered)), ordered, strict=True):
        os.dup2(source, target, inheritable=False)
    os.closerange(3, OUTPUT_FD)


def _open_streams(notebook: Notebook) -> None:
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(Output(fd, "w", closefd=False), "UTF-8", "backslashreplace", write_through=True)
        for fd in (1, 2)
    )
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (lives as long as the process)
    vars(sys).update(__stdout__=sys.stdout, __stderr__=sys.stderr, __stdin__=sys.stdin)
    notebook.shell.text = Output(OUTPUT_FD, "w", closefd=False)
    notebook.enter()
