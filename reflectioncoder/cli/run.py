"""`reflectioncoder run`: one program in the interpreter, its text on standard output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits

USAGE = """\
usage: reflectioncoder run FILE [--cells] [--timeout S] [--memory MB] [--isolation LEVEL] [--json]

Run a Python program in the isolated interpreter and print what a notebook would show. FILE `-` reads standard input.

  --cells            split the program at lines that start with `# %%` and run cell by cell, as a notebook does
  --timeout S        seconds a cell may take (default 5)
  --memory MB        memory the program may take (default 512)
  --isolation LEVEL  auto (default), full, reduced, or none, which lets the program reach files and network
  --json             one JSON object: status, output, exception, line, seconds, peak_mb, isolation

The exit status is 0 only where the program ran to its end: status ok. Others are 1, and 2 for bad input.
"""
_MARK = re.compile(r"^# ?%%.*$", re.MULTILINE)


def run_verb(words: Sequence[str]) -> int:
    """The verb. Raises UserError for bad flags and files that cannot be read."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    file, options = _options(words)
    limits = Limits(options["timeout"], options["memory"])
    data = _read(file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{file} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}"
        result = CellResult("error", f"SyntaxError: {message}\n", "SyntaxError", message, line)
        return _show([result], 0, "none needed", options["json"])
    cells = _MARK.split(text) if options["cells"] else [text]
    if len(cells) > 1 and not cells[0].strip():
        cells = cells[1:]  # nothing stands before the first mark
    with Interpreter(limits, options["isolation"]) as interpreter:
        results = []
        session = interpreter.session()
        for cell in cells:
            results.append(session.run(cell))
            if not results[-1].ok:
                break
        return _show(results, session.close(peak=True), interpreter.isolation, options["json"])


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


def _options(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"cells": False, "json": False, "timeout": 5.0, "memory": 512, "isolation": "auto"}
    files: list[str] = []
    rest = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            files.append(word)
            continue
        key = word[2:]
        if key not in options:
            raise UserError(f"unknown flag {word}; one of {', '.join('--' + name for name in options)}")
        if isinstance(options[key], bool):
            options[key] = True
            continue
        if not rest:
            raise UserError(f"flag {word} needs a value")
        value = rest.pop(0)
        try:
            options[key] = type(options[key])(value)
        except ValueError:
            raise UserError(f"flag {word}: expected a number, found {value!r}") from None
    if len(files) != 1:
        raise UserError(f"give one file, or - for standard input; found {len(files)}")
    return files[0], options
