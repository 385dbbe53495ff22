"""Python in the text of an answer: repairs of its dress, code without fences, and where a program ends.

Everything works on the text, never on a rewritten tree, so that the code stays as the model wrote it.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Iterator

from reflectioncoder.syntax.answers.dialects import (
    FUNCTIONS,
    bound_by,
    defines,
    kind_of,
    top_level,
)
from reflectioncoder.syntax.answers.fences import TRAILING_TOKENS
from reflectioncoder.syntax.trees import names_in, parse_cached, parses, walk

_NAMED = r"\w[\w.]*(?:[^\S\n]+as[^\S\n]+\w+)?"
_IMPORT = rf"import[^\S\n]+{_NAMED}(?:[^\S\n]*,[^\S\n]*{_NAMED})*[^\S\n]*(?:[;#].*)?$|from[^\S\n]+\S+[^\S\n]+import\b"
_HEAD = (
    r"(?:async[^\S\n]+)?def[^\S\n]+\w+[^\S\n]*[\[(]|class[^\S\n]+\w+[^\S\n]*[:(\[]|@\w[\w.]*(?:\(.*)?$"
    r"|>>> |In \[\d+\]: "
)
_VALUE = r"[A-Za-z_][\w.]*(?:\[[^\]\n]*\])?[^\S\n]*(?::[^\S\n]*[\w\[\], .]+)?=[^=]"
_START = re.compile(rf"[^\S\n]*(?:{_HEAD}|{_IMPORT}|{_VALUE})")
_BEGINS_CODE = re.compile(rf"(?!\s*(?:>>>|In \[))[^\S\n]*(?:{_HEAD}|{_IMPORT}|{_VALUE})")
_CODE_LINE = re.compile(
    rf"^[^\S\n]*(?:{_HEAD}|{_IMPORT}|(?:assert|for|while|if|return|with)\b.*[^\w\s.,!?]|print\()", re.MULTILINE
)
_IPYTHON = re.compile(r"\s*(?:In \[\d+\]|\.\.\.):")
# what may stand before the first statement on its line
_LEAD = re.compile(rf"(?:\s*<[^<>\n]+>)*(?:\s*<!\[CDATA\[)?(?:[A-Z][\w ]*:[^\S\n]+)?(?={_HEAD}|{_IMPORT})")
_BLANKS, _INVISIBLE = "\u00a0\u2007\u202f\u3000", "\u200b\u200c\u200d\u2060\ufeff"
_TRANSLATED = str.maketrans(dict.fromkeys(_BLANKS, " ") | dict.fromkeys(_INVISIBLE))
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})
_MAGIC = re.compile(r"^[^\S\n]*(?:[%!]|\?)\w.*$\n?", re.MULTILINE)
_INPUT = frozenset({"input", "print", "pprint", "doctest", "unittest", "pytest", "raw_input", "stdin"})


def looks_like_code(text: str) -> bool:
    """Whether a text has a line that begins as a Python statement does, valid or not."""
    return _CODE_LINE.search(text) is not None


def without_prompts(code: str) -> str:
    """Turn the transcript of a Python or IPython console into its statements; other text stays as it is."""
    lines = code.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if re.match(r"\s*In \[\d+\]: ", first):
        kept = [re.sub(r"^\s*(?:In \[\d+\]|\.\.\.): ?", "", line) for line in lines if _IPYTHON.match(line)]
        return "\n".join(kept)
    if not first.lstrip().startswith(">>>"):
        return code
    indent = len(first) - len(first.lstrip())
    return "\n".join(line[indent + 4 :] for line in lines if re.match(r"(?:>>>|\.\.\.)(?: |$)", line[indent:]))


def new_side(code: str) -> str:
    """Return the new lines of a diff: those added and those kept."""
    lines = [line for line in code.split("\n") if not re.match(r"-|@@|\+\+\+", line)]
    return "\n".join(line[1:] if line[:1] in ("+", " ") else line for line in lines)


def _without_numbers(code: str) -> str:
    """Remove line numbers that stand before all lines."""
    lines = [line for line in code.split("\n") if line.strip()]
    if len(lines) > 1 and all(re.match(r"\s*\d+(?:[:.|)]|\s|$)", line) for line in lines):
        return re.sub(r"^[^\S\n]*\d+[:.|)]?[^\S\n]?", "", code, flags=re.MULTILINE)
    return code


def repaired(code: str) -> str:
    """Return the code with what a page or a console has put around it removed, if it is Python only then.

    Tried in order: as it is, without console prompts, with plain blanks and quotes, without notebook commands, without
    HTML entities, and moved to the left.

    Args:
        code: contents of a block.

    Returns:
        the first form that is Python; the code unchanged if none is.
    """
    first, _, rest = code.partition("\n")
    if rest and kind_of(first.strip()) in ("python", "repl"):  # the language on a line of its own
        code = rest
    if parses(code):
        return code
    for form in _forms(code):
        if form.strip() and parses(form) and not (code[:1].isspace() and is_body(code) and not _has_definition(form)):
            return form
    return code


def is_body(code: str, head: str = "") -> bool:
    """Whether code is the indented body of a function, perhaps with functions of its own behind it.

    Args:
        code: the code.
        head: what it continues; empty for a function without parameters.
    """
    if not code.strip("\n")[:1].isspace():
        return False
    return any(parses(f"{before}{code}\n") for before in (head, "def _():\n") if before)


def as_body(code: str) -> str | None:
    """Indent code that returns outside a function, so that it can be a function's body; None if it does not."""
    if parses(code) and any(isinstance(item, ast.Return) for item in top_level(code)) and not _has_definition(code):
        return textwrap.indent(code, "    ") if '"""' not in code and "'''" not in code else None
    return None


def _has_definition(code: str) -> bool:
    return any(isinstance(item, (*FUNCTIONS, ast.ClassDef)) for item in parse_cached(code).body)


def _forms(code: str) -> Iterator[str]:
    yield without_prompts(code)
    if code.lstrip()[:1].isdigit():
        yield textwrap.dedent(_without_numbers(code))
    plain = TRAILING_TOKENS.sub("", code.translate(_TRANSLATED))
    yield plain
    yield textwrap.dedent(without_prompts(plain))
    if "“" in code or "”" in code or "’" in code:
        yield plain.translate(_QUOTES)
    if _MAGIC.search(plain):
        yield _MAGIC.sub("", plain)
        yield textwrap.dedent(_MAGIC.sub("", plain))
    if "&" in plain:
        yield html.unescape(plain)
    if re.search(r"^\s*</?\w+>|</?\w+>\s*$", plain):
        yield re.sub(r"\A\s*(?:</?\w+[^<>\n]*>\s*?\n?)+|(?:</\w+>\s*)+\Z", "", plain)


def whole_statements(code: str, before: str = "") -> str | None:
    """Return the longest part of a text from its beginning that is Python and ends between top-level statements.

    Args:
        code: the text: code, perhaps with something else behind it.
        before: code in front of it, such as the head of a function whose body the text begins with.

    Returns:
        the part, which may be empty; None if the error is in the first statement, so that nothing can be cut off.
    """
    if "\r" in before + code:  # also ends a line for the parser
        return code if parses(before + code) else None
    lines = code.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    count = len(lines)
    for _ in range(200):
        try:
            _compiled(before + "\n".join(lines[:count]) + "\n")
        except SyntaxError as error:
            at = min((error.lineno or len(lines)) - before.count("\n"), count) - 1
        else:
            return "\n".join(lines[:count])
        while at >= 0 and not _begins_statement(lines[at]):
            at -= 1
        if at <= first:
            return "" if at == first and before and not looks_like_code(lines[first]) else None
        while at > first and (not lines[at - 1].strip() or lines[at - 1][0] in "@#"):
            at -= 1  # decorators and comments belong to what follows them
        if at <= first:
            return None
        count = at
    return None


def is_program(code: str) -> bool:
    """Whether a text is Python that can be run: it parses, and returns nowhere but in functions."""
    try:
        _compiled(code)
    except SyntaxError:
        return False
    return True


def without_dangling(code: str) -> str:
    """Remove from the end of code decorators and heads of statements that have nothing below them."""
    lines = code.rstrip().split("\n")
    dangling = re.compile(r"@|\s*$|(?!else|elif|except|finally)[a-z].*:\s*(?:#.*)?$")
    while lines and dangling.match(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _begins_statement(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and not re.match(r"(?:else|elif|except|finally)\b|[)\]}]", line)


def _compiled(code: str) -> None:
    tree = parse_cached(code)
    for item in tree.body:  # what the parser accepts and the compiler does not, without compiling all
        if isinstance(item, (ast.Return, ast.Break, ast.Continue)):
            raise SyntaxError("outside function", ("", item.lineno, 1, ""))


def bare_codes(lines: list[str]) -> list[tuple[int, int, str]]:
    """Find Python between prose, without any fence.

    Args:
        lines: consecutive lines of an answer outside fenced blocks.

    Returns:
        (index of the first line, index after the last one, code) of each part.
    """
    found: list[tuple[int, int, str]] = []
    place, tries = 0, 0
    while place < len(lines) and tries < 60:
        if not _START.match(lines[place]):
            if (lead := _LEAD.match(lines[place])) is None or not lead[0]:
                place += 1
                continue
            lines = [*lines[:place], lines[place][lead.end() :], *lines[place + 1 :]]
        tries += 1
        indent = len(lines[place]) - len(lines[place].lstrip())
        end = place + 1
        while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) >= indent):
            end += 1
        if re.match(r"\s*(?:>>>|In \[)", lines[place]):  # a transcript ends at a blank line, or where code begins
            more = range(place + 1, end)
            end = next((k for k in more if not lines[k].strip() or _BEGINS_CODE.match(lines[k])), end)
        text = textwrap.dedent("\n".join(lines[place:end]))
        if text.startswith((">>>", "In [")):
            code = without_prompts(text)
            kept = code if parses(code) else None
            taken = end - place
        else:
            text = text.translate(_TRANSLATED) if not parses(text) else text
            text = _until_tag(text)
            kept = whole_statements(text)
            taken = kept.count("\n") + 1 if kept else 0
        code = _without_words(kept) if kept else ""
        if not code.strip():
            place += 1
            continue
        found.append((place, place + taken, code))
        place += max(1, taken)
    return found


def _until_tag(text: str) -> str:
    """Cut at a special token or closing tag that stands behind code, as after `return a + b<|im_end|>`."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        cut = re.sub(r"(?:<\|[^|<>]{1,40}\|>|</\w+>|\[/\w+\]|\]\]>|```).*$", "", line)
        if cut != line and not parses("\n".join(lines)):
            return "\n".join([*lines[:number], cut])
    return text


def _without_words(code: str) -> str:
    """Remove top-level statements that are words of prose which happen to be Python, such as `Done` or `Output: 3`."""
    lines = code.split("\n")
    for item in reversed(parse_cached(code).body):
        value = getattr(item, "value", None)
        word = isinstance(item, ast.Expr) and not isinstance(value, (ast.Call, ast.Await, ast.Constant))
        number = isinstance(item, ast.Expr) and isinstance(value, ast.Constant) and not isinstance(value.value, str)
        note = isinstance(item, ast.AnnAssign) and (
            item.value is None
            and isinstance(item.target, ast.Name)
            and (item.target.id[:1].isupper() or isinstance(item.annotation, (ast.Constant, ast.BinOp, ast.Call)))
        )
        if word or number or note:
            del lines[item.lineno - 1 : item.end_lineno]
    return "\n".join(lines).strip("\n")


def is_stub(code: str, name: str) -> bool:
    """Whether a function is only announced: its body has nothing but a docstring, `...`, `pass` or an error."""
    for item in parse_cached(code).body if parses(code) else ():
        if isinstance(item, FUNCTIONS) and item.name == name:
            rest = [
                part for part in item.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
            return all(
                isinstance(part, ast.Pass) or (isinstance(part, ast.Raise) and "NotImplementedError" in ast.dump(part))
                for part in rest
            )
    return False


def without_trial(code: str, name: str) -> str:
    """Remove from the end of a program the statements that try the function out: asserts, prints, reading of input.

    Args:
        code: a program that defines the function.
        name: the function's name.
    """
    if "\r" in code or not parses(code) or not defines(code, name):
        return code
    body = parse_cached(code).body
    users = {name}
    for _ in body:
        more = {item.name for item in body if isinstance(item, FUNCTIONS) and names_in(item) & (users | _INPUT)} | users
        if more == users:
            break
        users = more
    first = next(k for k, item in enumerate(body) if name in bound_by(item) or _binds_inside(item, name))
    lines = code.split("\n")
    end = len(body)
    while end > first + 1 and _tries_out(body[end - 1], users, name):
        end -= 1
    if end == len(body):
        return code
    if body[end].lineno == body[end - 1].end_lineno:
        return code  # on one line with the program
    kept = lines[: body[end - 1].end_lineno]
    return "\n".join(kept)


def behind_prompt(prompt: str, code: str, name: str) -> str:
    """Append a completion to its prompt, as one program.

    Args:
        prompt: imports, helper functions and the head of the function.
        code: the function's body, or a program that defines the function. Imports from `__future__` at the beginning of
            a program go in front of the prompt, because nothing else may.
        name: the function's name.
    """
    if "__future__" not in code or "\r" in code or not defines(code, name) or not parses(code):
        return prompt + code
    lines, first = code.split("\n"), []
    for item in parse_cached(code).body:
        if isinstance(item, ast.ImportFrom) and item.module == "__future__":
            for number in range(item.lineno - 1, item.end_lineno or item.lineno):
                first.append(lines[number])
                lines[number] = ""
    return "\n".join([*first, prompt]) + "\n".join(lines)


def _binds_inside(item: ast.stmt, name: str) -> bool:
    return any(isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name == name for node in walk(item))


def _tries_out(item: ast.stmt, users: set[str], name: str) -> bool:
    if isinstance(item, ast.Assert):
        return True
    if isinstance(item, (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return False
    names = names_in(item)
    if isinstance(item, ast.If) and "__name__" in names_in(item.test):
        return True
    if name in bound_by(item) or (isinstance(item, (ast.Assign, ast.AnnAssign)) and not names & (users | _INPUT)):
        return False
    return bool(names & (users | _INPUT)) or (isinstance(item, ast.Expr) and not isinstance(item.value, ast.Call))
