"""Each public name of the package is defined in one module, so that a search finds one definition."""

from __future__ import annotations

import ast
from collections import defaultdict

from places import ROOT

# type variables, and the entry points of two programs
EXEMPT = {"T", "R", "main"}


def test_each_public_name_is_defined_in_one_module() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "reflectioncoder").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets: list[ast.expr] = []
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                homes[node.name].add(str(path))
            elif isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    homes[target.id].add(str(path))
    twice = {name: found for name, found in homes.items() if len(found) > 1 and not name.startswith("_")}
    assert twice.keys() <= EXEMPT, twice
