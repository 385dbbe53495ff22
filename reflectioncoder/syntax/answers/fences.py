"""Fenced blocks of a text, as models write them.

CommonMark's rules, with what models add to them: a blank, attributes, braces or a file name around the language; a
fence behind words on its line, in a list or in a quotation; `'''python`. Where a block ends is decided by its code: a
fence inside a docstring or comment ends nothing, because the code before it does not parse. Only `\\n` and `\\r\\n` end
a line, so the contents of literals stay as they are.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reflectioncoder.syntax.answers.dialects import PYTHON_DIALECT, Dialect, kind_of

CONTAINER = r"(?:[^\S\n]*>[^\S\n]?)*[^\S\n]*(?:(?:\d+[.)]|[-*+])[^\S\n]+)?[^\S\n]*"  # quotation marks and a list item
_OPEN = re.compile(
    rf"^(?P<lead>{CONTAINER})(?P<fence>`{{3,}}|~{{3,}})(?P<info>[^`]*)$"
    r"|^(?P<words>(?=.*\S)[^`]*?)(?P<wordfence>`{3,}|~{3,})(?P<wordinfo>[^`~]*)$"
    r"|^(?P<quotes>'''|\"\"\")(?P<quoteinfo>(?:python|py)\d?)[^\S\n]*$",
    re.IGNORECASE,
)
_SPECIAL = r"(?:<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|</s>|<eos>|<end_of_turn>|\[/?INST\])"
TRAILING_TOKENS = re.compile(rf"(?:\s*{_SPECIAL})+\s*\Z")
_MARK = re.compile(r"```|~~~|^(?:'{3}|\"{3})")
_TRIES = 60  # most attempts to find the end of the blocks of one text by their code


@dataclass(frozen=True)
class Fenced:
    """A fenced block of a text.

    Args:
        language: the language after the opening fence, in lower case; empty if there is none.
        code: its contents.
        first: index of its first line, the opening fence, from 0; -1 if the text starts inside the block.
        end: index of the line after its last one.
        closed: whether a closing fence ends it, not the next block or the end of the text.
        words: text before the opening fence on its line.
    """

    language: str
    code: str
    first: int
    end: int
    closed: bool = True
    words: str = ""

    @property
    def kind(self) -> str:
        """Key of the language in `ALIASES`; empty for none or an unknown one."""
        return kind_of(self.language)


@dataclass(frozen=True)
class _Opening:
    fence: str
    language: str
    indent: int  # width of what stands before the fence
    quoted: bool  # inside a quotation (`> `)
    words: str = ""


def unix_text(text: str) -> str:
    """Replace `\\r\\n` by `\\n`, and drop a byte order mark at the beginning."""
    return text.replace("\r\n", "\n").removeprefix("\ufeff")


def language_in(info: str) -> str:
    """Return the language in the words after an opening fence, in lower case: `{.python title="x"}` gives "python".

    A file name gives its suffix. Attributes give nothing.
    """
    found = re.match(r"[\s{(\[<.]*([A-Za-z][\w+#.-]*)(=?)(?::?([\w./\\-]+\.\w+))?", info)
    if found is None or found[2]:
        return ""
    word = found[1].lower().rstrip(".-")
    if not kind_of(word) and (suffix := re.fullmatch(r"[\w-]+\.(\w+)", word)):
        return suffix[1]
    return word


def fenced_blocks(text: str, dialect: Dialect = PYTHON_DIALECT, opened: str | None = None) -> list[Fenced]:
    """Return all fenced blocks of a text, in order.

    Args:
        text: the text; `\\n` ends its lines.
        dialect: the language whose code decides where a block ends.
        opened: language of the block that the text starts in, because the opening fence was in the prompt; None if it
            starts in no block.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    marks = [number for number, line in enumerate(lines) if _MARK.search(line)]
    blocks: list[Fenced] = []
    tries = _TRIES
    state = None if opened is None else _Opening("```", opened, 0, False)
    first, place = -1, 0
    while True:
        if state is None:
            while place < len(marks) and (state := _opening(lines[marks[place]])) is None:
                place += 1
            if state is None:
                return blocks
            first, place = marks[place], place + 1
        later = (marks[k] for k in range(place, len(marks)))
        ends = list(itertools.islice(_ends(lines, later, state), _TRIES if tries > 0 else 1))
        chosen = next((end for end in ends if end[1] in ("fence", "next")), None) or (ends[0] if ends else None)
        if len(ends) > 1 and kind_of(state.language) in ("", "repl", dialect.kind):
            for end in ends:
                if not (tries := tries - 1) > 0:
                    break
                if dialect.whole(_code(lines, first, end, state)):
                    chosen = end
                    break
        block = _block(lines, first, chosen, state)
        blocks.append(block)
        if chosen is None:
            return blocks
        number, how = chosen
        place = next((k for k in range(place, len(marks)) if marks[k] >= number + (how != "next")), len(marks))
        state = None


def prose_of(text: str, blocks: Iterable[Fenced]) -> str:
    """Return what stands outside the blocks of a text, with the words before a fence on its line.

    Args:
        text: the text.
        blocks: all its blocks, as `fenced_blocks` returns them.
    """
    lines: list[str | None] = [*text.split("\n")]
    for block in blocks:
        start = max(block.first, 0)
        lines[start : block.end] = [block.words, *[None] * (block.end - start - 1)]
    return "\n".join(line for line in lines if line is not None)


def split_fenced(text: str) -> list[tuple[str, Fenced | None]]:
    """Split a text into the code of its closed blocks and everything else; the pieces joined are the text.

    Code that stands in a list, in a quotation or on the line of its fence is not a piece of its own.

    Args:
        text: the text; `\\n` ends its lines.

    Returns:
        the pieces in order, each with its block, or None for text, fences included.
    """
    starts = [0, *(found.end() for found in re.finditer("\n", text)), len(text)]
    pieces: list[tuple[str, Fenced | None]] = []
    done = 0
    for block in fenced_blocks(text):
        begin, end = starts[block.first + 1], starts[block.end - 1]
        if block.closed and block.end - block.first > 1 and text[begin:end].strip("\n") == block.code:
            pieces += [(text[done:begin], None), (text[begin:end], block)]
            done = end
    return [*pieces, (text[done:], None)]


def _opening(line: str) -> _Opening | None:
    found = _OPEN.match(line)
    if found is None:
        return None
    if found["fence"]:
        lead = found["lead"]
        return _Opening(found["fence"], language_in(found["info"]), len(lead), ">" in lead)
    if found["quotes"]:
        return _Opening(found["quotes"], language_in(found["quoteinfo"]), 0, False)
    words, language = found["words"], language_in(found["wordinfo"])
    if (kind_of(language) and not words.lstrip().startswith("#")) or (
        words.rstrip().endswith(":") and not found["wordinfo"].strip()
    ):
        return _Opening(found["wordfence"], language, 0, False, words.strip())
    return None


def _ends(lines: Sequence[str], marks: Iterable[int], state: _Opening) -> Iterator[tuple[int, str]]:
    """Yield where a block could end: (line, how), `how` being "fence", "weak", "next" (another opening) or "line"."""
    char, size = state.fence[0], len(state.fence)
    for number in marks:
        line = TRAILING_TOKENS.sub("", lines[number])
        if state.quoted:
            line = re.sub(r"^(?:\s*>\s?)+", "", line)
        run = re.search(rf"{re.escape(char)}{{{min(size, 3)},}}", line)
        if run is None:
            if size == 3 and (opening := _opening(line)) and kind_of(opening.language) not in ("", "other"):
                yield (number, "next")
            continue
        before, after = line[: run.start()], line[run.end() :]
        if not before.strip() and not after.strip():
            if len(run[0]) >= size:
                yield (number, "fence" if len(before) <= state.indent + 3 else "weak")
        elif (
            not before.strip()
            and after[:1] not in (char, "")
            and not kind_of(language_in(after))
            and len(run[0]) >= size
        ):
            yield (number, "weak")
        elif before.strip() and not after.strip() and len(run[0]) >= size and char not in before:
            yield (number, "line")
        elif (opening := _opening(line)) and opening.language and len(run[0]) >= min(size, 3) and size == 3:
            yield (number, "next")


def _code(lines: Sequence[str], first: int, end: tuple[int, str] | None, state: _Opening) -> str:
    inner = list(lines[first + 1 : len(lines) if end is None else end[0]])
    if end is not None and end[1] == "line":
        last = TRAILING_TOKENS.sub("", lines[end[0]])
        inner.append(last[: last.rindex(state.fence[0] * len(state.fence))].rstrip(state.fence[0]).rstrip())
    if state.quoted:
        inner = [re.sub(r"^(?:\s*>\s?)", "", line) for line in inner]
    code = "\n".join(inner)
    if state.indent and not state.quoted:
        code = re.sub(rf"^[^\S\n]{{1,{state.indent}}}", "", code, flags=re.MULTILINE)
        if code[:1].isspace() and not state.words:
            code = textwrap.dedent(code)
    return code.strip("\n")


def _block(lines: Sequence[str], first: int, end: tuple[int, str] | None, state: _Opening) -> Fenced:
    last = len(lines) if end is None else end[0] + (end[1] != "next")
    closed = end is not None and end[1] != "next"
    return Fenced(state.language, _code(lines, first, end, state), first, last, closed, state.words)
