"""Answers to MultiPL-E problems: assembles the program of a prompt and an answer.

A base model continues the prompt with the function's body, and then with whatever comes to its mind: its answer ends at
the brace that closes the function, or at a stop text. A chat model writes the function again, with what it needs above
and below it: imports, helper functions, a class around everything. The function is found by its name, and all of that
is kept, except lines of the prompt, a main function and statements that try the function out. Programs are analysed as
text: by the braces outside strings and comments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from reflectioncoder.syntax.answers.dialects import definition_of, dialect_of, names_of_calls, structure
from reflectioncoder.syntax.answers.program import Asked, read_program
from reflectioncoder.syntax.trees import lines_of

_CLASS = re.compile(r"(?:\A|\n)[^\n]*\b(?:class|namespace|struct|record|interface|enum)\b[^{};]*\Z")
_IMPORT = re.compile(r"^[^\S\n]*(?:import|using)\s[^;(={]*;[^\S\n]*\n?", re.MULTILINE)
_ACCESS = re.compile(r"^[^\S\n]*(?:public|private|protected)[^\S\n]*:[^\S\n]*$", re.MULTILINE)
_SCRIPTS = ("javascript", "typescript", "php", "swift", "bash")  # languages with statements outside functions
_DEFINES = re.compile(
    r"(?:@\w+\s+|#\[[^\]]*\]\s*)*(?:(?:export|default|async|public|private|internal|fileprivate|open|final|abstract|static"
    r"|declare|readonly|indirect)\s+)*(?:function|func|class|struct|enum|interface|type|trait|namespace|extension|protocol"
    r"|const|let|var|use|import|require|require_once|define|typealias|actor|infix|prefix|postfix|precedencegroup)\b"
    r"|\$?[\w.\[\]]+\s*=|(?:declare|local|readonly|export|typeset)\s+-?\w|(?:function\s+)?\w+\s*\(\)\s*\{"
)
_PRINTS = re.compile(
    r"(?:console\.|print|echo|var_dump|var_export|process\.|assert|test|main\b|module\.|exports\.|exit|if\s*\(?\s*require)",
    re.I,
)
# the opening of a function that the tests close, for a program whose own function is not the last
_OPEN_END = {
    "java": "    static void endOfAnswer() {\n",
    "csharp": "    static void EndOfAnswer() {\n",
    "cpp": "void end_of_answer() {\n",
    "rust": "#[allow(dead_code)]\nfn end_of_answer() {\n",
    "swift": "func endOfAnswer() {\n",
    "bash": "end_of_answer() {\n    :\n",
}


@dataclass(frozen=True)
class _Function:
    """An answer around the function that was asked for.

    Args:
        before: code above it.
        head: its head, up to the brace that opens the body; empty if the answer begins with the body.
        body: its body, without the brace that closes it.
        closed: whether that brace is there.
        rest: code below it.
        expression: whether the body is an expression, so that no brace closes it; it then holds the head too.
    """

    before: str
    head: str
    body: str
    closed: bool
    rest: str
    expression: bool = False


def function_in(prompt: str) -> str:
    """Name of the function whose head is the last line of a prompt; empty if there is none."""
    lines = prompt.rstrip().split("\n")
    found = re.search(r"(\w+)\s*(?:<[^()]*>)?\s*\(", lines[-1])
    return found[1] if found else ""


def assemble_program(completion: str, prompt: str, stops: Sequence[str], language: str, whole: bool = False) -> str:
    """Assemble the program of a prompt and an answer, without the tests.

    Args:
        completion: the answer, or a whole program.
        prompt: prompt of the problem; its last line is the head of the function.
        stops: stop texts of the problem, which end the body that a base model writes. If all contain a closing brace,
            the tests begin with the brace that closes the function.
        language: the language, by any of its names.
        whole: whether the completion is a whole program, so that the prompt is not used.
    """
    kind, name = dialect_of(language).kind, function_in(prompt)
    code = read_program(completion, Asked(language, name, opened=True)).code
    found = _function(code, name, kind)
    if found is None:
        if whole:
            return code
        return prompt + _body_alone(code, prompt, stops, name, kind)
    before, head = found.before, found.head
    inside, outside = _kept(found.rest, name, kind)
    if whole:
        classes = _unclosed(structure(before, kind))
        start = before.rfind("\n", 0, classes[0]) + 1 if classes else 0
        program = before[:start] + outside + before[start:] + head
        inside = inside if classes else outside + inside
    else:
        program = _above(before, outside, prompt, kind) + _head(head, prompt, kind)
        inside = inside if _classes(prompt, kind) else inside + outside
    if not found.closed:
        return program + _until_stop(found.body, stops)
    return program + _ended(found.body, inside, stops, kind, found.expression)


def _function(code: str, name: str, kind: str) -> _Function | None:
    """Split code around its definition of a function; None if it is the body of the prompt's function."""
    for main in ("main", "Main"):
        if main != name and (place := definition_of(code, main, kind)) and kind not in _SCRIPTS:
            end = _closing(structure(code[place[1] :], kind))
            code = code[: place[0]] + (code[place[1] + end + 1 :] if end is not None else "")
    place = definition_of(code, name, kind) if name else None
    # If more braces are closed than opened before the head, the answer was a body that ended there.
    if place is None or _unclosed(structure(code[: place[0]], kind)) is None:
        return None
    end_of_head = place[1] + len(re.match(r"(?:[^\S\n]*\n)?", code[place[1] :])[0])  # type: ignore[index]
    before, head, after = code[: place[0]], code[place[0] : end_of_head], code[end_of_head:]
    if not head.rstrip().endswith("{"):  # an arrow function whose body is an expression
        found = re.search(r";[^\S\n]*(?:\n|\Z)|\Z", after)
        assert found is not None
        return _Function(before, "", head + after[: found.end()], True, after[found.end() :], True)
    closing = _closing(structure(after, kind))
    if closing is None:
        return _Function(before, head, after, False, "")
    return _Function(before, head, after[:closing], True, after[closing + 1 :])


def _ended(body: str, rest: str, stops: Sequence[str], kind: str, expression: bool = False) -> str:
    """Return the body and what follows, open at the end if the tests begin with a closing brace."""
    closes = bool(stops) and all("}" in stop for stop in stops)
    closed = body.rstrip() if expression else f"{body.rstrip()}\n}}"
    if not closes:
        return f"{closed}\n{rest}"
    if not rest.strip() and not expression:
        return body.rstrip()
    return f"{closed}\n{rest.rstrip()}\n{_OPEN_END[kind]}"


def _body_alone(code: str, prompt: str, stops: Sequence[str], name: str, kind: str) -> str:
    """Return the body that an answer begins with, and below it the functions of the answer that it uses."""
    closing = _closing(structure(code, kind))
    cut = _until_stop(code, stops)
    if closing is None:
        return cut
    body = code[:closing]
    inside, outside = _kept(code[closing + 1 :], name, kind)
    rest = _used(body, inside + outside, prompt, name, kind)
    if not rest and _unclosed(structure(cut, kind)) in ([], None):
        return cut
    return _ended(body, rest, stops, kind)


def _until_stop(body: str, stops: Sequence[str]) -> str:
    text = f"{body}\n"
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    ends += [len(body) - len(stop.rstrip()) for stop in stops if body.endswith(stop.rstrip())]  # its blank is cut off
    return body[: min(ends, default=len(body))]


def _above(before: str, below: str, prompt: str, kind: str) -> str:
    """Return the prompt up to the function's head, with the code that an answer has above the function put into it."""
    place = prompt.rstrip().rfind("\n") + 1  # start of the head in the prompt
    outside, inside = _levels(before, kind)
    classes = _classes(prompt, kind)
    if classes:
        outside += "".join(_IMPORT.findall(inside)) + below
        inside = _IMPORT.sub("", inside)
        start = prompt.rfind("\n", 0, classes[0]) + 1
    else:
        outside, inside, start = "", outside + inside, place
    return prompt[:start] + _new(outside, prompt) + prompt[start:place] + _new(inside, prompt)


def _classes(prompt: str, kind: str) -> list[int]:
    """Places of the braces that are open before the function's head in a prompt."""
    return _unclosed(structure(prompt[: prompt.rstrip().rfind("\n") + 1], kind)) or []


def _head(head: str, prompt: str, kind: str) -> str:
    """Return the prompt's head, or the answer's own where it has other parameters or types."""
    ours = prompt[prompt.rstrip().rfind("\n") + 1 :]
    if "".join(head.split()) == "".join(ours.split()) or not head:
        return ours if head else ""
    if kind in ("java", "csharp") and not re.search(r"\bstatic\b", head):
        head = re.sub(r"^(\s*)((?:public|private|protected|internal)\s+)?", r"\1\2static ", head, count=1)
    return head


def _kept(rest: str, name: str, kind: str) -> tuple[str, str]:
    """Return the code below the function that belongs to the program: inside its class, and outside."""
    levels: list[list[str]] = [[], []]
    text, depth, start, level = structure(rest, kind), 0, 0, 0
    ends = r"[{}]|\n" if kind == "bash" else r"[{};]|\n\s*\n" if kind in _SCRIPTS else r"[{};]"
    for found in re.finditer(ends, text):
        mark = found[0].strip()
        if mark == "}" and depth == 0:  # closes the class
            start, level = found.end(), 1
            continue
        depth += (mark == "{") - (mark == "}")
        if depth or mark == "{":
            continue
        if mark == "}" and re.match(r"[^\S\n]*[^\s}]", text[found.end() :]) and kind != "bash":
            continue  # `};`, `} else {`, `})`
        item, start = rest[start : found.end()], found.end()
        if _belongs(item, name, kind):
            levels[level].append(item)
    last = rest[start:]  # a statement that nothing ends
    if not depth and re.match(r"\s*(?:const|let|var|import|use|declare|\$\w+\s*=|\w+=|#define)", last):
        levels[level] += [last] if _belongs(last, name, kind) else []
    return tuple("".join(f"{item.strip(chr(10))}\n" for item in items) for items in levels)  # type: ignore[return-value]


def _belongs(item: str, name: str, kind: str) -> bool:
    """Whether a part of the code below the function is a definition, not a second one of the function or a trial."""
    text = structure(item, kind).strip()
    if not re.search(r"\w", text) or definition_of(item, name, kind):
        return False
    if kind not in _SCRIPTS:
        return True
    return (
        _DEFINES.match(text) is not None
        and not (_PRINTS.match(text) and not re.match(r"\w+\s*\(\)\s*\{", text))
        and not (
            re.match(r"(?:const|let|var|\$\w+|\w+=)", text)
            and re.search(rf"\b{re.escape(name)}\b\s*(?:\(|\"|\$)", text)
        )
    )


def _used(body: str, rest: str, prompt: str, name: str, kind: str) -> str:
    """Return the definitions in `rest` if the body names one of them; else nothing."""
    dialect = dialect_of(kind)
    given = dialect.provides(rest) - {name} - names_of_calls(prompt, kind)
    words = set(re.findall(r"\w+", body if kind == "bash" else structure(body, kind)))
    if given & words and dialect.whole(rest):
        return rest
    return ""


def _unclosed(text: str) -> list[int] | None:
    """Positions of the braces left open at the end, outermost first; None if a brace closes that was never opened."""
    places: list[int] = []
    for found in re.finditer(r"[{}]", text):
        if found[0] == "{":
            places.append(found.start())
        elif not places:
            return None
        else:
            places.pop()
    return places


def _closing(text: str) -> int | None:
    """Position of the brace that closes the block open at the beginning; None if there is none."""
    depth = 1
    for found in re.finditer(r"[{}]", text):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.start()
    return None


def _levels(before: str, kind: str) -> tuple[str, str]:
    """Split code into the parts outside and inside the class or namespace open at its end, without the class itself."""
    outside, start = "", 0
    for place in _unclosed(structure(before, kind)) or ():
        level = before[start:place]
        outside += _CLASS.sub("\n", level) if _CLASS.search(level) else level[: level.rfind("\n") + 1]
        start = place + 1
    return outside, _ACCESS.sub("", before[start:]) if start else before


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
