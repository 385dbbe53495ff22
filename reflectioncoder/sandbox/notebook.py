"""Runs cells as a Jupyter kernel does, and prints what a notebook shows: IPython's text without colours or prompts."""

import ast
import asyncio
import bdb
import contextlib
import importlib.util
import inspect
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

KERNEL_ENVIRONMENT = {"TERM": "xterm-color", "CLICOLOR": "1", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
KERNEL_ENVIRONMENT |= {"PAGER": "cat", "GIT_PAGER": "cat", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
KERNEL_THREADS = 4  # unnamed threads of a kernel; a program's threads are numbered after them

# One statement of a cell: its code (None if it does not compile); a function to call before it, which repeats the
# warnings or the error of its compilation; the file name of the cell in tracebacks.
Unit = tuple[CodeType | None, Callable[[], object] | None, str]


class Output(io.FileIO):
    """The output stream of a cell. Values, displays and tracebacks start and end on lines of their own."""

    at_line_start = True
    after_block = False

    def write(self, data: Any) -> int:
        if Output.after_block and not Output.at_line_start:
            super().write(b"\n")
            Output.at_line_start = True
        Output.after_block = False
        if len(data):
            Output.at_line_start = bytes(data[-1:]) == b"\n"
        return super().write(data)


def _lean_ipython() -> None:
    """Set up the package `IPython` without its terminal and its completer.

    The real package imports prompt_toolkit and jedi, which make up half of the warm process's memory, and the cost of a
    fork grows with the memory. Submodules import as usual. A program that imports jedi itself gets it (see `warm_up`).
    """
    spec = importlib.util.find_spec("IPython")
    assert spec is not None
    package: Any = importlib.util.module_from_spec(spec)
    sys.modules["IPython"] = package
    sys.modules["jedi"] = None  # type: ignore[assignment]
    from IPython.core import getipython, release

    package.__version__, package.version_info = release.version, release.version_info
    package.get_ipython = getipython.get_ipython


def make_shell() -> Any:
    """Create an IPython shell that prints what a notebook shows, without colours, history or prompts."""
    _lean_ipython()
    import stack_data
    from IPython.core import page, ultratb
    from IPython.core.autocall import ZMQExitAutocall
    from IPython.core.compilerop import CachingCompiler
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
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

    class NotebookDisplayPublisher(DisplayPublisher):
        def publish(self, data: dict[str, Any], *_: Any, update: bool = False, **__: Any) -> None:
            if "text/plain" in data and not update:
                shell.show(str(data["text/plain"]))

        def clear_output(self, wait: bool = False) -> None:
            pass

    class NotebookCompiler(CachingCompiler):
        def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
            return f"/tmp/ipykernel_1/{_murmur2(raw_code.encode('utf-8', 'surrogatepass'))}.py"

    class ZMQInteractiveShell(InteractiveShell):
        # libraries look at these to detect a notebook
        __module__, __qualname__, kernel = "ipykernel.zmqshell", "ZMQInteractiveShell", None
        displayhook_class = NotebookDisplayHook
        display_pub_class = NotebookDisplayPublisher
        compiler_class = NotebookCompiler
        text: Output | None = None

        def init_hooks(self) -> None:
            super().init_hooks()
            self.set_hook("show_in_pager", page.as_hook(lambda *_, **__: None), 99)

        def _exiter_default(self) -> Any:
            return ZMQExitAutocall(self)

        def ask_exit(self) -> None:  # a kernel exits only after the cell has ended
            pass

        def show(self, text: str) -> None:
            if self.text is not None:
                data = text.encode("utf-8", "backslashreplace")
                Output.after_block = True
                while data := data[self.text.write(data) :]:
                    pass
                Output.after_block = True

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            self.show("\n".join(stb) if isinstance(stb, list) else str(stb))

        def system_piped(self, cmd: str) -> None:
            if cmd.rstrip().endswith("&"):
                raise OSError("Background processes not supported.")
            command = ["sh", "-c", self.var_expand(cmd, depth=1)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            # a kernel runs commands on a pseudo-terminal, which ends lines with \r\n
            sys.stdout.write(done.stdout.decode("utf-8", "replace").replace("\n", "\r\n"))
            self.user_ns["_exit_code"] = done.returncode

        system = system_piped

        def enable_gui(self, gui: Any = None) -> None:
            pass

    # With colours, as in a kernel, IPython drops a comment after the last statement of a function. So tracebacks are
    # built as if with colours, but from plain text.
    setattr(ultratb.TBTools, "has_colors", True)  # noqa: B010 (a property there)
    vars(ultratb)["Terminal256Formatter"] = SimpleNamespace
    vars(stack_data)["style_with_executing_node"] = lambda style, _: style
    vars(stack_data.core)["_pygmented_with_ranges"] = lambda formatter, code, ranges: code.splitlines()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = ZMQInteractiveShell.instance(config=config)
    return shell


class Notebook:
    """Compiles cells and formats tracebacks, as a Jupyter kernel does.

    A running program can reach everything in here. The verdict is therefore made elsewhere (`session._serve_cells`),
    and a cell is compiled completely before its first statement runs.

    Args:
        shell: the shell from `make_shell`.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        import IPython.core.interactiveshell as module
        from IPython.core.async_helpers import _should_be_async

        self.file = module.__file__
        source = Path(self.file).read_text(encoding="utf-8").splitlines()
        self.source = source
        self._awaits = _should_be_async
        self._warn_line = line_number(source, 'warn("To exit: use')
        self._warned: dict[Any, Any] = vars(module).setdefault("__warningregistry__", {})
        self._number = 0  # of the cell compiled last
        self._started = 0  # of the cell that is running
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_kernel = True
        self.own: dict[str, Any] = {}  # namespace of own code, from `own_namespace`

    def warm_up(self) -> None:
        """Run every code path once before the first fork, so that sessions need no lazy imports."""
        namespace = self.shell.user_ns
        for cell in ("def f(x):\n    return {}[x]\n\n1\nf(1)", "x = (", "'done'"):
            name = ""
            try:
                for unit in self.begin(cell):
                    code, again, name = unit
                    if again is not None:
                        again()
                    assert code is not None
                    exec(code, namespace, namespace)
            except Exception as error:
                self.failed(error, name)
        self.shell.reset(new_session=True)
        self._number = 0
        for _ in range(KERNEL_THREADS):
            threading.Thread()
        sys.modules.pop("jedi", None)

    def enter(self) -> None:
        """Set the command line and the environment variables that a kernel has."""
        sys.argv[:] = [str(Path(self.file).parents[2] / "ipykernel_launcher.py"), "-f", "/tmp/tmp00000000.json"]
        os.environ.update(KERNEL_ENVIRONMENT)
        self.shell.builtin_trap.__enter__()

    def be_module(self) -> None:
        """Undo the settings of a kernel, so that a program runs as an imported module."""
        self._in_kernel = False
        self.shell.user_ns["__name__"] = sys.argv[0] = "candidate"
        del sys.argv[1:]

    def start_at(self, number: int) -> None:
        """Set the number of the next cell. Cells before number 1 are not part of the notebook that is shown."""
        self._number = number - 1

    def finish(self) -> None:
        """Do what a kernel does after the last statement, such as drawing figures."""
        self.shell.events.trigger("post_execute")

    def begin(self, cell: str) -> tuple[Unit, ...]:
        """Number a cell and compile it statement by statement, as a kernel does; a final expression shows its value.

        The first unit also does what a kernel does before the first statement: it registers the cell with the shell,
        repeats the compiler's warnings about the whole cell, and raises its syntax error, if any.

        Returns:
            one unit per statement; none for an empty cell.
        """
        if not cell or cell.isspace():  # a kernel does not count an empty cell
            return ()
        shell = self.shell
        self._number = number = self._number + 1
        source, name, awaits, error, said = cell, "", False, None, []
        try:
            source = shell.transform_cell(cell)
            name = shell.compile.cache(source, number, raw_code=cell)
            # for each frame a traceback looks up the module of its file; for a cell it would search all modules
            vars(inspect)["modulesbyfile"][os.path.abspath(name)] = ""
            with _listening() as said:
                awaits = self._awaits(source)
                tree = shell.compile.ast_parse(source, filename=name)
        except Exception as reason:
            error = reason
            if not name:  # an input transformer failed; a kernel counts such a cell twice
                number += 1

        def start() -> None:
            shell.execution_count = self._started = number
            shell.history_manager.store_inputs(number, source, cell)
            shell.display_trap.set()
            sys.excepthook = shell.excepthook
            if self._loop is not None or "asyncio" in source:
                with contextlib.suppress(OSError):  # without sockets no event loop can be created
                    self.seem_running(True)
            if said:
                for _ in range(1 if awaits else 2):  # a kernel checks a cell without `await` twice
                    self._awaits(source)
                with contextlib.suppress(SyntaxError):
                    shell.compile.ast_parse(source, filename=name)
            if error is not None:
                raise _Refused(error, parsing=bool(name))

        if error is not None:
            return ((None, start, name),)
        units: list[Unit] = []
        for node in tree.body:
            last = node is tree.body[-1] and isinstance(node, ast.Expr)
            mode = "single" if last else "exec"
            units.append(self._compiled(ast.Interactive([node]) if last else ast.Module([node], []), name, mode))
        code, again, _ = units[0] if units else (_NOTHING, None, name)
        return ((code, _one_by_one(start, again), name), *units[1:])

    def _compiled(self, tree: ast.AST, name: str, mode: str) -> Unit:
        """Compile one statement. Its warnings and its error are repeated when a kernel would compile it."""

        def again() -> None:
            try:
                self._compile(tree, name, mode)
            except Exception as error:  # such as `return` outside a function: the statements before it have run
                raise _Refused(error, parsing=False) from None

        with _listening() as said:
            try:
                code = self._compile(tree, name, mode)
            except Exception:
                return None, again, name
        return code, again if said else None, name

    def _compile(self, tree: ast.AST, name: str, mode: str) -> CodeType:
        with self.shell.compile.extra_flags(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT):
            code: CodeType = self.shell.compile(tree, name, mode)
        return code

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the session's event loop, created on the first call."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def seem_running(self, running: bool) -> None:
        """Mark the event loop as running or not: in a kernel `asyncio.run` fails and `create_task` works."""
        if not self._in_kernel:
            return
        loop: Any = self.event_loop()
        loop._thread_id = threading.get_ident() if running else None
        asyncio._set_running_loop(loop if running else None)

    def failed(self, error: BaseException, name: str) -> tuple[BaseException, int]:
        """Show the traceback of an exception that a cell raised; call this inside the `except` clause.

        Args:
            error: the exception.
            name: file name of the cell.

        Returns:
            the exception, and the line of the cell from 1 (0 if unknown).
        """
        self._number = self._started  # later cells of the same run have not been numbered by a kernel
        refused = error if isinstance(error, _Refused) else None
        error = refused.reason if refused else error
        line = 0
        trace = error.__traceback__
        while trace is not None and not line:
            if trace.tb_frame.f_code.co_filename == name:
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and not line and error.filename == name:
            line = error.lineno or 0
        try:
            if refused is None:
                self._show(error)
            else:
                trace = error.__traceback__
                try:  # IPython shows the exception being handled; our own frame is dropped from it
                    raise error.with_traceback(trace and trace.tb_next) from None
                except BaseException:
                    self._show_refused(error, refused.parsing)
        except BaseException as second:  # a bug in IPython, which a kernel shows as well, or a hostile __str__
            try:
                self.shell.showtraceback()
            except BaseException:  # the verdict does not depend on the text
                self.shell.show(f"{type(error).__name__} (its traceback cannot be shown: {type(second).__name__})")
        return error, line

    def _show(self, error: BaseException) -> None:
        __tracebackhide__ = "__ipython_bottom__"
        shell, trace = self.shell, error.__traceback__
        if isinstance(error, SystemExit):
            shell.showtraceback(exception_only=True)
            text = "To exit: use 'exit', 'quit', or Ctrl-D."
            warnings.warn_explicit(text, UserWarning, self.file, self._warn_line, registry=self._warned)
        elif isinstance(error, bdb.BdbQuit):
            pass  # the user quit the debugger
        elif isinstance(error, SyntaxError):
            shell.showtraceback(running_compiled_code=True)
        else:  # our own frame is dropped; for it IPython would parse its whole source file
            shell.showtraceback((type(error), error, trace and trace.tb_next), tb_offset=0, running_compiled_code=True)
            sys.last_traceback = trace  # for %tb, which drops one frame itself

    def _show_refused(self, error: BaseException, parsing: bool) -> None:
        if parsing and isinstance(error, (OverflowError, ValueError, TypeError, MemoryError)):
            self.shell.showsyntaxerror()
        else:
            self.shell.showtraceback()


class _Refused(Exception):  # noqa: N818 (never seen by users)
    """Carries a compilation error until the statements before it have run."""

    def __init__(self, reason: BaseException, parsing: bool) -> None:
        self.reason, self.parsing = reason, parsing


def _one_by_one(first: Callable[[], object], second: Callable[[], object] | None) -> Callable[[], object]:
    def both() -> None:
        first()
        if second is not None:
            second()

    return both


_NOTHING = compile("", "", "exec")


@contextlib.contextmanager
def _listening() -> Iterator[list[object]]:
    """Collect warnings in a list instead of showing them."""
    said: list[object] = []
    show, vars(warnings)["_showwarnmsg"] = vars(warnings)["_showwarnmsg"], said.append
    try:
        yield said
    finally:
        vars(warnings)["_showwarnmsg"] = show


def in_place(function: Any, statement: str, file: str, source: list[str], theirs: str) -> Any:
    """Copy a function, with the name, file and line at which IPython runs code.

    Some tracebacks show the frame above the program's, such as that of a SyntaxError raised at run time. In a kernel
    that frame is IPython's.

    Args:
        function: the function that runs code.
        statement: text that its line which runs code contains; the first such line counts, docstring included.
        file: path of IPython's source file.
        source: the lines of that file.
        theirs: text that IPython's line which runs code contains.
    """
    lines, first = inspect.getsourcelines(function)
    code = function.__code__
    shift = line_number(source, theirs) - (first + line_number(lines, statement) - 1)
    code = code.replace(
        co_filename=file,
        co_name="run_code",
        co_qualname="InteractiveShell.run_code",
        co_firstlineno=code.co_firstlineno + shift,
        co_linetable=_without_columns(code),
    )
    return FunctionType(code, function.__globals__)


def _without_columns(code: CodeType) -> bytes:
    """Build a line table without columns, which would be ours (format: Objects/locations.md of CPython)."""
    table, line = bytearray(), code.co_firstlineno
    for start, end, here in code.co_lines():
        for size in range((end - start) // 2, 0, -8):
            length = min(size, 8) - 1
            if here is None:
                table.append(0xF8 | length)
                continue
            delta, line = here - line, here
            value = -delta << 1 | 1 if delta < 0 else delta << 1
            table.append(0xE8 | length)
            while value > 0x3F:
                table.append(0x40 | value & 0x3F)
                value >>= 6
            table.append(value)
    return bytes(table)


def _murmur2(data: bytes) -> int:
    """Hash a cell's source as ipykernel does for the file name of the cell."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    value = 0xC70F6907 ^ len(data)
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        word = word * multiplier & mask
        value = (value * multiplier ^ (word ^ word >> 24) * multiplier) & mask
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    return value ^ value >> 15


def line_number(source: list[str], text: str) -> int:
    """Return the number, from 1, of the first line that contains the text; 1 if there is none."""
    return next((number for number, line in enumerate(source, 1) if text in line), 1)
