"""Source text beside its syntax tree, and edits of the text found through the tree.

A bug is a set of replacements in the text of a verified solution, so that comments and layout stay as they were,
bugs on different lines combine freely, and repairing a bug is leaving out its replacements.
This module does not know any bug (see `bugs_expressions.py`, `bugs_statements.py`) and runs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ATOMS = (
    ast.Name,
    ast.Attribute,
    ast.Call,
    ast.Subscript,
    ast.Constant,
    ast.List,
    ast.Dict,
    ast.Set,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.JoinedStr,
)


@dataclass(frozen=True)
class Edit:
    """Replace the characters [start, end) of the solution by `new`."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Mutation:
    """One planted bug and what an explanation needs to know about it.

    Args:
        kind: name of the kind of bug, a key of `mutations.KINDS`.
        edits: replacements in the text of the solution, which do not overlap.
        bad: the fragment as the buggy code has it; empty where something is missing.
        good: the same fragment as the solution has it; empty where the bug is something added.
        line: line number in the solution of the first edit.
        words: further fragments named by the templates of the kind.
    """

    kind: str
    edits: tuple[Edit, ...]
    bad: str
    good: str
    line: int
    words: Mapping[str, str] = field(default_factory=dict)


def apply_edits(text: str, mutations: Sequence[Mutation]) -> str:
    """The solution with the given bugs planted.

    Raises:
        ValueError: two edits overlap.
    """
    edits = sorted((edit for mutation in mutations for edit in mutation.edits), key=lambda e: (e.start, e.end))
    parts, done = [], 0
    for edit in edits:
        if edit.start < done:
            raise ValueError(f"edits overlap at character {edit.start}")
        parts += [text[done : edit.start], edit.new]
        done = edit.end
    return "".join(parts) + text[done:]


class SourceTree:
    """A solution: its text, tree, parents, and the nodes of its function bodies.

    Raises:
        SyntaxError: the text is not Python.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.parent: dict[ast.AST, ast.AST] = {}
        self.function: dict[ast.AST, FunctionNode] = {}
        self.nodes: list[ast.AST] = []
        self._visit(self.tree, None)

    def _visit(self, node: ast.AST, function: FunctionNode | None) -> None:
        if function is not None:
            self.nodes.append(node)
            self.function[node] = function
        inner = node if isinstance(node, FunctionNode) else function
        for name, value in ast.iter_fields(node):
            # Bugs in annotations and decorators seldom change what a test sees.
            if name in ("annotation", "returns", "decorator_list"):
                continue
            children = value if isinstance(value, list) else [value]
            for i, child in enumerate(children):
                if not isinstance(child, ast.AST):
                    continue
                self.parent[child] = node
                if name == "body" and i == 0 and is_docstring(child):
                    continue
                self._visit(child, inner)

    def at(self, line: int, column: int) -> int:
        """Character offset of a tree position; the tree counts columns in bytes."""
        text = self.lines[line - 1]
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Character offsets [start, end) of a node."""
        start = self.at(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return start, self.at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def atom(self, node: ast.AST) -> str:
        """The text of a node, in parentheses where another operator beside it could tear it apart."""
        text = self.of(node)
        return text if isinstance(node, ATOMS) else f"({text})"

    def line(self, offset: int) -> int:
        """Line number of a character."""
        return self.text.count("\n", 0, offset) + 1

    def gap(self, left: ast.AST, right: ast.AST, operator: str) -> tuple[int, int] | None:
        """Where an operator stands between two operands; None where a comment could be taken for it."""
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.text[start:end]
        at = between.find(operator)
        return None if "#" in between or at < 0 else (start + at, start + at + len(operator))

    def replace(self, kind: str, node: ast.AST, new: str, **words: str) -> Mutation:
        """The bug that a node's text is replaced by another."""
        start, end = self.span(node)
        return self.mutation(kind, [Edit(start, end, new)], new, self.text[start:end], **words)

    def mutation(self, kind: str, edits: Sequence[Edit], bad: str, good: str, **words: str) -> Mutation:
        """A bug made of edits, with its line filled in."""
        return Mutation(kind, tuple(edits), bad, good, self.line(edits[0].start), words)

    def block(self, statements: Sequence[ast.AST]) -> tuple[int, int]:
        """Whole lines of consecutive statements, the last line break included."""
        first, last = statements[0].lineno, statements[-1].end_lineno  # type: ignore[attr-defined]
        return self.starts[first - 1], min(self.starts[last], len(self.text))

    def first_line(self, node: ast.AST) -> str:
        """The line a node starts on, without indentation."""
        return self.lines[node.lineno - 1].strip()  # type: ignore[attr-defined]

    def alone(self, statement: ast.stmt) -> bool:
        """Whether a statement has its lines to itself, so that cutting whole lines cuts nothing else."""
        before = self.lines[statement.lineno - 1][: statement.col_offset]
        after = self.lines[(statement.end_lineno or 0) - 1].encode()[statement.end_col_offset :].decode().strip()
        return not before.strip() and (not after or after.startswith("#"))

    def bodies(self) -> Iterator[tuple[ast.AST, list[ast.stmt]]]:
        """Every block of statements inside functions, with the statement that owns it."""
        for owner in [self.tree, *ast.walk(self.tree)]:
            inside = isinstance(owner, FunctionNode) or owner in self.function
            for name in ("body", "orelse"):
                block = getattr(owner, name, None)
                if inside and isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                    yield owner, block

    def enclosing(self, node: ast.AST, kinds: type | tuple[type, ...]) -> ast.AST | None:
        """The nearest ancestor of some kind within the same function."""
        above = self.parent.get(node)
        while above is not None and not isinstance(above, FunctionNode):
            if isinstance(above, kinds):
                return above
            above = self.parent.get(above)
        return None

    def variables(self, node: ast.AST) -> list[str]:
        """Names certainly bound where a node stands: parameters and names assigned on earlier lines."""
        function = self.function[node]
        arguments = function.args
        names = [a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
        line: int = node.lineno  # type: ignore[attr-defined]
        for other in ast.walk(function):
            stored = isinstance(other, ast.Name) and isinstance(other.ctx, ast.Store) and other.lineno < line
            if stored and isinstance(other, ast.Name) and self.function.get(other) is function:
                names.append(other.id)
        return [name for name in dict.fromkeys(names) if name not in ("self", "cls", "_")]

    def scoped(self, node: ast.AST) -> bool:
        """Whether a node stands in a comprehension or lambda, whose names `variables` does not see."""
        return self.enclosing(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)) is not None


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is a statement that consists of a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
