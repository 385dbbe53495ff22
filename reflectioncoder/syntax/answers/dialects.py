"""What the reader of answers must know about a language: its names in fences, and what its code needs and defines.

Python is parsed. Of other languages only the structure is read: braces and names outside comments and strings.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from reflectioncoder.syntax.trees import free_names, names_in, parse_cached, parses, walk

# names of each language in the first line of a fence, as models and renderers write them; the first is our own
ALIASES: dict[str, tuple[str, ...]] = {
    "python": (
        "python", "py", "python3", "python2", "py3", "py2", "ipython", "ipython3", "pyi", "cpython", "python-3",
        "tool_code", "jupyter", "ipynb", "sage", "micropython", "python3.10", "python3.11", "python3.12", "gyp", "rpy",
    ),
    "repl": (
        "python-repl", "pycon", "python-console", "pyconsole", "python-session", "python-shell", "doctest", "pyshell",
    ),
    "java": ("java", "java8", "java11", "java17", "java21", "openjdk", "jsh"),
    "javascript": ("javascript", "js", "node", "nodejs", "node.js", "jsx", "mjs", "cjs", "ecmascript", "es6"),
    "typescript": ("typescript", "ts", "tsx", "mts", "cts", "deno"),
    "cpp": ("cpp", "c++", "cxx", "cc", "hpp", "h++", "c++11", "c++14", "c++17", "c++20", "cpp17", "cpp20", "hxx", "h"),
    "php": ("php", "php7", "php8", "php3", "php4", "php5"),
    "swift": ("swift", "swift5"),
    "rust": ("rust", "rs", "rustlang"),
    "csharp": ("csharp", "c#", "cs", "c-sharp", "dotnet", "c_sharp", ".net"),
    "bash": ("bash", "sh", "shell", "zsh", "ksh", "shellscript", "shell-script", "posix", "dash"),
    "other": (
        "text", "txt", "plaintext", "plain", "output", "out", "stdout", "stderr", "stdin", "console", "terminal", "log",
        "logs", "result", "results", "traceback", "pytb", "py3tb", "execution", "tool_output", "json", "jsonc", "json5",
        "yaml", "yml", "toml", "ini", "xml", "html", "css", "csv", "tsv", "sql", "diff", "patch", "markdown", "md",
        "mdx", "latex", "tex", "math", "mermaid", "dot", "graphviz", "makefile", "make", "dockerfile", "docker", "cmd",
        "bat", "batch", "powershell", "ps1", "pwsh", "shell-session", "shellsession", "sh-session", "bash-session",
        "console-session", "http", "go", "golang", "ruby", "rb", "perl", "pl", "r", "julia", "jl", "lua", "scala",
        "kotlin", "kt", "haskell", "hs", "ocaml", "racket", "d", "c", "objective-c", "objc", "matlab", "fortran",
        "pseudocode", "pseudo", "algorithm", "bibtex", "regex", "ebnf", "svg", "vue", "graphql", "gql", "prolog",
        "requirements", "env", "gitignore", "vb", "vbnet", "fsharp", "f#", "dart", "elixir", "erlang", "clojure",
    ),
}  # fmt: skip
_KIND = {alias: kind for kind, aliases in ALIASES.items() for alias in aliases}


def kind_of(word: str) -> str:
    """Return the key in `ALIASES` of a language's name in a fence; empty if the name is empty or unknown."""
    return _KIND.get(word.lower(), "")


@dataclass(frozen=True)
class Dialect:
    """A language as the reader sees it.

    Args:
        kind: key of the language in `ALIASES`.
        whole: whether a text is code that could end here: it parses, or its braces are closed.
        defines: whether code defines a name.
        provides: names that code defines at its top level.
        needs: names that code uses and does not define.
    """

    kind: str
    whole: Callable[[str], bool]
    defines: Callable[[str, str], bool]
    provides: Callable[[str], frozenset[str]]
    needs: Callable[[str], frozenset[str]]


def top_level(code: str) -> list[ast.stmt]:
    """Return the statements of Python code outside functions and classes: also those in top-level `if` and `try`.

    Returns:
        the statements; empty if the code is not Python.
    """
    try:
        todo = list(parse_cached(code).body)
    except SyntaxError:
        return []
    found = []
    while todo:
        item = todo.pop(0)
        found.append(item)
        for part in ("body", "orelse", "finalbody", "handlers") if isinstance(item, _BLOCKS) else ():
            for inner in getattr(item, part, ()):
                todo += inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
    return found


_BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def bound_by(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds outside functions and classes; `*` for a star import."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    return {n.id for n in walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


@lru_cache(maxsize=256)
def provided_by_python(code: str) -> frozenset[str]:
    """Return the names that Python code binds outside functions and classes; empty if it does not parse."""
    return frozenset(name for item in top_level(code) for name in bound_by(item))


def defines(code: str, name: str) -> bool:
    """Whether Python code defines `name` outside functions and classes; a search in the text if it does not parse."""
    if parses(code):
        return name in provided_by_python(code) and any(
            name in bound_by(item) for item in top_level(code) if not isinstance(item, (ast.Import, ast.ImportFrom))
        )
    return re.search(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", code, re.MULTILINE) is not None


def _needed_by_python(code: str) -> frozenset[str]:
    body = top_level(code)
    used = {name for item in body if isinstance(item, (*FUNCTIONS, ast.ClassDef)) for name in names_in(item)}
    return frozenset(free_names(code) & used) if used else frozenset(free_names(code))


# comments and quoted strings, whose contents are not part of a program's structure
_OPAQUE = re.compile(
    r"/\*.*?(?:\*/|\Z)|(?:(?<=[\s;{}(),])|^)//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'",
    re.DOTALL | re.MULTILINE,
)
_HASH = re.compile(r"(?:(?<=\s)|^)#[^\n]*|" + _OPAQUE.pattern, re.DOTALL | re.MULTILINE)
_BACKTICK = re.compile(r"`(?:\\.|[^`\\])*`|" + _OPAQUE.pattern, re.DOTALL | re.MULTILINE)
_OPAQUE_IN = {"bash": _HASH, "php": _HASH, "javascript": _BACKTICK, "typescript": _BACKTICK}
_WORDS_BEFORE_CALL = frozenset(
    "if for while switch catch return new throw else do case in of not and or match when until elif await yield delete "
    "typeof sizeof using lock fixed foreach guard defer echo print let var const".split()
)
_CALL = re.compile(r"\b([A-Za-z_]\w*)(?:::<[^<>()]*>|<[^<>()]*>)?\s*\(")
_MOST_HEADS, _LONGEST_HEAD = 300, 2000  # places where a function may be defined that are tried, and their characters
_BRACKET = re.compile(r"[();]")
_RECORD = r"[^{}\n]{0,300}\}[^;{}()\n]{0,300}\{"  # a type in braces, with the brace of the body behind it
_RESULT = re.compile(rf"(?:[^;{{}}=]|\{{(?={_RECORD})[^{{}}\n]*\}})*?\{{(?!{_RECORD})")
_BEFORE_CALL = re.compile(r"(?:\.|\b(?:new|return|throw|else|await|case|if|while|for|switch)\b[^{]*|=)\s*$")
_HEADS = r"(?:function|fn|func|class|struct|enum|interface|record|trait|namespace|type|typedef|union|protocol|actor)"


def structure(code: str, kind: str = "") -> str:
    """Replace each character of comments and strings by a blank, so that positions stay the same.

    Args:
        code: a program.
        kind: its language, a key of `ALIASES`.
    """
    opaque = _OPAQUE_IN.get(kind, _OPAQUE)
    return opaque.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), code)


def definition_of(code: str, name: str, kind: str) -> tuple[int, int] | None:
    """Find the definition of a function by its name.

    Args:
        code: a program.
        name: the function's name.
        kind: the language, a key of `ALIASES`.

    Returns:
        start of the line on which the head begins, and the place after the brace that opens its body (the end of the
        head's arrow, `=`, or the like, if there is no brace); None if the code does not define the function.
    """
    text, word = structure(code, kind), re.escape(name)
    for start, end in itertools.islice(_heads(text, word, kind), _MOST_HEADS):
        line = text.rfind("\n", 0, start) + 1
        before = text[max(line, start - _LONGEST_HEAD) : start]
        if not _BEFORE_CALL.search(before):
            return line + len(re.match(r"(?:.*[;{}])?", text[line:start])[0]), end  # type: ignore[index]
    return None


def _heads(text: str, word: str, kind: str) -> Iterator[tuple[int, int]]:
    """Yield where a function may be defined: the place of its name or keyword, and that after the head."""
    if kind == "bash":
        plain = rf"^[^\S\n]*(?:function[^\S\n]+)?{word}[^\S\n]*(?:\([^\S\n]*\))?\s*\{{"
        yield from (found.span() for found in re.finditer(plain, text, re.MULTILINE))
        return
    for found in itertools.islice(re.finditer(rf"\b{word}\s*(?:<[^;{{}}()]{{0,200}}>)?\s*\(", text), _MOST_HEADS):
        close = _closing_bracket(text, found.end())
        if close is None:
            continue
        body = _RESULT.match(text, close, close + _LONGEST_HEAD)
        if body is not None:
            yield found.start(), body.end()
        elif kind == "csharp" and (arrow := re.compile(r"\s*=>").match(text, close)):
            yield found.start(), arrow.end()
    if kind in ("javascript", "typescript"):
        value = r"(?:async\s*)?(?:function\b[^{;]{0,500}\{|[^;{}]{0,500}?=>\s*\{?)"
        assigned = rf"\b(?:const|let|var)\s+{word}\b[^;{{}}=]{{0,500}}=\s*{value}"
        yield from (found.span() for found in re.finditer(assigned, text))


def _closing_bracket(text: str, start: int) -> int | None:
    """Return the place after the bracket that closes one before `start`; None if a statement ends before it."""
    depth = 1
    for found in _BRACKET.finditer(text, start, start + _LONGEST_HEAD):
        if found[0] == ";":
            return None
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    return None


def _closed(code: str, kind: str) -> bool:
    text = structure(code, kind)
    if kind == "bash":
        return not re.search(r"^[^\S\n]*\w+\s*\(\)\s*\{(?!.*^\})", text, re.DOTALL | re.MULTILINE)
    if code.count("/*") > code.count("*/") and kind != "bash":
        return False
    depth = 0
    for mark in re.findall(r"[{}]", text):
        depth += 1 if mark == "{" else -1
    return depth <= 0


def _provided(code: str, kind: str) -> frozenset[str]:
    text = structure(code, kind)
    names = set(re.findall(rf"\b{_HEADS}\s+(\w+)", text)) | set(
        re.findall(r"\b(?:const|let|var|static)\s+(\w+)\s*=", text)
    )
    names |= {found[1] for found in _CALL.finditer(text) if definition_of(code, found[1], kind)}
    if kind == "bash":
        names |= set(re.findall(r"^\s*(?:function\s+)?(\w+)\s*\(\)", text, re.MULTILINE))
    return frozenset(names)


def names_of_calls(code: str, kind: str) -> frozenset[str]:
    """Return the names that a program calls; in Bash, where any word may be a call, all its words."""
    text = structure(code, kind)
    if kind == "bash":
        return frozenset(re.findall(r"[A-Za-z_]\w*", re.sub(r"#[^\n]*", "", code)))
    return frozenset(found[1] for found in _CALL.finditer(text)) - _WORDS_BEFORE_CALL


def _needed(code: str, kind: str) -> frozenset[str]:
    text = structure(code, kind)
    used = names_of_calls(code, kind) | (set() if kind == "bash" else set(re.findall(r"\b[A-Z]\w*\b", text)))
    return frozenset(used - _provided(code, kind))


PYTHON_DIALECT = Dialect("python", parses, defines, provided_by_python, _needed_by_python)


@lru_cache(maxsize=16)
def dialect_of(language: str) -> Dialect:
    """Return the dialect of a language by one of its names; an unknown name gives one that only counts braces."""
    kind = kind_of(language)
    if kind in ("python", "repl"):
        return PYTHON_DIALECT
    return Dialect(
        kind or language.lower(),
        lambda code: bool(code.strip()) and _closed(code, kind),
        lambda code, name: definition_of(code, name, kind) is not None,
        lambda code: _provided(code, kind),
        lambda code: _needed(code, kind),
    )
