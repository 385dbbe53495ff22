"""Where an attempt differs from the reference solution, as edits of the attempt's text found through both syntax trees.

Statements are aligned in order, and matched statements are compared part by part, so that a difference is as small as
the trees allow: an expression, a statement that is added, removed or replaced, or a branch. Applying all differences
makes the attempt behave as the reference does. Annotations, docstrings and comments are no differences.
`repair.py` chooses the differences that a repair needs.
"""

from __future__ import annotations

import ast
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reflectioncoder.construct.mutation.edits import Edit, SourceTree, is_docstring
from reflectioncoder.syntax.trees import walk

What = Literal[
    "condition", "loop", "result", "value", "argument", "index", "expression", "statement", "added", "removed",
    "rewritten",
]  # fmt: skip
# the part that an expression plays in the node above it, by the type of that node and the name of the field
PARTS: Mapping[tuple[type[ast.AST], str], What] = {
    (ast.If, "test"): "condition", (ast.While, "test"): "condition", (ast.IfExp, "test"): "condition",
    (ast.comprehension, "ifs"): "condition", (ast.For, "iter"): "loop", (ast.comprehension, "iter"): "loop",
    (ast.Return, "value"): "result", (ast.Assign, "value"): "value", (ast.AugAssign, "value"): "value",
    (ast.Call, "args"): "argument", (ast.keyword, "value"): "argument", (ast.Subscript, "slice"): "index",
}  # fmt: skip
BODIES = ("body", "orelse", "finalbody")
MOST_PAIRS = 400_000  # products of the numbers of nodes above which two programs are not compared
NO_WAY = math.inf  # the distance of nodes that no edit of the text turns into each other


@dataclass(frozen=True)
class TreeDifference:
    """One place where the attempt differs from the reference.

    Args:
        edit: the replacement in the attempt's text.
        old: the attempt's fragment, on its own; empty if code is added.
        new: the reference's fragment in the attempt's names; empty if code is removed.
        what: what is replaced: an expression by the part that it plays, or a statement.
        size: number of syntax nodes that are written anew or removed.
        order: place among differences at the same character.
    """

    edit: Edit
    old: str
    new: str
    what: What
    size: int
    order: int = 0


def normal_tree(text: str) -> SourceTree:
    """Parse a program, and drop docstrings and annotations from its tree.

    Raises:
        SyntaxError: the text is not Python.
    """
    source = SourceTree(text)
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [_plain(item) for item in body if not is_docstring(item)]
            node.body = kept or body  # type: ignore[attr-defined]
    return source


def _plain(statement: ast.stmt) -> ast.stmt:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.copy_location(ast.Assign([statement.target], statement.value), statement)
    return statement


def differences(attempt: SourceTree, reference: SourceTree) -> list[TreeDifference]:
    """Find the differences of two programs, in the order of the attempt's text.

    Args:
        attempt: the tree of a program from `normal_tree`; its text ends with a line break.
        reference: the same of a program with the attempt's names (`names.py`).

    Returns:
        differences whose edits do not overlap; empty if the trees are equal, or if no edits of parts are possible.
    """
    if len(walk(attempt.tree)) * len(walk(reference.tree)) > MOST_PAIRS:
        return []
    comparison = TreeComparison(attempt, reference)
    if comparison.distance(attempt.tree, reference.tree) == NO_WAY:
        return []
    return list(comparison.between(attempt.tree, reference.tree))


class TreeComparison:
    """Compares the nodes of two programs; see `differences`."""

    def __init__(self, attempt: SourceTree, reference: SourceTree) -> None:
        self.attempt, self.reference = attempt, reference
        self._known: dict[tuple[int, int], float] = {}
        self._sizes: dict[int, int] = {}
        self._dumps: dict[int, str] = {}

    def size(self, node: ast.AST) -> int:
        """Return the number of nodes of a tree."""
        if id(node) not in self._sizes:
            self._sizes[id(node)] = len(walk(node))
        return self._sizes[id(node)]

    def same(self, left: ast.AST, right: ast.AST) -> bool:
        """Whether two trees are equal."""
        for node in (left, right):
            if id(node) not in self._dumps:
                self._dumps[id(node)] = ast.dump(node)
        return self._dumps[id(left)] == self._dumps[id(right)]

    def distance(self, left: ast.AST, right: ast.AST) -> float:
        """Return the number of nodes to be written anew; `NO_WAY` if no edit of the text does it."""
        key = id(left), id(right)
        if key not in self._known:
            self._known[key] = 0 if self.same(left, right) else min(self._inside(left, right), self._whole(left, right))
        return self._known[key]

    def _whole(self, left: ast.AST, right: ast.AST) -> float:
        """The distance if the node is replaced as a whole."""
        if (
            isinstance(left, ast.expr)
            and isinstance(right, ast.expr)
            and not isinstance(left, (ast.Slice, ast.Starred))
        ):
            return self.size(right) + 1
        if isinstance(left, ast.stmt) and isinstance(right, ast.stmt):
            if self._is_elif(self.attempt, left) or self._is_elif(self.reference, right):
                return NO_WAY
            if not self.attempt.alone(left) and (_is_compound(right) or not self.reference.alone(right)):
                return NO_WAY
            return self.size(right) + 2 + (0 if type(left) is type(right) else self.size(left) / 2)
        return NO_WAY

    def _inside(self, left: ast.AST, right: ast.AST) -> float:
        """The distance if the node stays and its parts are changed."""
        if not self._alike(left, right):
            return NO_WAY
        total: float = 0
        for name, mine, theirs in _parts(left, right):
            if name in BODIES and isinstance(mine, list) and isinstance(theirs, list):
                total += self._lists(left, name, mine, theirs)[0]
            elif isinstance(mine, list) and isinstance(theirs, list):
                total += sum(self.distance(a, b) for a, b in zip(mine, theirs, strict=True))
            elif isinstance(mine, ast.AST) and isinstance(theirs, ast.AST):
                total += self.distance(mine, theirs)
        return total

    def _alike(self, left: ast.AST, right: ast.AST) -> bool:
        """Whether two nodes have the same type, and as many parts that can be compared."""
        if type(left) is not type(right) or isinstance(left, ast.JoinedStr):
            return False  # positions inside f-strings are wrong in Python 3.11
        return all(
            _comparable(mine, theirs)
            for name, mine, theirs in _parts(left, right)
            if not (name in BODIES and isinstance(mine, list))
        )

    def _is_elif(self, source: SourceTree, node: ast.AST) -> bool:
        return isinstance(node, ast.If) and source.of(node).startswith("elif")

    def _lists(
        self, owner: ast.AST, name: str, mine: list[ast.stmt], theirs: list[ast.stmt]
    ) -> tuple[float, list[tuple[ast.stmt | None, ast.stmt | None]]]:
        """Align two blocks of statements: the distance, and the pairs; None stands for no statement."""
        pairs: list[tuple[ast.stmt | None, ast.stmt | None]]
        if name != "body" and not (mine and theirs):  # a branch is added or removed as a whole
            if not mine and not theirs:
                return 0, []
            if name != "orelse" or not all(map(self.attempt.alone, [*_body(owner), *mine])):
                return NO_WAY, []
            pairs = [(None, item) for item in theirs] + [(item, None) for item in mine]
            return 2 + sum(map(self.size, theirs or mine)), pairs
        chain = [self._is_elif(self.attempt, item) for item in mine], [self._is_elif(self.reference, x) for x in theirs]
        if any(chain[0]) or any(chain[1]):
            if chain[0] != chain[1]:
                return NO_WAY, []
            return self.distance(mine[0], theirs[0]), [(mine[0], theirs[0])]
        if not all(map(self.attempt.alone, mine)):
            if len(mine) != len(theirs):
                return NO_WAY, []
            total = sum(self.distance(a, b) for a, b in zip(mine, theirs, strict=True))
            return total, list(zip(mine, theirs, strict=True))
        return self._aligned(mine, theirs)

    def _aligned(
        self, mine: list[ast.stmt], theirs: list[ast.stmt]
    ) -> tuple[float, list[tuple[ast.stmt | None, ast.stmt | None]]]:
        """Align in order with the least distance."""
        added, removed = [self.size(item) + 2 for item in theirs], [self.size(item) / 2 + 2 for item in mine]
        rows, columns = len(mine), len(theirs)
        best = [[NO_WAY] * (columns + 1) for _ in range(rows + 1)]
        for i in range(rows, -1, -1):
            for j in range(columns, -1, -1):
                if i == rows and j == columns:
                    best[i][j] = 0
                    continue
                ways = []
                if i < rows and j < columns:
                    ways.append(self.distance(mine[i], theirs[j]) + best[i + 1][j + 1])
                if i < rows:
                    ways.append(removed[i] + best[i + 1][j])
                if j < columns:
                    ways.append(added[j] + best[i][j + 1])
                best[i][j] = min(ways)
        pairs: list[tuple[ast.stmt | None, ast.stmt | None]] = []
        i = j = 0
        while i < rows or j < columns:
            if i < rows and j < columns and best[i][j] == self.distance(mine[i], theirs[j]) + best[i + 1][j + 1]:
                pairs.append((mine[i], theirs[j]))
                i, j = i + 1, j + 1
            elif i < rows and best[i][j] == removed[i] + best[i + 1][j]:
                pairs.append((mine[i], None))
                i += 1
            else:
                pairs.append((None, theirs[j]))
                j += 1
        return best[0][0], pairs

    def between(self, left: ast.AST, right: ast.AST, part: What = "expression") -> Iterator[TreeDifference]:
        """Yield the differences of two nodes whose distance is not `NO_WAY`; `part` is what the nodes are."""
        if self.same(left, right):
            return
        if self._whole(left, right) < self._inside(left, right) or not self._alike(left, right):
            yield self._replaced(left, right, part)
            return
        for name, mine, theirs in _parts(left, right):
            inner = PARTS.get((type(left), name), "expression")
            if name in BODIES and isinstance(mine, list) and isinstance(theirs, list):
                yield from self._blocks(left, name, mine, theirs)
            elif isinstance(mine, list) and isinstance(theirs, list):
                for a, b in zip(mine, theirs, strict=True):
                    if isinstance(a, ast.AST):
                        yield from self.between(a, b, inner)
            elif isinstance(mine, ast.AST) and isinstance(theirs, ast.AST):
                yield from self.between(mine, theirs, inner)

    def pairs(self, left: ast.AST, right: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Yield the nodes that stand for each other in two nodes, from the outside to the inside."""
        yield left, right
        if not self._alike(left, right) or (
            not self.same(left, right) and self._whole(left, right) < self._inside(left, right)
        ):
            return
        for name, mine, theirs in _parts(left, right):
            if name in BODIES and isinstance(mine, list) and isinstance(theirs, list):
                for a, b in self._lists(left, name, mine, theirs)[1]:
                    if a is not None and b is not None:
                        yield from self.pairs(a, b)
            elif isinstance(mine, list) and isinstance(theirs, list):
                for a, b in zip(mine, theirs, strict=True):
                    if isinstance(a, ast.AST):
                        yield from self.pairs(a, b)
            elif isinstance(mine, ast.AST) and isinstance(theirs, ast.AST):
                yield from self.pairs(mine, theirs)

    def _replaced(self, left: ast.AST, right: ast.AST, part: What) -> TreeDifference:
        start, end = self.attempt.span(left)
        old = self.attempt.of(left)
        size = self.size(right)
        if isinstance(left, ast.expr):
            new = self.reference.of(right)
            new = ast.unparse(right) if "\n" in new else new
            text = self.attempt.text
            bare, safe = (f"{text[:start]}{part}{text[end:]}" for part in (new, f"({new})"))
            if _dump(bare) != _dump(safe):
                new = f"({new})"
            return TreeDifference(Edit(start, end, new), old, new, part, size)
        assert isinstance(left, ast.stmt) and isinstance(right, ast.stmt)
        if not self.attempt.alone(left):
            new = self.reference.of(right)
            return TreeDifference(Edit(start, end, new), old, new, "statement", size)
        start, end = self.attempt.block([_with_decorators(left)])
        new = self._text(right, left.col_offset)
        whole = isinstance(left, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        what: What = "rewritten" if whole else "statement"
        old = textwrap.dedent(self.attempt.text[start:end]).strip("\n")
        return TreeDifference(Edit(start, end, new), old, textwrap.dedent(new).strip("\n"), what, size)

    def _blocks(
        self, owner: ast.AST, name: str, mine: list[ast.stmt], theirs: list[ast.stmt]
    ) -> Iterator[TreeDifference]:
        pairs = self._lists(owner, name, mine, theirs)[1]
        if name != "body" and not (mine and theirs):
            if pairs:
                yield self._branch(owner, mine, theirs)
            return
        place = self._start(mine, 0) if mine else 0
        column = mine[0].col_offset if mine else 0
        for order, (a, b) in enumerate(pairs):
            if a is not None:
                place = self.attempt.block([_with_decorators(a)])[1]
            if a is not None and b is not None:
                yield from self.between(a, b)
            elif a is not None:
                start, end = self.attempt.block([_with_decorators(a)])
                yield TreeDifference(Edit(start, end, ""), self.attempt.of(a), "", "removed", self.size(a))
            elif b is not None:
                new = self._text(b, column)
                shown = textwrap.dedent(new).strip("\n")
                yield TreeDifference(Edit(place, place, new), "", shown, "added", self.size(b), order)

    def _branch(self, owner: ast.AST, mine: list[ast.stmt], theirs: list[ast.stmt]) -> TreeDifference:
        """The difference that adds or removes the `else` of a statement."""
        body, column = _body(owner), owner.col_offset  # type: ignore[attr-defined]
        after = self.attempt.block(body)[1]
        if mine:
            end = self.attempt.block(mine)[1]
            old = textwrap.dedent(self.attempt.text[after:end]).strip("\n")
            return TreeDifference(Edit(after, end, ""), old, "", "removed", sum(map(self.size, mine)))
        if self._is_elif(self.reference, theirs[0]):
            new = self._text(theirs[0], column)
        else:
            inner = body[0].col_offset
            new = f"{' ' * column}else:\n" + "".join(self._text(item, inner) for item in theirs)
        shown = textwrap.dedent(new).strip("\n")
        return TreeDifference(Edit(after, after, new), "", shown, "added", sum(map(self.size, theirs)), 1 << 20)

    def _start(self, statements: Sequence[ast.stmt], number: int) -> int:
        return self.attempt.block([_with_decorators(statements[number])])[0]

    def _text(self, statement: ast.stmt, column: int) -> str:
        """Return the reference's source of a statement as whole lines that begin in a column."""
        if self.reference.alone(statement):
            start, end = self.reference.block([_with_decorators(statement)])
            text = textwrap.dedent(self.reference.text[start:end]).strip("\n")
        else:
            text = self.reference.of(statement)
        return textwrap.indent(text, " " * column) + "\n"


def _parts(left: ast.AST, right: ast.AST) -> Iterator[tuple[str, object, object]]:
    for name in left._fields:
        if name not in ("ctx", "type_comment", "kind", "type_ignores"):
            yield name, getattr(left, name, None), getattr(right, name, None)


def _comparable(mine: object, theirs: object) -> bool:
    """Whether two fields hold nodes that can be compared, or equal values."""
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(_comparable, mine, theirs))
    if isinstance(mine, ast.AST) and isinstance(theirs, ast.AST):
        return True
    return type(mine) is type(theirs) and mine == theirs


def _body(owner: ast.AST) -> list[ast.stmt]:
    return list(getattr(owner, "body", ()))


def _is_compound(statement: ast.AST) -> bool:
    return isinstance(getattr(statement, "body", None), list)


def _with_decorators(statement: ast.stmt) -> ast.stmt:
    """Return a statement whose first line is that of its first decorator."""
    decorators = getattr(statement, "decorator_list", ())
    if not decorators:
        return statement
    above = ast.Pass()
    above.lineno, above.end_lineno = decorators[0].lineno, statement.end_lineno
    return above


def _dump(text: str) -> str:
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError):
        return ""
