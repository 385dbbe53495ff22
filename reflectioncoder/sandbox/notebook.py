"""Runs cells as a notebook does and shows what a notebook shows: IPython's own text, without colours or prompts."""

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
KERNEL_THREADS = 4  # unnamed threads of a kernel: those of programs are numbered on from there

# a piece of a cell: its code, None where it does not compile; what to call first, which shows or raises what compiling
# it showed or raised; the name under which the cell stands in tracebacks
Unit = tuple[CodeType | None, Callable[[], object] | None, str]


class Output(io.FileIO):
    """Descriptor of the cell's text; a value, a display or a traceback has lines of its own in it."""

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
    """Make `IPython` a package that has imported none of its terminal and of its completer yet.

    The real one imports prompt_toolkit and jedi, half of the warm process's memory, and every fork pays for all memory
    there is. Submodules import as ever; a program that imports jedi itself gets it (see `warm_up`).
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
    """An IPython shell that prints what a notebook shows, without colours, history or prompts."""
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
        # libraries ask for these to know that they are in a notebook
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

        def ask_exit(self) -> None:  # a kernel ends when the cell has
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
            # programs have no terminal here, which would end lines like this
            sys.stdout.write(done.stdout.decode("utf-8", "replace").replace("\n", "\r\n"))
            self.user_ns["_exit_code"] = done.returncode

        system = system_piped

        def enable_gui(self, gui: Any = None) -> None:
            pass

    # with colours, as a kernel has them, a comment behind the last statement of a function is lost: tracebacks are made
    # as if with colours, but of plain text
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
    """What a cell needs besides running: its name, its compiled statements, and the text of what was raised.

    All of it lies within reach of the program once that runs, so the verdict is made elsewhere (`session.serve_cells`),
    and a cell is compiled whole before its first statement runs.
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
        self._number = 0  # of the cell begun last
        self._started = 0  # of the cell whose statements run
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_kernel = True

    def warm_up(self) -> None:
        """Touch every code path once before the first fork, so that no session pays for lazy imports."""
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
        """Give the program the command line and the settings that a kernel has."""
        sys.argv[:] = [str(Path(self.file).parents[2] / "ipykernel_launcher.py"), "-f", "/tmp/tmp00000000.json"]
        os.environ.update(KERNEL_ENVIRONMENT)
        self.shell.builtin_trap.__enter__()

    def be_module(self) -> None:
        """Take back what only a notebook has: programs are then run as an imported module is."""
        self._in_kernel = False
        self.shell.user_ns["__name__"] = sys.argv[0] = "candidate"
        del sys.argv[1:]

    def finish(self) -> None:
        """What a kernel does behind the last statement: figures are drawn here."""
        self.shell.events.trigger("post_execute")

    def begin(self, cell: str) -> tuple[Unit, ...]:
        """Number a cell and compile it, statement by statement as a kernel does; a last expression shows its value.

        The first unit does what a kernel does before the first statement: it tells the shell the number and the text,
        repeats what the compiler said of the whole cell, and raises what made it give up.
        """
        if not cell or cell.isspace():  # a kernel does not even count it
            return ()
        shell = self.shell
        self._number = number = self._number + 1
        source, name, awaits, error, said = cell, "", False, None, []
        try:
            source = shell.transform_cell(cell)
            name = shell.compile.cache(source, number, raw_code=cell)
            # tracebacks ask of every frame's file which module it is, and look through all modules for a cell's
            vars(inspect)["modulesbyfile"][os.path.abspath(name)] = ""
            with _listening() as said:
                awaits = self._awaits(source)
                tree = shell.compile.ast_parse(source, filename=name)
        except Exception as reason:
            error = reason
            if not name:  # an input transformer refused the text, which a kernel counts twice
                number += 1

        def start() -> None:
            shell.execution_count = self._started = number
            shell.history_manager.store_inputs(number, source, cell)
            shell.display_trap.set()
            sys.excepthook = shell.excepthook
            if self._loop is not None or "asyncio" in source:
                with contextlib.suppress(OSError):  # no loop can be had where sockets are refused
                    self.seem_running(True)
            if said:
                for _ in range(1 if awaits else 2):  # a kernel asks once more for a cell that does not wait
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
        """One statement; its warnings and its error belong to the moment at which a kernel would compile it."""

        def again() -> None:
            try:
                self._compile(tree, name, mode)
            except Exception as error:  # such as `return` outside a function: what stands before it has run
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
        """The session's loop, made when it is first asked for."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def seem_running(self, running: bool) -> None:
        """A kernel runs every cell from within its event loop, so that `asyncio.run` fails and tasks can be made."""
        if not self._in_kernel:
            return
        loop: Any = self.event_loop()
        loop._thread_id = threading.get_ident() if running else None
        asyncio._set_running_loop(loop if running else None)

    def failed(self, error: BaseException, name: str) -> tuple[BaseException, int]:
        """Show the traceback of what a cell raised; called inside the `except` clause.

        Returns:
            what was raised, and the line of the cell (0: unknown).
        """
        self._number = self._started  # cells that were to run with this one have not been seen
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
                try:  # what is shown is the exception being handled, less the frame of ours that is skipped
                    raise error.with_traceback(trace and trace.tb_next) from None
                except BaseException:
                    self._show_refused(error, refused.parsing)
        except BaseException as second:  # IPython's own mistake, which a kernel shows as well, or a hostile __str__
            try:
                self.shell.showtraceback()
            except BaseException:  # the verdict stands
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
            pass  # left a debugger
        elif isinstance(error, SyntaxError):
            shell.showtraceback(running_compiled_code=True)
        else:  # the frame that is left out is ours; IPython would parse the whole of the file it seems to be in
            shell.showtraceback((type(error), error, trace and trace.tb_next), tb_offset=0, running_compiled_code=True)
            sys.last_traceback = trace  # for %tb, which leaves one frame out

    def _show_refused(self, error: BaseException, parsing: bool) -> None:
        if parsing and isinstance(error, (OverflowError, ValueError, TypeError, MemoryError)):
            self.shell.showsyntaxerror()
        else:
            self.shell.showtraceback()


class _Refused(Exception):  # noqa: N818 (never seen by users)
    """Carries what compiling raised past the statements that run before it."""

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
    """What would be shown as warnings, as a list."""
    said: list[object] = []
    show, vars(warnings)["_showwarnmsg"] = vars(warnings)["_showwarnmsg"], said.append
    try:
        yield said
    finally:
        vars(warnings)["_showwarnmsg"] = show


def in_place(function: Any, statement: str, file: str, source: list[str], theirs: str) -> Any:
    """The function under the name, file and line at which IPython runs code.

    Where Python shows a traceback itself, as for a SyntaxError raised at run time, the frame above the program's is in
    sight, and a kernel's is IPython's.

    Args:
        function: ours.
        statement: how the line of ours that runs code begins.
        file: IPython's file.
        source: its lines.
        theirs: how the line of IPython's that runs code begins.
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
    """The table of its lines less their columns, which are those of our text (Objects/locations.md of CPython)."""
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
    """The hash by which ipykernel names the file that a cell seems to be in."""
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
    """Number of the first line that holds the text, 1 where none does."""
    return next((number for number, line in enumerate(source, 1) if text in line), 1)
