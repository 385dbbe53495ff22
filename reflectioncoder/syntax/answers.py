"""Extracts the code and the analysis from a model's answer, and the asserts from a program, without running anything.

The rules keep output that a model made up from being taken for output that was printed:

- Code blocks are the fenced blocks marked as Python. If there are none, they are the unmarked blocks that look like
  Python.
- The code blocks are joined, up to and including the first one that tests something with an assert. Any other fenced
  block after the first code block ends the code earlier.
- A block that defines everything that an earlier block defines is a new draft and replaces it.
- The analysis is the prose before the end of the code, without other fenced blocks. Text after the code is dropped.
- Text in `<think>` tags is not part of the answer.
- A fence that is never closed extends to the next fence that names a language, or to the end of the text.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from reflectioncoder.syntax.trees import lines_of, names_in, parse_cached, walk

PYTHON = ("python", "py", "python3", "ipython")
FENCE_LINE = re.compile(r"^\s*(`{3,}|~{3,})\s*([\w+.#-]*)[^`]*$")
DEFINITION = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
ASSERT = re.compile(r"^assert\b", re.MULTILINE)
TEST_NAMES = ("test", "check", "run", "_test", "assert")
CODE_LIKE = re.compile(r"^[ \t]*(?:def|class|import|from|assert|for|while|if|return)\b", re.MULTILINE)


@dataclass(frozen=True)
class Fenced:
    """A fenced block of a text.

    Args:
        language: the word after the opening fence, in lower case; empty if there is none.
        code: its contents.
        first: index of its first line, the opening fence, from 0.
        end: index of the line after its last one.
    """

    language: str
    code: str
    first: int
    end: int


@dataclass(frozen=True)
class Extracted:
    """The parts of an answer.

    Args:
        analysis: the prose before the end of the code.
        code: the joined code blocks; empty if there are none.
        kept: the answer up to the end of the code; the whole answer if there is no code.
    """

    analysis: str
    code: str
    kept: str


def without_thoughts(text: str) -> str:
    """Remove the `<think>` section of a reasoning model; empty if the section is not closed."""
    text = text.rpartition("</think>")[2]
    return "" if text.lstrip().startswith("<think>") else text


def fenced_blocks(text: str) -> list[Fenced]:
    """Return all fenced blocks of a text, in order."""
    blocks: list[Fenced] = []
    lines = lines_of(text)
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        found = FENCE_LINE.match(line)
        if opened is None and found:
            opened = (number, found.group(1), found.group(2).lower())
        elif opened is not None and found and found.group(1).startswith(opened[1]):
            # a fence with a language opens a new block; the previous one was never closed
            blocks.append(_fenced(lines, opened, number, number if found.group(2) else number + 1))
            opened = (number, found.group(1), found.group(2).lower()) if found.group(2) else None
    if opened is not None:
        blocks.append(_fenced(lines, opened, len(lines), len(lines)))
    return blocks


def _fenced(lines: Sequence[str], opened: tuple[int, str, str], close: int, end: int) -> Fenced:
    first, _, language = opened
    code = "\n".join(lines[first + 1 : close])
    if lines[first][:1].isspace():  # a block inside a list item
        code = textwrap.dedent(code)
    return Fenced(language, code.strip("\n"), first, end)


def extract(text: str) -> Extracted:
    """Extract analysis and code from an answer; the module docstring lists the rules."""
    lines = lines_of(text)
    blocks = fenced_blocks(text)
    marked = [block for block in blocks if block.language in PYTHON]
    usable = marked or [block for block in blocks if not block.language and CODE_LIKE.search(block.code)]
    chosen: list[Fenced] = []
    taken: list[Fenced] = []
    for block in blocks:
        if block not in usable:
            if chosen:
                break
            continue
        names = set(DEFINITION.findall(block.code))
        chosen = [old for old in chosen if not (own := set(DEFINITION.findall(old.code))) or not own <= names]
        chosen.append(block)
        taken.append(block)
        if asserts_something(block.code):
            break
    code = "\n\n".join(block.code for block in chosen if block.code.strip())
    end = taken[-1].end if code.strip() else len(lines)
    inside = {number for block in blocks for number in range(block.first, block.end)}
    analysis = "\n".join(line for number, line in enumerate(lines[:end]) if number not in inside).strip()
    analysis = re.sub(r"\n{3,}", "\n\n", analysis)
    if not code.strip():
        return Extracted(analysis, "", text.strip())
    kept = "\n".join(lines[:end])
    if end == taken[-1].first + 1 or not FENCE_LINE.match(lines[end - 1]):
        kept += "\n```"
    return Extracted(analysis, code, kept)


def shown(text: str) -> str:
    """Put output in a fenced block whose fences are longer than any in the output."""
    longest = max((len(mark.strip()) for mark in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.strip(chr(10)) or '(nothing)'}\n{fence}"


def asserts_something(code: str) -> bool:
    """Whether a program, when run, tests itself with an assert.

    An assert inside a function counts only if the program's top level uses that function and the function looks like a
    test (it is called `test_f`, `check` or the like, or has no parameters), because a solution may check its arguments
    with asserts. If the text is not valid Python, any line that starts with `assert` counts.
    """
    try:
        body = _body(code)
    except SyntaxError:
        return bool(ASSERT.search(code))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    program = [item for item in body if not isinstance(item, functions)]
    if any(_asserts(item) for item in program):
        return True
    used = {name for item in program for name in names_in(item)}
    return any(
        item.name in used and _asserts(item) and (item.name.lower().startswith(TEST_NAMES) or not item.args.args)
        for item in body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def _asserts(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Assert) for node in walk(statement))


def uses_earlier(code: str, earlier: Sequence[str]) -> bool:
    """Whether a cell reads a name that an earlier cell, but not the cell itself, binds. False if not valid Python."""
    try:
        tree = parse_cached(code)
    except SyntaxError:
        return False
    loaded = {node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    missing = loaded - _bound(tree) - set(dir(builtins))
    if not missing:
        return False
    for cell in earlier:
        try:
            if missing & _bound(parse_cached(cell)):
                return True
        except SyntaxError:
            continue
    return False


def _bound(tree: ast.AST) -> set[str]:
    """Return all names that a piece of code binds anywhere."""
    names: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def checks_for(final: str, last: str, earlier: Sequence[str] = ()) -> str | None:
    """Return the tests of the last program, to be run after the final code.

    The tests are the last program without the definitions that the final code contains as well.

    Args:
        final: the final code.
        last: the last program, whose asserts passed.
        earlier: cells that `last` needs. Their definitions, imports and assignments come first.

    Returns:
        Python source, or None if the tests use nothing that the final code defines.

    Raises:
        SyntaxError: `final` or `last` is not valid Python.
    """
    own = {name for statement in _body(final) for name in _defined(statement)}
    kept: list[ast.stmt] = []
    for cell in earlier:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
        try:
            kept += [item for item in _body(cell) if isinstance(item, kinds) and not set(_defined(item)) & own]
        except SyntaxError:
            continue
    rest = [item for item in _body(last) if not set(_defined(item)) & own]
    if not any(names_in(item) & own for item in rest):
        return None
    rest = [item for item in kept + rest if not (isinstance(item, ast.ImportFrom) and item.module == "__future__")]
    return "\n".join(map(ast.unparse, rest))  # __future__ imports are dropped: they would have to come first


def _body(code: str) -> list[ast.stmt]:
    return parse_cached(code).body


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement defines: a function, a class, or a lambda (`f = lambda: ...`)."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []
