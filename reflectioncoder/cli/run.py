"""`reflectioncoder run`: runs one program in the interpreter and prints its output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reflectioncoder.cli.arguments import Switches, Verb, positional
from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.errors import UserError

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import CellResult


@dataclass(frozen=True)
class RunArguments:
    """Run one Python program in the isolated interpreter, and print what a notebook would show.

    The exit status is 0 if the program ran to its end (status ok), 1 if it did not, and 2 for bad input. With `--json`
    the object has status, output, exception, line, seconds, peak_mb and isolation.

    Args:
        file: path of the program; `-` reads standard input.
        cells: split the program at lines that start with `# %%`, and run it cell by cell like a notebook.
        timeout: time limit of a cell in seconds.
        memory: memory limit of the program in MB.
        isolation: `auto` uses the strongest that this machine supports; `none` lets the program access files and the
            network.
        libraries: libraries that the program may import besides the standard library, such as numpy or pandas, each
            with what it requires. Other installed packages are hidden.
    """

    file: str = positional()
    cells: bool = False
    timeout: float = 5.0
    memory: int = 512
    isolation: Literal["auto", "full", "reduced", "none"] = "auto"
    libraries: tuple[str, ...] = DEFAULT_LIBRARIES


_MARK = re.compile(r"^# ?%%.*$", re.MULTILINE)


def run_program(arguments: RunArguments, switches: Switches) -> int:
    """Run the program. Raises UserError if the file cannot be read."""
    from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits

    file = arguments.file
    limits = Limits(arguments.timeout, arguments.memory)
    data = _read(file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{file} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}"
        result = CellResult("error", f"SyntaxError: {message}\n", "SyntaxError", message, line)
        return _show([result], 0, "none needed", switches.json)
    cells = _MARK.split(text) if arguments.cells else [text]
    if len(cells) > 1 and not cells[0].strip():
        cells = cells[1:]  # the part before the first mark is blank
    with Interpreter(limits, arguments.isolation, libraries=arguments.libraries) as interpreter:
        results = []
        session = interpreter.session()
        for cell in cells:
            results.append(session.run(cell))
            if not results[-1].ok:
                break
        return _show(results, session.close(peak=True), interpreter.isolation, switches.json)


def _show(results: Sequence[CellResult], peak_mb: int, isolation: str, as_json: bool) -> int:
    last = results[-1]
    output = "".join(part if part.endswith("\n") or not part else part + "\n" for part in (r.text for r in results))
    if as_json:
        seconds = round(sum(result.seconds for result in results), 4)
        facts: dict[str, Any] = {
            "status": last.outcome,
            "output": output,
            "exception": last.exception,
            "line": last.line,
        }
        facts |= {"seconds": seconds, "peak_mb": peak_mb, "isolation": isolation}
        print(json.dumps(facts))
    else:
        sys.stdout.write(output)
        if last.outcome not in ("ok", "error"):
            print(f"reflectioncoder run: {last.outcome}: {last.message}", file=sys.stderr)
    return 0 if last.ok else 1


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None


RUN = Verb("run one program in the isolated interpreter", RunArguments, run_program, json=True)
