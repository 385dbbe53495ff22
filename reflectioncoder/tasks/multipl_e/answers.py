"""Answers to MultiPL-E's problems: where one ends, and the program that a problem's prompt and an answer make.

A model that goes on behind the prompt writes the function's body. A chat model says the whole function again, and what
its function needs above it: imports, helper functions, a class around them all. That is kept, less the prompt's own
lines, so that nothing is defined twice. Programs are looked at as text here: braces outside of strings and comments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from reflectioncoder.syntax.trees import lines_of
from reflectioncoder.tasks.run_tests import after_opening_fence

# comments, and texts in quotes: what is in them is not the program's structure
_OPAQUE = re.compile(
    r"/\*.*?\*/|(?:(?<=\s)|^)//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL | re.MULTILINE
)
_CLASS = re.compile(r"(?:\A|\n)[^\n]*\b(?:class|namespace|struct|record|interface|enum)\b[^{};]*\Z")
_IMPORT = re.compile(r"^[^\S\n]*(?:import|using)\s[^;(={]*;[^\S\n]*\n?", re.MULTILINE)
_ACCESS = re.compile(r"^[^\S\n]*(?:public|private|protected)[^\S\n]*:[^\S\n]*$", re.MULTILINE)
_PROSE = re.compile(r"\A\s*(?:[A-Z][^\n;{}=]*[.:!][^\S\n]*\n\s*)+")


def cut_program(completion: str, prompt: str, stops: Sequence[str], whole: bool = False) -> str:
    """What of an answer belongs before the tests: the function's body, up to MultiPL-E's first stop text.

    An answer that says the function's head again goes on behind it, up to the brace that closes it where that is the
    stop, and of an answer in a fence the fence is left out; a whole program keeps what stands before the function.
    Cutting what is cut already changes nothing.

    Args:
        completion: the answer, or a whole program.
        prompt: of the problem; its last line is the head of the function.
        stops: where the body ends; that text itself belongs to the tests.
        whole: keep what stands before the body.
    """
    before, head, body = _parts(completion, prompt, stops)
    return before + head + body if whole else body


def assemble_program(completion: str, prompt: str, stops: Sequence[str], whole: bool = False) -> str:
    """The program of a prompt and an answer, up to its tests; for the arguments see `cut`.

    Where the answer says the function's head again, what it says above comes before the prompt's head; what stands
    outside of the answer's class, and imports, before the prompt's class.
    """
    before, head, body = _parts(completion, prompt, stops)
    if whole:
        return before + head + body
    place = prompt.rstrip().rfind("\n") + 1  # of the prompt's head
    outside, inside = _levels(_PROSE.sub("", before))
    classes = _unclosed(_structure(prompt[:place]))
    if classes:
        outside += "".join(_IMPORT.findall(inside))
        inside = _IMPORT.sub("", inside)
        start = prompt.rfind("\n", 0, classes[0]) + 1
    else:
        outside, inside, start = "", outside + inside, place
    middle = prompt[start:place] + _new(inside, prompt)
    return prompt[:start] + _new(outside, prompt) + middle + prompt[place:] + body


def _parts(completion: str, prompt: str, stops: Sequence[str]) -> tuple[str, str, str]:
    """What stands above the function's head, the head, and its body; the first two are empty for a body alone."""
    text = completion.replace("\r\n", "\n")
    text = f"\n{after_opening_fence(text)}".partition("\n```")[0][1:]
    structure = _structure(text)
    line = prompt.rstrip().splitlines()[-1].strip()
    spaces = r"\s*".join(re.escape(part) for part in re.findall(r"\w+|[^\w\s]", line))
    said = (m for m in re.finditer(rf"{spaces}[^\S\n]*\n?", text) if structure[m.start()] == text[m.start()])
    found = next(said, None)
    # Where more is closed than was opened, the answer was a body, and what comes later is no answer any more.
    if found is None or _unclosed(structure[: found.start()]) is None:
        before, head, body, closing = "", "", text, None
    else:
        before, head, body = text[: found.start()], found[0], text[found.end() :]
        closing = _closing(structure[found.end() :]) if all("}" in stop for stop in stops) else None
    if closing is not None:
        return before, head, body[:closing].rstrip()
    ends = [place for stop in stops if (place := f"{body}\n".find(stop)) >= 0]
    return before, head, body[: min(ends, default=len(body))]


def _structure(text: str) -> str:
    """A program with blanks in place of its comments and texts, letter by letter."""
    return _OPAQUE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _unclosed(structure: str) -> list[int] | None:
    """Places of the braces that are open at the end, outermost first; None where one is closed that was not open."""
    places: list[int] = []
    for found in re.finditer(r"[{}]", structure):
        if found[0] == "{":
            places.append(found.start())
        elif not places:
            return None
        else:
            places.pop()
    return places


def _closing(structure: str) -> int | None:
    """Place of the brace that closes what was open at the beginning; None where there is none."""
    depth = 1
    for found in re.finditer(r"[{}]", structure):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.start()
    return None


def _levels(before: str) -> tuple[str, str]:
    """What stands outside of the class (or namespace) that is open at the end, and inside; the class itself is not."""
    outside, start = "", 0
    for place in _unclosed(_structure(before)) or ():
        level = before[start:place]
        outside += _CLASS.sub("\n", level) if _CLASS.search(level) else level[: level.rfind("\n") + 1]
        start = place + 1
    return outside, _ACCESS.sub("", before[start:])


def _new(text: str, prompt: str) -> str:
    """Lines of a text without those that are the prompt's, whatever their blanks."""
    lines = lines_of(text)
    gone: set[int] = set()
    theirs, ours = (["".join(line.split()) for line in side] for side in (lines, lines_of(prompt)))
    for same in SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks():
        if any(re.search(r"\w", line) for line in theirs[same.a : same.a + same.size]):  # not just a lone brace
            gone.update(range(same.a, same.a + same.size))
    kept = "\n".join(line for place, line in enumerate(lines) if place not in gone)
    return kept.strip("\n") + "\n" if kept.strip() else ""
