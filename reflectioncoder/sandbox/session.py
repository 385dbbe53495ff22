"""The program's process of a session: drops every privilege, then runs cells until the parent closes the pipe.

The parent process does not rely on what this process reports about a failure. A cell counts as completed only with the
signature that `_serve_cells` guards. The limits of that protection:

- Python code of the program cannot get at the signature. Native code in the same process, and handmade bytecode, can
  read all of its memory.
- A program can make its own asserts meaningless (`__eq__`). Where that matters, use the outside judge
  (`interpreter/judge.py`), which compares returned values only.
- Cells of one session share a process, and threads that an earlier cell left behind can tamper with later cells. So
  score a program with one cell.
- The signature assumes a Python before 3.13; from 3.13 on, programs can set the variables of running functions.
- If the parent process runs as root, the signature needs a session with a user id of its own. Otherwise a program may
  open its own memory as a file.
"""

import fcntl
import functools
import inspect
import io
import os
import signal
import struct
import sys
import types
from typing import Any

from reflectioncoder.sandbox.awaiting import Awaiting
from reflectioncoder.sandbox.commands import serve_commands
from reflectioncoder.sandbox.guard import close_doors
from reflectioncoder.sandbox.layers import IsolationLayers
from reflectioncoder.sandbox.notebook import Notebook, Output, in_place

NONCE_BYTES = 16
OUTPUT_FD, COMMAND_FD, RESULT_FD = 200, 201, 202
RESULT = struct.Struct("<?III")  # out of memory?, line, size in bytes of the exception's name and of its message
LONGEST_MESSAGE = 2000
OWN_NAME = "<interpreter>"  # file name of own code in tracebacks
KERNEL_DEPTH = 24  # frames above `_serve_cells`, so that endless recursion stops as in a kernel: "(970 times)"


def _text_of(error: BaseException) -> tuple[bytes, bytes]:
    """Return name and message of an exception. Both may run the program's code, so neither is trusted."""
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
    """Call a function at the stack depth at which a kernel runs cells."""
    depth, frame = 1, sys._getframe().f_back
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    if depth < KERNEL_DEPTH:
        _deeper(run, *arguments)
    else:
        run(*arguments)


def _serve_cells(awaiting: Awaiting, notebook: Notebook, command: int, result: int) -> None:
    """Run cells until the command pipe closes, and sign the result of each request that ran to its end.

    A request holds the number of cells to run as one, each cell with its kind and length, and a nonce. Only sending the
    nonce back makes the outcome `ok`. All cells are compiled before the first one runs, so that a solution cannot
    swallow its tests.

    A program can reach the frames, locals and globals of this function. So while the program runs, none of them holds
    the nonce: it is an argument of a `map` object that only the evaluation stack of this frame refers to. The next step
    of that `map` writes the nonce, and the step is reached only after every unit has returned. No variable decides
    that. The functions called here are bound to local names, which a program cannot set (before Python 3.13), and they
    are C functions, which a program cannot patch. `guard.py` blocks access to evaluation stacks and control of this
    function from outside; `awaiting.py` explains how the end of a statement that awaits is recognised. Failure reports
    need no protection.
    """
    __tracebackhide__ = "__ipython_bottom__"  # IPython hides the frames above this one
    write, execute, leave, getpid, steps, every = os.write, exec, os._exit, os.getpid, map, BaseException
    receive, failed, settle, report = _receive, notebook.failed, _settle, _report
    failures, run, place, paused = awaiting.failures, awaiting.run, awaiting.place, awaiting.paused
    ours = getpid()
    write(result, b"R")
    while (units := receive(notebook, awaiting, command)) is not None:
        failure = None
        for signed in steps(write, (result, result), (b"", _read_exactly(command, NONCE_BYTES))):
            if signed:
                break
            try:
                for code, again, name, watched, namespace in units:
                    if again is not None:
                        again()
                    if watched is None:
                        execute(code, namespace, namespace)
                    else:
                        run(watched, name)
                        if place(watched) != paused:
                            raise RuntimeError("Event loop stopped before Future completed.")
            except every as error:
                if getpid() != ours:  # the program forked, and the child came back out of the cell: it must not answer
                    leave(0)
                failure = failures.pop() if failures else failed(error, name) or (error, 0)
                settle(notebook)
                break
            settle(notebook)
            if getpid() != ours:
                leave(0)
        if failure is not None:
            write(result, report(*failure))
        failure = None
        Output.at_line_start = True
    leave(0)


def _receive(notebook: Notebook, awaiting: Awaiting, command: int) -> tuple[Any, ...] | None:
    """Read one request and compile its cells; each unit that awaits gets its generator (see `awaiting.py`).

    The loop over cells is not in `_serve_cells`, whose loop must turn as often as a kernel runs statements: from the
    eighth turn on CPython runs `exec` with one level of recursion less.

    Returns:
        the units of all cells in order, or None at the end of the pipe.
    """
    count = _read_exactly(command, 4)
    if not count:
        return None
    units: tuple[Any, ...] = ()
    namespace = notebook.shell.user_ns
    for _ in range(int.from_bytes(count, "little")):
        kind = _read_exactly(command, 1)
        size = int.from_bytes(_read_exactly(command, 4), "little")
        text = _read_exactly(command, size).decode("utf-8", "replace")
        if kind == b"o":
            units += ((compile(text, OWN_NAME, "exec", dont_inherit=True), None, OWN_NAME, None, notebook.own),)
            continue
        units += tuple(
            (code, again, name, awaiting.watch(eval, code, namespace, namespace) if _awaits(code) else None, namespace)
            for code, again, name in notebook.begin(text)
        )
    return units


def _awaits(code: types.CodeType | None) -> bool:
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)


def _settle(notebook: Notebook) -> None:
    """Draw figures and flush the streams. The program may have replaced the streams, so all errors are ignored."""
    for bring_out in (notebook.finish, lambda: sys.stdout.flush(), lambda: sys.stderr.flush()):
        try:
            bring_out()
        except BaseException:
            pass


def _report(error: BaseException, line: int) -> bytes:
    """Encode a failure for the parent process."""
    name, message = _text_of(error)
    return b"E" + RESULT.pack(isinstance(error, MemoryError), max(line, 0), len(name), len(message)) + name + message


def as_ipython(notebook: Notebook) -> Any:
    """Return `_serve_cells` disguised as a function of IPython, for the tracebacks that show its frame."""
    ours, theirs = "execute(code, namespace, namespace)", "exec(code_obj, self.user_global_ns, self.user_ns)"
    serve = in_place(_serve_cells, ours, notebook.file, notebook.source, theirs)
    return functools.partial(serve, Awaiting(notebook))


def become_program(
    isolation: IsolationLayers, notebook: Notebook, serve: Any, slot: int, fds: list[int], request: dict[str, Any]
) -> None:
    """Turn this fork into the untrusted process of a session and serve its cells or commands; never returns.

    Args:
        isolation: the layers in force.
        notebook: the warmed-up notebook.
        serve: the function from `as_ipython`.
        slot: session number, which determines the user id.
        fds: descriptors of the command, result and output pipes, in this order; commands have two outputs.
        request: the request of the parent process: kind, folder, limits.
    """
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
        if request["module"]:
            notebook.be_module()
        notebook.start_at(1 - request["unnumbered"])
        close_doors()
        _deeper(serve, notebook, COMMAND_FD, RESULT_FD)
    except BaseException as error:
        os.write(told, f"X{error!r}".encode())
    os._exit(70)


def _take_places(fds: list[int]) -> None:
    """Set up the standard streams and move the pipes to high descriptors, clear of those a program opens and closes.

    All other descriptors inherited from the warm process are closed.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the parent process may block signals, as Ray's workers do
    # move all of them first: with many open sessions a pipe may already have a number needed for another
    command_fd, result_fd, output_fd, *others = (fcntl.fcntl(fd, fcntl.F_DUPFD, OUTPUT_FD + 100) for fd in fds)
    os.closerange(3, OUTPUT_FD + 100)
    null = os.open("/dev/null", os.O_RDWR)
    for target, source in ((0, null), (1, output_fd), (2, output_fd)):
        os.dup2(source, target)
    ordered = (output_fd, command_fd, result_fd, *others)
    for target, source in zip(range(OUTPUT_FD, OUTPUT_FD + len(ordered)), ordered, strict=True):
        os.dup2(source, target, inheritable=False)
    os.closerange(3, OUTPUT_FD)
    os.closerange(OUTPUT_FD + len(ordered), 1 << 20)


def prepare_streams(notebook: Notebook) -> None:
    """Create the streams and settings of programs in the warm process; each session fills in the descriptors."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, OUTPUT_FD, inheritable=False)
    os.close(null)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(Output(fd, "w", closefd=False), "UTF-8", "backslashreplace", write_through=True)
        for fd in (1, 2)
    )
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (lives as long as the process)
    vars(sys).update(__stdout__=sys.stdout, __stderr__=sys.stderr, __stdin__=sys.stdin)
    notebook.shell.text = Output(OUTPUT_FD, "w", closefd=False)
    notebook.enter()
