"""Syntax trees to look at: a build asks about the same few programs again and again, so what was parsed is kept."""

from __future__ import annotations

import ast
import re
import warnings
from functools import lru_cache

_BREAK = re.compile(r"\r\n?|\n")


def parse(code: str, mode: str = "exec") -> ast.AST:
    """`ast.parse` without warnings on the user's screen; every way to fail is a SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code, mode=mode)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error)) from None


def parse_cached(code: str) -> ast.Module:
    """The tree of a program, shared with whoever asks again: look at it, change nothing. Raises SyntaxError."""
    found = _read(code) if len(code) < 100_000 else _parsed(code)
    if isinstance(found, SyntaxError):
        raise SyntaxError(*found.args)  # a new one, as each raise adds to a traceback
    return found


def _parsed(code: str) -> ast.Module | SyntaxError:
    try:
        tree = parse(code)
        assert isinstance(tree, ast.Module)
        tree.walked = walk(tree)  # type: ignore[attr-defined]
        return tree
    except SyntaxError as error:
        return error.with_traceback(None)


_read = lru_cache(maxsize=256)(_parsed)


def walk(node: ast.AST) -> list[ast.AST]:
    """What `ast.walk` gives, in the same order and in a third of its time, but for contexts (Load, Store, Del)."""
    known: list[ast.AST] | None = getattr(node, "walked", None)
    if known is not None:
        return known
    found = [node]
    for item in found:  # grows meanwhile
        for name in item._fields:
            if name != "ctx":
                value = getattr(item, name, None)
                if isinstance(value, list):
                    found += [part for part in value if isinstance(part, ast.AST)]
                elif isinstance(value, ast.AST):
                    found.append(value)
    return found


def names_in(node: ast.AST) -> set[str]:
    """All plain names that occur in a syntax tree."""
    return {item.id for item in walk(node) if isinstance(item, ast.Name)}


def lines_of(text: str) -> list[str]:
    """The lines of a text as Python counts them.

    `str.splitlines` also breaks at form feeds, U+2028 and the like, which a string literal may hold.
    """
    lines = _BREAK.split(text)
    return lines if lines[-1] else lines[:-1]
