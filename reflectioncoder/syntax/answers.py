"""The code of a model's answer, and of a program's asserts: pure text and syntax trees.

Rules for an answer, so that no output that a model made up is taken for one that was printed:
- Its code blocks are those marked as Python; where none is, the unmarked ones that look like Python.
- They are joined up to and including the first that tests something with an assert; a block of anything else ends the
  code earlier.
- A block that defines everything an earlier one defines is a new draft and replaces it.
- The prose before the end of the code is the analysis, without any other block in it; what follows the code is cut.
- Thoughts in `<think>` tags are no part of an answer. A fence that is never closed reaches to the next
  that names a language, or to the end.
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
    """A fenced block: its language in lower case, its code, and the lines it takes, fences included."""

    language: str
    code: str
    first: int
    end: int


@dataclass(frozen=True)
class Extracted:
    """What an answer says: analysis, code (empty where there is none), and itself up to the end of the code."""

    analysis: str
    code: str
    kept: str


def without_thoughts(text: str) -> str:
    """An answer without what a reasoning model thinks aloud before it."""
    text = text.rpartition("</think>")[2]
    return "" if text.lstrip().startswith("<think>") else text


def fenced_blocks(text: str) -> list[Fenced]:
    """All fenced blocks of a text, in order."""
    blocks: list[Fenced] = []
    lines = lines_of(text)
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        found = FENCE_LINE.match(line)
        if opened is None and found:
            opened = (number, found.group(1), found.group(2).lower())
        elif opened is not None and found and found.group(1).startswith(opened[1]):
            # a fence with a language opens the next block: the one before was never closed
            blocks.append(_fenced(lines, opened, number, number if found.group(2) else number + 1))
            opened = (number, found.group(1), found.group(2).lower()) if found.group(2) else None
    if opened is not None:
        blocks.append(_fenced(lines, opened, len(lines), len(lines)))
    return blocks


def _fenced(lines: Sequence[str], opened: tuple[int, str, str], close: int, end: int) -> Fenced:
    first, _, language = opened
    code = "\n".join(lines[first + 1 : close])
    if lines[first][:1].isspace():  # a block in a list
        code = textwrap.dedent(code)
    return Fenced(language, code.strip("\n"), first, end)


def extract(text: str) -> Extracted:
    """Analysis and code of an answer, by the rules above."""
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
    """Output between fences that it cannot close."""
    longest = max((len(mark.strip()) for mark in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.strip(chr(10)) or '(nothing)'}\n{fence}"


def asserts_something(code: str) -> bool:
    """Whether running a program runs an assert that tests it; of text that is not Python, whether one starts a line.

    An assert in a function counts only where the program itself uses that function and it looks like a test (a name
    such as `test_f` or `check`, or no parameters): a solution may check its arguments with asserts.
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
    """Whether a cell needs a name that it does not bind itself and that an earlier cell binds."""
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
    """Every name that a piece of code binds anywhere."""
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
    """The last program's asserts, to be run after the final code: all of it but what the final code defines.

    Args:
        final: the final code.
        last: the program whose asserts passed.
        earlier: cells that `last` needed; their definitions, imports and assignments come first.

    Returns:
        Python source, or None where what is left uses nothing that the final code defines.

    Raises:
        SyntaxError: the final code is not Python.
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
    return "\n".join(map(ast.unparse, rest))  # a __future__ import would have to come first


def _body(code: str) -> list[ast.stmt]:
    return parse_cached(code).body


def _defined(statement: ast.stmt) -> list[str]:
    """What a statement defines: a function, a class, or a name for a function (`f = lambda: ...`)."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []
