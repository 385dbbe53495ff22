"""The warm process behind `interpreter.py`: a fork server, and the notebook that runs inside each fork.

Started by path with a clean environment; needs the standard library and IPython only. Three kinds of process live here:
the server (trusted, imports IPython once), one first process per session (trusted, pid 1 of its namespace; killing it
kills the session), and its child, which runs the program. Whatever the last one says about itself is only a claim; the
owner decides. To make a claim costly to forge, the runner holds what it needs in local names before the program starts,
and signs its result with a nonce that it reads from the command pipe only after the program has ended. A program that
sets out to walk the interpreter's frames can still forge a result.
"""

import ast
import asyncio
import gc
import importlib.util
import inspect
import io
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import time
import types
import warnings
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

NONCE_BYTES = 16
RESULT = struct.Struct("<BiII")  # outcome, line, bytes of the exception's name and of its message
OK, ERROR, MEMORY = 0, 1, 2
LONGEST_MESSAGE = 2000
KERNEL_DEPTH = 15  # frames a kernel has above ours: "(970 times)" in the text of an endless recursion depends on it


def _load_beside(name: str) -> ModuleType:
    """Import a file beside this one without putting our folder on the program's search path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Output(io.FileIO):
    """Descriptor of the cell's text that knows whether a new output must start on a new line."""

    at_line_start = True

    def write(self, data: Any) -> int:
        if len(data):
            _Output.at_line_start = bytes(data[-1:]) == b"\n"
        return super().write(data)


def _make_shell() -> Any:
    """An IPython shell that prints what a notebook shows, without colours, history or prompts."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class NotebookDisplayHook(DisplayHook):
        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
            if "text/plain" in format_dict:
                shell.show(str(format_dict["text/plain"]))

        def finish_displayhook(self) -> None:
            pass

    class Notebook(InteractiveShell):
        displayhook_class = NotebookDisplayHook
        text: _Output | None = None

        def show(self, text: str) -> None:
            if self.text is not None:
                data = text.encode("utf-8", "backslashreplace")
                if not _Output.at_line_start:
                    self.text.write(b"\n")
                while data:
                    data = data[self.text.write(data) :]
                _Output.at_line_start = False

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            self.show("\n".join(stb) if isinstance(stb, list) else str(stb))

        def enable_gui(self, gui: Any = None) -> None:
            pass

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = Notebook.instance(config=config)
    return shell


def _line_of(source: list[str], text: str) -> int:
    return next((number for number, line in enumerate(source, 1) if text in line), 1)


class Runner:
    """Runs cells the way `InteractiveShell.run_cell` does, keeping the verdict out of the shell's patchable methods."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        import IPython.core.interactiveshell as module

        source = Path(module.__file__).read_text(encoding="utf-8").splitlines()
        self._warn_file = module.__file__
        self._warn_line = _line_of(source, 'warn("To exit: use')
        # a traceback of a SyntaxError raised at run time shows our frame; a kernel shows IPython's there
        line = _line_of(source, "exec(code_obj, self.user_global_ns, self.user_ns)")
        ours = inspect.getsourcelines(Runner._run_unit)
        shift = line - (ours[1] + _line_of(ours[0], "exec(code, shell") - 1)
        code = Runner._run_unit.__code__
        self._run_code = types.FunctionType(
            code.replace(co_filename=module.__file__, co_name="run_code", co_firstlineno=code.co_firstlineno + shift),
            globals(),
        )

    def warm_up(self) -> None:
        """Touch every code path once before the first fork, so that no session pays for lazy imports."""
        self.run("def f(x):\n    return {}[x]\n\n1\nf(1)")
        self.run("x = (")
        self.run("'done'")
        self.shell.reset(new_session=True)
        self.shell.execution_count = 1

    def run(self, code: str) -> tuple[int, int, BaseException | None]:
        """Run one cell; everything it shows goes to the session's output.

        Returns:
            outcome, line of the cell (0: unknown), and what was raised.
        """
        shell = self.shell
        try:
            cell = shell.transform_cell(code)
            name = shell.compile.cache(cell, shell.execution_count, raw_code=code)
            shell.history_manager.input_hist_parsed.append(cell)
            shell.history_manager.input_hist_raw.append(code)
        except Exception as error:  # an input transformer refused the text
            shell.execution_count += 1
            return self._failed(error, "", compiled=False)
        try:
            with shell.builtin_trap, shell.display_trap:
                try:
                    tree = shell.compile.ast_parse(cell, filename=name)
                except (OverflowError, SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
                    return self._failed(error, name, compiled=False)
                for node in tree.body:
                    last = node is tree.body[-1] and isinstance(node, ast.Expr)
                    unit = ast.Interactive([node]) if last else ast.Module([node], [])
                    failure = self._run_code(self, unit, name, "single" if last else "exec")
                    if failure is not None:
                        return failure
        finally:
            shell.execution_count += 1
        return OK, 0, None

    def _run_unit(self, unit: ast.AST, name: str, mode: str) -> tuple[int, int, BaseException | None] | None:
        __tracebackhide__ = "__ipython_bottom__"  # IPython hides the frames above this one
        shell = self.shell
        try:
            with shell.compile.extra_flags(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT):
                code = shell.compile(unit, name, mode)
        except BaseException as error:  # such as `return` outside a function: what stands before it has run
            return self._failed(error, name, compiled=False)
        try:
            if code.co_flags & inspect.CO_COROUTINE:
                failure = self._loop().run_until_complete(self._run_async(code, name))
            else:
                exec(code, shell.user_global_ns, shell.user_ns)
                failure = None
        except BaseException as error:
            return self._failed(error, name)
        return failure

    async def _run_async(self, code: CodeType, name: str) -> tuple[int, int, BaseException | None] | None:
        __tracebackhide__ = "__ipython_bottom__"
        try:
            await eval(code, self.shell.user_global_ns, self.shell.user_ns)
        except BaseException as error:
            return self._failed(error, name)
        return None

    @staticmethod
    def _loop() -> asyncio.AbstractEventLoop:
        global _event_loop
        if _event_loop is None:
            _event_loop = asyncio.new_event_loop()
            asyncio.set_event_loop(_event_loop)
        return _event_loop

    def _failed(self, error: BaseException, name: str, compiled: bool = True) -> tuple[int, int, BaseException]:
        """Show the traceback (called inside the `except` clause) and say what and where."""
        line = 0
        trace = error.__traceback__
        while trace is not None and not line:
            if trace.tb_frame.f_code.co_filename == name:
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and not line and error.filename == name:
            line = error.lineno or 0
        outcome = MEMORY if isinstance(error, MemoryError) else ERROR
        try:
            self._show(error, compiled)
        except BaseException as second:  # a hostile __str__, or no memory left: the verdict stands
            self.shell.show(f"{type(error).__name__} (its traceback cannot be shown: {type(second).__name__})")
        return outcome, line, error

    def _show(self, error: BaseException, compiled: bool) -> None:
        shell = self.shell
        if isinstance(error, SystemExit):
            shell.showtraceback(exception_only=True)
            text = "To exit: use 'exit', 'quit', or Ctrl-D."
            warnings.warn_explicit(text, UserWarning, self._warn_file, self._warn_line)
        elif isinstance(error, (SyntaxError, OverflowError, ValueError, TypeError, MemoryError)) and not compiled:
            shell.showsyntaxerror()
        else:
            shell.showtraceback(running_compiled_code=compiled)


_event_loop: asyncio.AbstractEventLoop | None = None


def _text_of(error: BaseException | None) -> tuple[bytes, bytes]:
    """Name and message of an exception; both may run the program's own code, so nothing is trusted here."""
    if error is None:
        return b"", b""
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


def _deeper(frames: int, run: Any, code: str) -> tuple[int, int, BaseException | None]:
    result: tuple[int, int, BaseException | None] = _deeper(frames - 1, run, code) if frames else run(code)
    return result


def serve_cells(runner: Runner, command_fd: int, result_fd: int) -> None:
    """The program's process: run cells until the command pipe closes."""
    getpid, write, leave, pack = os.getpid, os.write, os._exit, RESULT.pack
    read_exactly, run, text_of, deeper = _read_exactly, runner.run, _text_of, _deeper
    me = getpid()
    write(result_fd, b"R")
    while header := read_exactly(command_fd, 4):
        code = read_exactly(command_fd, int.from_bytes(header, "little")).decode("utf-8", "replace")
        outcome, line, error = deeper(KERNEL_DEPTH, run, code)
        if getpid() != me:  # a fork made by the program came back out of the cell: it has no say
            leave(0)
        name, message = text_of(error)
        error = None
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                pass
        nonce = read_exactly(command_fd, NONCE_BYTES)
        write(result_fd, nonce + pack(outcome, line, len(name), len(message)) + name + message)
        _Output.at_line_start = True
    leave(0)


def _program(isolation: Any, runner: Runner, slot: int, fds: list[int], request: dict[str, Any]) -> None:
    """Turn this fork into the untrusted process of a session."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open("/dev/null", os.O_RDWR)
    command_fd, output_fd, result_fd = fds
    for target, source in ((0, null), (1, output_fd), (2, output_fd)):
        os.dup2(source, target)
    # the three pipes move to the top of the table, away from the numbers a program opens and closes
    for target, source in ((200, output_fd), (201, command_fd), (202, result_fd)):
        os.dup2(source, target, inheritable=False)
    os.closerange(3, 200)
    os.chdir("/tmp" if isolation.strategy != "none" else request["folder"])
    isolation.become_untrusted(slot, request["memory_mb"], request["seconds"])
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(_Output(fd, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        for fd in (1, 2)
    )
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (lives as long as the process)
    vars(sys).update(__stdout__=sys.stdout, __stderr__=sys.stderr, __stdin__=sys.stdin)
    runner.shell.text = _Output(200, "w", closefd=False)
    serve_cells(runner, 201, 202)


class Server:
    """Answers the owner's requests (`new`, `kill`) one at a time, and ends when the owner does."""

    def __init__(self, control: socket.socket, owner: int, isolation: Any, runner: Runner) -> None:
        self.control, self.owner, self.isolation, self.runner = control, owner, isolation, runner
        self.live: dict[int, tuple[int, int, int]] = {}  # first process -> slot, memory limit, kernel kills before

    def loop(self) -> None:
        """Serve until the owner closes its end or dies."""
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.owner, select.POLLIN)
        while True:
            if any(fd == self.owner for fd, _ in poller.poll()):
                return
            message, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 3)
            if not message:
                return
            request = json.loads(message)
            try:
                reply = self._answer(request, fds)
            except OSError as error:
                reply = {"error": str(error)}
            for fd in fds:
                os.close(fd)
            self.control.send(json.dumps(reply).encode())

    def _answer(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if request["do"] == "new":
            return self._new(fds, request)
        return self._kill(request["id"], request["patience"])

    def stop(self) -> None:
        """Kill every session and leave the control groups."""
        for pid in list(self.live):
            self._kill(pid)
        for group in (self.isolation.memory, self.isolation.pids):
            if group:
                group.leave()

    def _kernel_kills(self) -> int:
        return self.isolation.memory.kills() if self.isolation.memory else 0

    def _cap(self, extra: list[int]) -> None:
        self.isolation.cap([memory for _, memory, _ in self.live.values()] + extra)

    def _new(self, fds: list[int], request: dict[str, Any]) -> dict[str, Any]:
        used = {slot for slot, _, _ in self.live.values()}
        # a slot is a user id; it also counts our own process number, so that no two warm processes share one
        slot = next(n for n in range(1 << 10) if n not in used)
        user = (self.isolation.outer_pid % (1 << 15) << 10) + slot
        self._cap([request["memory_mb"]])
        pid = self.isolation.fork()
        if pid == 0:
            try:
                self._first_process(user, fds, request)
            except BaseException as error:
                os.write(fds[2], f"E{type(error).__name__}: {error}".encode())
            os._exit(70)
        self.live[pid] = (slot, request["memory_mb"], self._kernel_kills())
        return {"id": pid}

    def _first_process(self, user: int, fds: list[int], request: dict[str, Any]) -> None:
        isolation = self.isolation
        isolation_module.die_with_parent()
        self.control.close()
        os.close(self.owner)
        for group in (isolation.memory, isolation.pids):
            for fd in group.fds.values() if group else ():
                os.close(fd)
        isolation.enter_session(user)
        program = os.fork()
        if program == 0:
            try:
                _program(isolation, self.runner, user, fds, request)
            except BaseException as error:
                os.write(fds[2], f"E{error!r}".encode())
            os._exit(70)
        for fd in fds:
            os.close(fd)
        while True:
            pid, status = os.wait()
            if pid == program:
                os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))

    def _kill(self, pid: int, patience: float = 0.0) -> dict[str, Any]:
        """Kill a session with all it started, and wait until it is gone.

        Args:
            pid: its first process.
            patience: seconds to let a session that is ending by itself say how it ended.
        """
        if pid not in self.live:
            return {"error": f"no session {pid}"}
        done, status = os.waitpid(pid, os.WNOHANG)
        until = time.monotonic() + patience
        while not done and time.monotonic() < until:
            time.sleep(0.002)
            done, status = os.waitpid(pid, os.WNOHANG)
        doomed = _descendants(pid) if self.isolation.strategy == "none" else []
        if not done:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        while self.isolation.strategy == "none" and (doomed := doomed + self._strays()):
            for stray in doomed:
                try:
                    os.kill(stray, signal.SIGKILL)
                    os.waitpid(stray, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass
            doomed = []
        _, _, kills = self.live.pop(pid)
        self._cap([])
        return {"status": os.waitstatus_to_exitcode(status), "memory": self._kernel_kills() > kills}

    def _strays(self) -> list[int]:
        """Without a process-id namespace: what a session left to us when its first process died."""
        return [pid for pid, parent in _parents().items() if parent == os.getpid() and pid not in self.live]


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    return found


def _descendants(root: int) -> list[int]:
    parents, found = _parents(), [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def main() -> None:
    """Take the descriptor of the control socket, the strategy and the visible folders from the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    try:
        owner = os.pidfd_open(settings["owner"])
        if os.getppid() != settings["owner"]:
            return
        sys.path[:] = [path for path in sys.path if path] + settings["path"]
        sys.argv = [""]
        shell = _make_shell()
        runner = Runner(shell)
        runner.warm_up()
        sys.path.insert(0, "")
        isolation = isolation_module.Isolation(settings["strategy"], settings["visible"])
    except Exception as error:
        text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
        control.send(json.dumps({"error": text}).encode())
        return
    server = Server(control, owner, isolation, runner)
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"level": isolation.level, "layers": isolation.layers()}).encode())
    try:
        server.loop()
    finally:
        server.stop()
        os._exit(0)


isolation_module = _load_beside("_isolation")
if __name__ == "__main__":
    _keep = sys.modules["__main__"]  # IPython puts the notebook's namespace in its place
    main()
