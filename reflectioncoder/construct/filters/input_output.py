"""Finds input and output in a piece of code: called names, imported modules, and the commands of a notebook."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from reflectioncoder.syntax.trees import lines_of, parse_cached, walk

IO_NAMES = (
    "open", "input", "dump", "pip", "exec_module", "system", "popen", "urlopen", "urlretrieve", "getpass", "remove",
    "rmtree", "makedirs", "mkdir", "unlink", "read_csv", "to_csv", "savefig", "savetxt", "loadtxt",
)  # fmt: skip
IO_MODULES = (
    "subprocess", "socket", "shutil", "pathlib", "requests", "urllib", "http", "ftplib", "smtplib", "pickle", "shelve",
    "sqlite3", "tempfile", "glob", "ctypes", "multiprocessing", "tkinter", "pip",
)  # fmt: skip
# names of methods that always mean a file or the network, whatever the object is called
PLAIN_METHODS = frozenset(
    ("exec_module", "urlopen", "urlretrieve", "read_csv", "to_csv", "savefig", "savetxt", "loadtxt")
)
# modules that a notebook's cell may use without importing them itself, because an earlier cell has
USUAL_MODULES = frozenset(("os", "io", "sys", "json", "shutil", "codecs", "gzip", "builtins", "np", "pd", "plt"))
STREAM = "stdin"
HARMLESS_MAGICS = frozenset(
    (
        "matplotlib",
        "time",
        "timeit",
        "precision",
        "pprint",
        "config",
        "autoreload",
        "load_ext",
        "capture",
        "who",
        "whos",
    )
)
COMMAND = re.compile(
    r"^(?P<indent>\s*)(?P<target>[\w, \t]+=[ \t]*)?(?P<mark>!!?|%%?)[ \t]*(?P<name>[\w./-]+)(?P<rest>.*)$"
)
WORD = re.compile(r"\w+")
IoMatch = Literal["tree", "words"]


@lru_cache(maxsize=256)  # called during the conversation and again for the whole sequence
def input_or_output(code: str, names: Collection[str], modules: Collection[str], match: IoMatch) -> str | None:
    """The first input or output operation in a piece of code; None if there is none.

    Names are matched on the syntax tree, so "open" in a text or a method `open` of the code's own class does not count.
    Commands of a notebook (`!ls`, `%run`, `%%bash`) count, apart from harmless ones such as `%timeit`, whose code is
    looked at. Code that is no Python even without them falls back to its words at the start of a line.

    Args:
        code: a program or a cell.
        names: called names that count, bare or as an attribute of a module.
        modules: modules whose import counts.
        match: `words` looks for the plain words everywhere, as the paper does.
    """
    if match == "words":
        keywords = {*names, *modules}
        return next((f"the word `{word.group()}`" for word in WORD.finditer(code) if word.group() in keywords), None)
    try:
        return _in_tree(parse_cached(code), names, modules)
    except SyntaxError:
        pass
    plain = []
    for number, line in enumerate(lines_of(code), 1):
        found = COMMAND.match(line)
        if found is None:
            plain.append(line)
        elif found["mark"].startswith("%") and found["name"] in HARMLESS_MAGICS:
            timed = found["name"] in ("time", "timeit") and found["mark"] == "%"
            plain.append(f"{found['indent']}{found['rest'].strip() if timed and found['rest'].strip() else 'pass'}")
        else:
            return f"`{found['mark']}{found['name']}` in line {number}"
    try:
        return _in_tree(parse_cached("\n".join(plain)), names, modules)
    except SyntaxError:
        for number, line in enumerate(plain, 1):
            words = WORD.findall(line)
            if words and words[0] in names and line.lstrip().startswith(words[0]):
                return f"`{words[0]}` in line {number}"
        return None


def _in_tree(tree: ast.Module, names: Collection[str], modules: Collection[str]) -> str | None:
    found = walk(tree)
    own = {node.name for node in found if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    own |= {node.id for node in found if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in found if isinstance(node, ast.arg)}
    imported: dict[str, str] = {}
    kinds = (ast.Import, ast.ImportFrom, ast.Name, ast.Attribute)
    nodes = sorted((node for node in found if isinstance(node, kinds)), key=_place)
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = module or alias.name
                if name.split(".")[0] in modules:
                    return f"`{name}` imported in line {node.lineno}"
                if (module, alias.name) == ("sys", STREAM):
                    return f"`{STREAM}` imported in line {node.lineno}"
                imported[alias.asname or alias.name.split(".")[0]] = f"{module}.{alias.name}".strip(".")
    known = {*imported, *USUAL_MODULES} - own
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in own:
            # `from json import dump as d` is found by what was imported, `open` by its own name
            called = imported.get(node.id, node.id).split(".")[-1]
            if called in (*names, "get_ipython"):
                return f"`{called}` in line {node.lineno}"
        if isinstance(node, ast.Attribute):
            root = _root(node)
            if (node.attr in names and root in known) or (
                node.attr in PLAIN_METHODS & {*names} and node.attr not in own
            ):
                return f"`{root}.{node.attr}`".replace("`.", "`") + f" in line {node.lineno}"
            if node.attr == STREAM and root in known and imported.get(root, root) == "sys":
                return f"`{root}.{STREAM}` in line {node.lineno}"
    return None


def _place(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
