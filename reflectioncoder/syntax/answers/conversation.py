"""Splits an answer of a conversation into analysis and the cell to run, and reads the final answer.

The rules keep output that a model made up from being taken for output that was printed:

- Code blocks are the fenced blocks marked as Python. If there are none, they are the unmarked blocks that look like
  Python; if there are none either, they are the code between the prose.
- The code blocks are joined, up to and including the first one that tests something with an assert. Any other fenced
  block after the first code block ends the code earlier.
- A block that defines everything that an earlier block defines is a new draft and replaces it.
- The analysis is the prose before the end of the code, without other fenced blocks. Text after the code is dropped.
- A fence that is never closed extends to the next fence that names a language, or to the end of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reflectioncoder.syntax.answers.fences import Fenced, fenced_blocks, unix_text
from reflectioncoder.syntax.answers.program import Asked, read_program
from reflectioncoder.syntax.answers.python_text import bare_codes, repaired
from reflectioncoder.syntax.cells import asserts_something

_DEFINITION = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
_FENCE_LINE = re.compile(r"\s*(?:`{3,}|~{3,})")
_CODE_LIKE = re.compile(r"^[ \t]*(?:def|class|import|from|assert|for|while|if|return)\b", re.MULTILINE)


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


def extract(text: str) -> Extracted:
    """Extract analysis and code from an answer without thoughts; the module docstring lists the rules."""
    text = unix_text(text)
    lines = text.split("\n")
    blocks = fenced_blocks(text)
    marked = [block for block in blocks if block.kind in ("python", "repl") and _cell(block).strip()]
    usable = marked or [block for block in blocks if not block.language and _CODE_LIKE.search(_cell(block))]
    other = {number for block in blocks for number in range(block.first, block.end) if block.language}
    bare = [] if usable else _bare(["" if number in other else line for number, line in enumerate(lines)])
    if bare:
        blocks = usable = bare
        other |= {number for number, line in enumerate(lines) if _FENCE_LINE.match(line)}
    chosen: list[tuple[str, set[str]]] = []
    last: Fenced | None = None
    for block in blocks:
        if block not in usable:
            if chosen:
                break
            continue
        cell = _cell(block)
        names = set(_DEFINITION.findall(cell))
        chosen = [old for old in chosen if not old[1] or not old[1] <= names] + [(cell, names)]
        last = block
        if asserts_something(cell):
            break
    code = "\n\n".join(cell for cell, _ in chosen if cell.strip())
    end = last.end if last is not None and code.strip() else len(lines)
    inside = {number for block in blocks for number in range(block.first, block.end)} | (other if bare else set())
    prose = [block.words for block in blocks if block.words and block.end <= end]
    said = [line for number, line in enumerate(lines[:end]) if number not in inside]
    analysis = re.sub(r"\n{3,}", "\n\n", "\n".join([*said, *prose]).strip())
    if last is None or not code.strip():
        return Extracted(analysis, "", text.strip())
    kept = "\n".join(lines[:end])
    if not bare and not last.closed:
        fence = re.search(r"`{3,}|~{3,}|'{3}|\"{3}", lines[last.first])
        kept = kept.rstrip("\n") + f"\n{fence[0] if fence else '```'}"
    return Extracted(analysis, code, kept)


def _cell(block: Fenced) -> str:
    """Code of a block; a console's transcript counts only where it defines something, and without its output."""
    if block.kind == "repl" and not _DEFINITION.search(repaired(block.code)):
        return ""
    return repaired(block.code)


def _bare(lines: list[str]) -> list[Fenced]:
    """Blocks for the code between prose, if some of it defines or asserts something."""
    found = [Fenced("python", code, first, end) for first, end, code in bare_codes(lines)]
    if not any(_DEFINITION.search(block.code) or asserts_something(block.code) for block in found):
        return []
    return found


def shown(text: str) -> str:
    """Put output in a fenced block whose fences are longer than any in the output."""
    longest = max((len(mark.strip()) for mark in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.strip(chr(10)) or '(nothing)'}\n{fence}"


def final_program(text: str, name: str | None = None) -> tuple[str, str, str]:
    """Read a final answer, which should hold one program.

    Helper functions and imports in blocks of their own belong to the program; examples of use and output do not.

    Args:
        text: the answer without thoughts.
        name: the function that it should define; None or empty if unknown.

    Returns:
        (code, reason, detail). The reason is empty if there is a program, else that of the funnel.
    """
    found = read_program(text, Asked(name=name or "", trials=True))
    if found.rivals:
        return "", "several_final_codes", f"the final answer has {found.blocks} code blocks, which define the same"
    if not found.code:
        holds = f"the final code block holds {found.language or 'nothing'}"
        blocks = any(block.first >= 0 for block in fenced_blocks(unix_text(text)))
        return "", "no_final_code", holds if blocks else "the final answer has no code blocks"
    return found.code.rstrip("\n"), "", ""
