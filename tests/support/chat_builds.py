"""Builds of small problems with a scripted chat model behind a local server."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from blocks import bad, final, good
from chatserver import completion
from rich.console import Console

from reflectioncoder.config.build import BuildConfig, ChatConfig
from reflectioncoder.construct.build import BuildResult, build

KEY = "sk-a-secret-of-the-tests-0123456789"


def write_problems(path: Path, count: int) -> str:
    rows = [
        {"id": f"p{k}", "instruction": f"Write `add_{k}`.", "tests": [f"assert add_{k}(2) == {k + 2}"]}
        for k in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def place(request: dict[str, Any]) -> tuple[int, int]:
    """Return the number of the problem that a request is about, and the number of answers so far."""
    k = re.search(r"`add_(\d+)`", request["messages"][1]["content"])
    assert k is not None
    return int(k.group(1)), sum(message["role"] == "assistant" for message in request["messages"])


def model(request: dict[str, Any]) -> bytes:
    """Answer as a model whose first attempt is wrong; calls the tool if it is offered."""
    k, turn = place(request)
    said = ("I add nothing yet.", f"It must add {k}.", "Here it is.")[turn]
    code = (bad(k), good(k), final(k))[turn]
    if request.get("tool_choice") == "auto":
        return completion(said, "tool_calls", code)
    return completion(f"{said}\n```python\n{code}\n```\nIt prints: all right!")


def config(output: Path, problems: str, url: str, chat: dict[str, Any] | None = None, **changes: Any) -> BuildConfig:
    known = {"base_url": url, "model": "m", "backoff": 0.01, "timeout": 5.0, "retries": 3, **(chat or {})}
    given = {"sampler": "chat", "workers": 1, "near_duplicates": 1.1, **changes}
    return BuildConfig(output=str(output), problems=problems, chat=ChatConfig(**known), **given)


def run(settings: BuildConfig) -> tuple[BuildResult, str]:
    console = Console(file=io.StringIO(), width=200)
    result = build(settings, console)
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


def rejects(output: Path) -> dict[str, str]:
    return {line["id"]: line["reason"] for line in map(json.loads, (output / "rejects.jsonl").open())}


def recorded(output: Path) -> Counter[str]:
    """Number of answers per problem in the ledger, read with plain SQLite; empty if it cannot be read."""
    try:
        database = sqlite3.connect(f"file:{output / 'ledger.sqlite'}?mode=ro", uri=True)
        rows = database.execute("SELECT problem FROM events WHERE kind = 'answer'").fetchall()
        database.close()
    except sqlite3.Error:
        return Counter()
    return Counter(problem for (problem,) in rows)
