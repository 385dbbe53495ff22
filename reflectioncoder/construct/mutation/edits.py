"""Edits of source text that are located through its syntax tree.

A bug is a set of replacements in the text of a verified solution. So comments and layout are kept, bugs on different
lines can be combined, and a bug is repaired by leaving out its replacements. The kinds of bugs are defined in
`bugs_expressions.py` and `bugs_statements.py`. This module runs no code.
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
    """A replacement of the characters [start, end) of the solution by `new`."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Mutation:
    """One bug that can be planted, with the facts that its explanation needs.

    Args:
        kind: name of the kind of bug, a key of `BUG_KINDS` (in `kinds.py`).
        edits: non-overlapping replacements in the text of the solution.
        bad: the fragment in the buggy code; empty if the bug removes code.
        good: the same fragment in the solution; empty if the bug adds code.
        line: line of the first edit in the solution, from 1.
        words: further fragments that the templates of the kind use.
        clauses: cause and repair, for mistakes that a problem brings along and that have no templates.
    """

    kind: str
    edits: tuple[Edit, ...]
    bad: str
    good: str
    line: int
    words: Mapping[str, str] = field(default_factory=dict)
    clauses: tuple[str, str] | None = None


def apply_edits(text: str, mutations: Sequence[Mutation]) -> str:
    """Return the solution with the given bugs planted.

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
    """A solution: its text, its syntax tree, the parent of each node, and the nodes of its function bodies.

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
            # Bugs in annotations and decorators rarely affect a test.
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
        """Return the character offset of a position in the tree, whose columns count bytes."""
        text = self.lines[line - 1]
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return the character offsets [start, end) of a node."""
        start = self.at(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return start, self.at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        """Return the source of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def atom(self, node: ast.AST) -> str:
        """Return the source of a node, in parentheses if an adjacent operator could change its meaning."""
        text = self.of(node)
        return text if isinstance(node, ATOMS) else f"({text})"

    def line(self, offset: int) -> int:
        """Return the line number of a character offset, from 1."""
        return self.text.count("\n", 0, offset) + 1

    def gap(self, left: ast.AST, right: ast.AST, operator: str) -> tuple[int, int] | None:
        """Return the offsets of the operator between two operands; None if a comment could be mistaken for it."""
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.text[start:end]
        at = between.find(operator)
        return None if "#" in between or at < 0 else (start + at, start + at + len(operator))

    def replace(self, kind: str, node: ast.AST, new: str, **words: str) -> Mutation:
        """Create the bug that replaces the source of a node by `new`."""
        start, end = self.span(node)
        return self.mutation(kind, [Edit(start, end, new)], new, self.text[start:end], **words)

    def mutation(self, kind: str, edits: Sequence[Edit], bad: str, good: str, **words: str) -> Mutation:
        """Create a bug from edits; its line is that of the first edit."""
        return Mutation(kind, tuple(edits), bad, good, self.line(edits[0].start), words)

    def block(self, statements: Sequence[ast.AST]) -> tuple[int, int]:
        """Return the offsets [start, end) of whole lines of statements, including the last line break."""
        first, last = statements[0].lineno, statements[-1].end_lineno  # type: ignore[attr-defined]
        return self.starts[first - 1], min(self.starts[last], len(self.text))

    def first_line(self, node: ast.AST) -> str:
        """Return the line on which a node starts, without indentation."""
        return self.lines[node.lineno - 1].strip()  # type: ignore[attr-defined]

    def alone(self, statement: ast.stmt) -> bool:
        """Whether no other code shares the lines of a statement, so that whole lines can be cut."""
        before = self.lines[statement.lineno - 1][: statement.col_offset]
        after = self.lines[(statement.end_lineno or 0) - 1].encode()[statement.end_col_offset :].decode().strip()
        return not before.strip() and (not after or after.startswith("#"))

    def bodies(self) -> Iterator[tuple[ast.AST, list[ast.stmt]]]:
        """Yield each block of statements inside functions, with the statement that contains it."""
        for owner in [self.tree, *ast.walk(self.tree)]:
            inside = isinstance(owner, FunctionNode) or owner in self.function
            for name in ("body", "orelse"):
                block = getattr(owner, name, None)
                if inside and isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                    yield owner, block

    def enclosing(self, node: ast.AST, kinds: type | tuple[type, ...]) -> ast.AST | None:
        """Return the nearest ancestor of the given types within the same function, or None."""
        above = self.parent.get(node)
        while above is not None and not isinstance(above, FunctionNode):
            if isinstance(above, kinds):
                return above
            above = self.parent.get(above)
        return None

    def variables(self, node: ast.AST) -> list[str]:
        """Return the variables that a node may use: parameters and names assigned on earlier lines."""
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
        """Whether a node is inside a comprehension or lambda, whose names `variables` does not include."""
        return self.enclosing(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)) is not None


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is a statement that is only a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
