"""Parsing and walking of Python syntax trees, with a cache: a build analyses the same few programs many times."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
import warnings
from contextlib import suppress
from functools import lru_cache

_BREAK = re.compile(r"\r\n?|\n")


def parse(code: str, mode: str = "exec") -> ast.AST:
    """Call `ast.parse` without showing warnings. Every failure raises SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code, mode=mode)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error)) from None


def parse_cached(code: str) -> ast.Module:
    """Return the tree of a program from a cache. Callers share it and must not modify it. Raises SyntaxError."""
    found = _read(code) if len(code) < 100_000 else _parsed(code)
    if isinstance(found, SyntaxError):
        raise SyntaxError(*found.args)  # a copy, because each raise adds to the traceback
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
    """Return the nodes of `ast.walk` in the same order, without contexts (Load, Store, Del), in a third of the time."""
    known: list[ast.AST] | None = getattr(node, "walked", None)
    if known is not None:
        return known
    found = [node]
    for item in found:  # the list grows during the loop
        for name in item._fields:
            if name != "ctx":
                value = getattr(item, name, None)
                if isinstance(value, list):
                    found += [part for part in value if isinstance(part, ast.AST)]
                elif isinstance(value, ast.AST):
                    found.append(value)
    return found


def names_in(node: ast.AST) -> set[str]:
    """Return the names (`ast.Name`) that occur in a syntax tree."""
    return {item.id for item in walk(node) if isinstance(item, ast.Name)}


def comments_in(code: str) -> list[str]:
    """Return the comments of a program, as far as it can be split into tokens."""
    found = []
    with suppress(tokenize.TokenError, SyntaxError, ValueError):
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                found.append(token.string)
    return found


def parses(code: str) -> bool:
    """Whether a text is Python."""
    try:
        parse_cached(code)
    except SyntaxError:
        return False
    return True


def bound_names(tree: ast.AST) -> set[str]:
    """Return all names that a piece of Python code binds anywhere."""
    names: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def free_names(code: str) -> set[str]:
    """Return the names that Python code reads and does not bind itself, without the built-in ones; empty if invalid."""
    try:
        tree = parse_cached(code)
    except SyntaxError:
        return set()
    loaded = {node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return loaded - bound_names(tree) - set(dir(builtins))


def lines_of(text: str) -> list[str]:
    """Split a text into lines as Python's parser does.

    `str.splitlines` also splits at form feeds, U+2028 and the like, which a string literal may contain.
    """
    lines = _BREAK.split(text)
    return lines if lines[-1] else lines[:-1]
