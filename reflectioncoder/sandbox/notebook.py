"""Runs cells as a notebook does and shows what a notebook shows: IPython's own text, without colours or prompts."""

import ast
import asyncio
import importlib.util
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

# a piece of a cell: its code, None where it does not compile; what to call first, which shows or raises what compiling
# it showed or raised; the name under which the cell stands in tracebacks
Unit = tuple[CodeType | None, Callable[[], object] | None, str]


class Output(io.FileIO):
    """Descriptor of the cell's text that knows whether a new output must start on a new line."""

    at_line_start = True

    def write(self, data: Any) -> int:
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
        text: Output | None = None

        def show(self, text: str) -> None:
            if self.text is not None:
                data = text.encode("utf-8", "backslashreplace")
                if not Output.at_line_start:
                    self.text.write(b"\n")
                while data:
                    data = data[self.text.write(data) :]
                Output.at_line_start = False

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            self.show("\n".join(stb) if isinstance(stb, list) else str(stb))

        def enable_gui(self, gui: Any = None) -> None:
            pass

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = Notebook.instance(config=config)
    return shell


class Notebook:
    """What a cell needs besides running: its name, its compiled statements, and the text of what was raised.

    All of it lies within reach of the program once that runs, so the verdict is made elsewhere (`session.serve_cells`),
    and a cell is compiled whole before its first statement runs.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        import IPython.core.interactiveshell as module

        self.file = module.__file__
        source = Path(self.file).read_text(encoding="utf-8").splitlines()
        self.exec_line = line_of(source, "exec(code_obj, self.user_global_ns, self.user_ns)")
        self._warn_line = line_of(source, 'warn("To exit: use')
        self._loop: asyncio.AbstractEventLoop | None = None

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
        self.shell.execution_count = 1
        sys.modules.pop("jedi", None)

    def begin(self, cell: str) -> tuple[Unit, ...]:
        """Number a cell and compile it, statement by statement as a kernel does; a last expression shows its value."""
        shell = self.shell
        shell.display_trap.set()
        try:
            source = shell.transform_cell(cell)
            name = shell.compile.cache(source, shell.execution_count, raw_code=cell)
            # tracebacks ask of every frame's file which module it is, and look through all modules for a cell's
            vars(inspect)["modulesbyfile"][os.path.abspath(name)] = ""
            shell.history_manager.input_hist_parsed.append(source)
            shell.history_manager.input_hist_raw.append(cell)
        except Exception as error:  # an input transformer refused the text
            return ((None, _raiser(_Refused(error)), ""),)
        finally:
            shell.execution_count += 1
        try:
            tree = shell.compile.ast_parse(source, filename=name)
        except (OverflowError, SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
            return ((None, _raiser(_Refused(error)), name),)
        units = []
        for node in tree.body:
            last = node is tree.body[-1] and isinstance(node, ast.Expr)
            mode = "single" if last else "exec"
            units.append(self._compiled(ast.Interactive([node]) if last else ast.Module([node], []), name, mode))
        return tuple(units)

    def _compiled(self, tree: ast.AST, name: str, mode: str) -> Unit:
        """One statement; its warnings and its error belong to the moment at which a kernel would compile it."""

        def again() -> None:
            try:
                self._compile(tree, name, mode)
            except Exception as error:  # such as `return` outside a function: what stands before it has run
                raise _Refused(error) from None

        said: list[object] = []
        show, vars(warnings)["_showwarnmsg"] = vars(warnings)["_showwarnmsg"], said.append
        try:
            code = self._compile(tree, name, mode)
        except Exception:
            return None, again, name
        finally:
            vars(warnings)["_showwarnmsg"] = show
        return code, again if said else None, name

    def _compile(self, tree: ast.AST, name: str, mode: str) -> CodeType:
        with self.shell.compile.extra_flags(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT):
            code: CodeType = self.shell.compile(tree, name, mode)
        return code

    def run_async(self, code: CodeType, name: str) -> tuple[BaseException, int] | None:
        """Run a statement that awaits, on the session's event loop.

        Returns:
            what it raised and in which line, or None.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(self._await(code, name))

    async def _await(self, code: CodeType, name: str) -> tuple[BaseException, int] | None:
        __tracebackhide__ = "__ipython_bottom__"
        try:
            await eval(code, self.shell.user_global_ns, self.shell.user_ns)
        except BaseException as error:
            return self.failed(error, name)
        return None

    def failed(self, error: BaseException, name: str) -> tuple[BaseException, int]:
        """Show the traceback of what a cell raised; called inside the `except` clause.

        Returns:
            what was raised, and the line of the cell (0: unknown).
        """
        refused = isinstance(error, _Refused)
        if isinstance(error, _Refused):
            error = error.reason
        line = 0
        trace = error.__traceback__
        while trace is not None and not line:
            if trace.tb_frame.f_code.co_filename == name:
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and not line and error.filename == name:
            line = error.lineno or 0
        try:
            if not refused:
                self._show(error, compiled=True)
            else:
                trace = error.__traceback__
                try:  # what is shown is the exception being handled, less the frame of ours that is skipped
                    raise error.with_traceback(trace and trace.tb_next) from None
                except BaseException:
                    self._show(error, compiled=False)
        except BaseException as second:  # a hostile __str__, or no memory left: the verdict stands
            self.shell.show(f"{type(error).__name__} (its traceback cannot be shown: {type(second).__name__})")
        return error, line

    def _show(self, error: BaseException, compiled: bool) -> None:
        shell = self.shell
        if isinstance(error, SystemExit):
            shell.showtraceback(exception_only=True)
            text = "To exit: use 'exit', 'quit', or Ctrl-D."
            warnings.warn_explicit(text, UserWarning, self.file, self._warn_line)
        elif isinstance(error, (SyntaxError, OverflowError, ValueError, TypeError, MemoryError)) and not compiled:
            shell.showsyntaxerror()
        elif not compiled or isinstance(error, SyntaxError):
            shell.showtraceback(running_compiled_code=compiled)
        else:  # the frame that is left out is ours; IPython would parse the whole of the file it seems to be in
            trace = error.__traceback__
            shell.showtraceback((type(error), error, trace and trace.tb_next), tb_offset=0, running_compiled_code=True)


class _Refused(Exception):  # noqa: N818 (never seen by users)
    """Carries what compiling raised past the statements that run before it."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


def _raiser(error: Exception) -> Callable[[], None]:
    def again() -> None:
        raise error

    return again


def line_of(source: list[str], text: str) -> int:
    """Number of the first line that holds the text, 1 where none does."""
    return next((number for number, line in enumerate(source, 1) if text in line), 1)
