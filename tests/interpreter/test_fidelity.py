"""The interpreter prints the same text as a real Jupyter kernel for the same cells, apart from terminal colours.

The cells are in `fidelity/`, one file per family; a line `# %% name` starts a cell. A session consists of a few
families. It runs in a fresh kernel (jupyter_client, ipykernel) and in a fresh session of the interpreter, and the texts
must be equal.

The kernel gets the environment of programs (hash seed, home folder), and its streams flush after each write. By default
a kernel buffers stdout and stderr separately for up to 0.2 s, so their order depends on timing. The interpreter shows
them in the order of writing.
"""

import difflib
import functools
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sandboxes import HERE

from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits

pytestmark = pytest.mark.slow

PINNED = "8.24.0"
FOLDER = Path(__file__).parent / "fidelity"
FLUSH_AT_ONCE = """
import sys
def write(self, text, write=type(sys.stdout).write):
    count = write(self, text)
    self.flush()
    return count
type(sys.stdout).write = write
del sys, write
"""

SESSIONS = [
    ("asserts", "calls", "classes"),
    ("exceptions", "chains"),
    ("indentation", "syntax"),
    ("values", "arrays"),
    ("output", "warnings"),
    ("programs", "stdlib"),
    ("notebook",),
    ("exits",),
    ("quits",),
]

Name = tuple[str, str]  # family and name of a cell
Texts = dict[Name, tuple[str, CellResult]]  # by cell: the kernel's text and the interpreter's result


def read_cells(family: str) -> dict[str, str]:
    """Read the cells of a family, by name and in order."""
    text = (FOLDER / f"{family}.txt").read_text(encoding="utf-8")
    _, *pieces = re.split(r"^# %% (.*)\n", text, flags=re.MULTILINE)
    return {name: code.removesuffix("\n") for name, code in zip(pieces[::2], pieces[1::2], strict=True)}


FAMILIES = {family: read_cells(family) for session in SESSIONS for family in session}
FAMILIES["syntax"] |= {  # cells with characters that a text file does not preserve
    "ends of lines of Windows": "x = 1\r\nif x:\r\n    x / 0\r\n",
    "ends of lines of Windows and an error of syntax": "x = 1\r\ny = (\r\n",
    "ends of lines of old": "x = 1\rx / 0\r",
    "a null character": "x = 1\0",
    "a form feed": "x = 1\n\x0cdef f():\n    return x / 0\n\x0c\nf()",
    "a byte order mark": "\ufeffx = 1\nx / 0",
    "a line separator in a string": "x = 'a\u2028b'\nx / 0",
    "an end of line at the end": "1 / 0\n",
    "many of them": "\n\n1 / 0\n\n\n",
    "a very long cell": "\n".join(f"x{n} = {n}" for n in range(1500)) + "\nx1500",
}
CELLS = {(family, name): code for family, cells in FAMILIES.items() for name, code in cells.items()}

# Known differences: the interpreter has no front end for input, and the stack contains no frames of ipykernel.
NO_TEXT = "a kernel also shows that ipykernel's own code fails on the text of the exception"
AWAITS = "a kernel has fewer frames above such a cell; only the number of skipped frames differs"
DIFFERENT = {
    ("exceptions", "a custom exception whose __str__ raises"): NO_TEXT,
    ("exceptions", "a custom exception whose __str__ gives no text"): NO_TEXT,
    ("notebook", "endless recursion in a cell that awaits"): AWAITS,
    ("notebook", "endless recursion in a coroutine"): AWAITS,
    ("output", "logging with bad arguments"): "logging prints the whole stack, which includes frames of the kernel",
    ("output", "input"): "a kernel raises ipykernel's StdinNotImplementedError; here standard input is empty",
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[tuple[str, ...]], Texts]]:
    """A function that runs the cells of a session in a kernel and in the interpreter; results are cached."""
    pytest.importorskip("jupyter_client", reason="no jupyter_client to run a real kernel; run: pip install ipykernel")
    pytest.importorskip("ipykernel", reason="no ipykernel to run a real kernel; run: pip install ipykernel")
    if (version := importlib.metadata.version("ipython")) != PINNED:
        pytest.skip(f"needs IPython {PINNED}, found {version}; run: pip install ipython=={PINNED}")
    isolation: Any = "auto" if HERE else "none"
    with (
        Interpreter(Limits(seconds=60), isolation, libraries=("matplotlib", "pandas")) as interpreter,
        ThreadPoolExecutor() as beside,
    ):
        said = interpreter.run(["import json, os\nprint(json.dumps(dict(os.environ)))"])[0].text
        environment = json.loads(said)

        def run(session: tuple[str, ...]) -> Texts:
            cells = {name: code for name, code in CELLS.items() if name[0] in session}
            folder = tmp_path_factory.mktemp(session[0])
            expected = beside.submit(kernel_texts, list(cells.values()), environment, folder)
            printed = interpreter.run(list(cells.values()))
            return dict(zip(cells, zip(expected.result(), printed, strict=True), strict=True))

        @functools.cache
        def started(session: tuple[str, ...]) -> Future[Texts]:  # a future also caches an exception
            return beside.submit(run, session)

        yield lambda session: started(session).result()


def kernel_texts(cells: list[str], environment: dict[str, str], folder: Path) -> list[str]:
    """Run cells in a fresh kernel and return the text of each."""
    from jupyter_client.manager import start_new_kernel

    own = dict.fromkeys(["HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"], str(folder)) | {"TMPDIR": "/tmp"}
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "flush.py").write_text(FLUSH_AT_ONCE)
    manager, client = start_new_kernel(env=environment | own, cwd=str(folder))
    try:
        return [kernel_text(client, cell) for cell in cells]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def kernel_text(client: Any, code: str) -> str:
    """Run one cell and join its outputs. Every output begins on a new line, except consecutive texts of a stream."""
    text, whole = "", True

    def add(output: str, block: bool) -> None:
        nonlocal text, whole
        if text and not text.endswith("\n") and (block or whole):
            text += "\n"
        text, whole = text + output, block

    def collect(message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            add(content["text"], False)
        elif kind == "error":
            add("\n".join(content["traceback"]), True)
        elif kind in ("execute_result", "display_data"):
            add(content["data"].get("text/plain", ""), True)

    client.execute_interactive(code, output_hook=collect, timeout=30, allow_stdin=False)
    return text


def comparable(text: str) -> str:
    """Remove colours and replace what cannot agree: addresses, process ids, names of temporary files, durations.

    Paths of libraries are shortened, too: below the home folder, which is /tmp for programs, they are shown with a "~".
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"\b0x[0-9a-f]{6,}", "0x", text)
    text = re.sub(r"[~/][^\s:'\"]*/lib/python3", "/lib/python3", text)
    text = re.sub(r"ipykernel_\d+", "ipykernel_0", text)
    text = re.sub(r"/tmp/tmp\w{8}\b", "/tmp/tmp0", text)
    return re.sub(r"(Ran \d+ tests? in) [\d.]+s", r"\1 0s", text)


def case(session: tuple[str, ...], name: Name) -> Any:
    reason = DIFFERENT.get(name)
    marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
    return pytest.param(session, name, id="-".join(name), marks=marks)


@pytest.mark.parametrize(
    ("session", "name"), [case(session, name) for session in SESSIONS for name in CELLS if name[0] in session]
)
def test_text_is_a_kernels(texts: Callable[[tuple[str, ...]], Texts], session: tuple[str, ...], name: Name) -> None:
    expected, result = texts(session)[name]
    assert result.outcome in ("ok", "error", "memory"), f"the session has ended: {result.message}"
    expected, printed = comparable(expected), comparable(result.text)
    if printed != expected:
        lines = difflib.unified_diff(expected.split("\n"), printed.split("\n"), "kernel", "interpreter", lineterm="")
        pytest.fail("\n".join([CELLS[name], *lines]), pytrace=False)


def test_there_are_enough_cells() -> None:
    assert len(set(CELLS.values())) >= 200
    assert {path.stem for path in FOLDER.iterdir()} == set(FAMILIES) and set(DIFFERENT) < set(CELLS)
