"""Answers to MultiPL-E problems: finds the end of an answer, and assembles the program of a prompt and an answer.

A model that continues the prompt writes the body of the function. A chat model repeats the whole function, and adds
what it needs above it: imports, helper functions, a class around everything. These are kept, except lines of the
prompt, so that nothing is defined twice. Programs are analysed as text: by the braces outside strings and comments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from reflectioncoder.syntax.trees import lines_of
from reflectioncoder.tasks.run_tests import after_opening_fence

# comments and quoted strings, whose contents are not part of the program's structure
_OPAQUE = re.compile(
    r"/\*.*?\*/|(?:(?<=\s)|^)//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL | re.MULTILINE
)
_CLASS = re.compile(r"(?:\A|\n)[^\n]*\b(?:class|namespace|struct|record|interface|enum)\b[^{};]*\Z")
_IMPORT = re.compile(r"^[^\S\n]*(?:import|using)\s[^;(={]*;[^\S\n]*\n?", re.MULTILINE)
_ACCESS = re.compile(r"^[^\S\n]*(?:public|private|protected)[^\S\n]*:[^\S\n]*$", re.MULTILINE)
_PROSE = re.compile(r"\A\s*(?:[A-Z][^\n;{}=]*[.:!][^\S\n]*\n\s*)+")


def cut_program(completion: str, prompt: str, stops: Sequence[str], whole: bool = False) -> str:
    """Cut an answer to the part before the tests: the function's body, up to the first stop string.

    If the answer repeats the head of the function, the body starts after it; if the stop strings contain a closing
    brace, the body then ends at the brace that closes the function. Code fences are removed. Cutting is idempotent.

    Args:
        completion: the answer, or a whole program.
        prompt: prompt of the problem; its last line is the head of the function.
        stops: stop strings of the problem, which themselves belong to the tests.
        whole: whether to keep everything before the body.
    """
    before, head, body = _parts(completion, prompt, stops)
    return before + head + body if whole else body


def assemble_program(completion: str, prompt: str, stops: Sequence[str], whole: bool = False) -> str:
    """Assemble the program of a prompt and an answer, without the tests.

    If the answer repeats the head of the function, the code above it is inserted before the head in the prompt. If the
    prompt has a class, imports and code outside the answer's class are inserted before it.

    Args:
        completion: the answer, or a whole program.
        prompt: prompt of the problem; its last line is the head of the function.
        stops: stop strings of the problem.
        whole: whether the completion is a whole program, so that the prompt is not used.
    """
    before, head, body = _parts(completion, prompt, stops)
    if whole:
        return before + head + body
    place = prompt.rstrip().rfind("\n") + 1  # start of the head in the prompt
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
    """Split an answer into the code above the function, its head, and its body; a mere body has only the last part."""
    text = completion.replace("\r\n", "\n")
    text = f"\n{after_opening_fence(text)}".partition("\n```")[0][1:]
    structure = _structure(text)
    line = prompt.rstrip().splitlines()[-1].strip()
    spaces = r"\s*".join(re.escape(part) for part in re.findall(r"\w+|[^\w\s]", line))
    said = (m for m in re.finditer(rf"{spaces}[^\S\n]*\n?", text) if structure[m.start()] == text[m.start()])
    found = next(said, None)
    # If more braces are closed than opened before the head, the answer was a body that ended there.
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
    """Replace each character of comments and strings by a blank, so that positions stay the same."""
    return _OPAQUE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _unclosed(structure: str) -> list[int] | None:
    """Positions of the braces left open at the end, outermost first; None if a brace closes that was never opened."""
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
    """Position of the brace that closes the block open at the beginning; None if there is none."""
    depth = 1
    for found in re.finditer(r"[{}]", structure):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.start()
    return None


def _levels(before: str) -> tuple[str, str]:
    """Split code into the parts outside and inside the class or namespace open at its end, without the class itself."""
    outside, start = "", 0
    for place in _unclosed(_structure(before)) or ():
        level = before[start:place]
        outside += _CLASS.sub("\n", level) if _CLASS.search(level) else level[: level.rfind("\n") + 1]
        start = place + 1
    return outside, _ACCESS.sub("", before[start:])


def _new(text: str, prompt: str) -> str:
    """Remove the lines of the prompt from a text; whitespace is ignored in the comparison."""
    lines = lines_of(text)
    gone: set[int] = set()
    theirs, ours = (["".join(line.split()) for line in side] for side in (lines, lines_of(prompt)))
    for same in SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks():
        if any(re.search(r"\w", line) for line in theirs[same.a : same.a + same.size]):  # more than a lone brace
            gone.update(range(same.a, same.a + same.size))
    kept = "\n".join(line for place, line in enumerate(lines) if place not in gone)
    return kept.strip("\n") + "\n" if kept.strip() else ""
