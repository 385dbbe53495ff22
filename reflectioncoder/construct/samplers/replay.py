"""The sampler that replays recorded answers, for tests, benchmarks, and answers sampled elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from reflectioncoder.clients.budget import Usage
from reflectioncoder.clients.messages import Answer, SamplerError, Tools, Turn
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import iter_jsonl_at


class ReplaySampler:
    """Sampler that reads answers from a JSONL file; only the offsets of its lines are held in memory.

    A line is `{"problem": id, "turn": 0, "text": ..., "tool_code": ..., "finish": ..., "tokens_in": ...,
    "tokens_out": ...}`; the last four keys are optional.

    Args:
        path: the file.
        model: recorded as the model's name.

    Raises:
        UserError: the file cannot be read, or a line does not have this form.
    """

    name = "replay"

    def __init__(self, path: str | os.PathLike[str], model: str = "") -> None:
        self.model = model or "recorded"
        self._places = places_of(path)
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`."""
        if (problem, number) not in self._places:
            raise SamplerError("not_recorded", f"no answer is recorded for turn {number}")
        await asyncio.sleep(0)
        self._file.seek(self._places[problem, number])
        return _read(parse_json(self._file.readline()), "recorded answer", self.model)[1]

    def stop(self) -> None:
        """See `Sampler`; does nothing, as no requests are running."""

    async def close(self) -> None:
        """Close the file."""
        self._file.close()


def places_of(path: str | os.PathLike[str]) -> dict[tuple[str, int], int]:
    """Return where a file has the answer to each turn of a problem: byte offsets of lines, by (problem, turn).

    Raises:
        UserError: the file cannot be read, a line is no recorded answer, or a turn has two.
    """
    _check_path(path)
    places: dict[tuple[str, int], int] = {}
    for where, start, line in iter_jsonl_at(path):
        key, _ = _read(line, where, "")
        if key in places:
            raise UserError(f"{where}: problem '{key[0]}' has two answers for turn {key[1]}")
        places[key] = start
    return places


def replay_fingerprint(path: str | os.PathLike[str]) -> str:
    """Return the hash of a file of recorded answers. Raises UserError if it cannot be read."""
    _check_path(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"file {path}: {error.strerror or error}") from None


def _check_path(path: str | os.PathLike[str]) -> None:
    if not path:
        raise UserError("chat.replay: name the file of recorded answers")


def _read(line: Any, where: str, model: str) -> tuple[tuple[str, int], Answer]:
    """Parse a line into its key (problem, turn) and its answer. Raises UserError if it does not have the format."""
    try:
        key = str(line["problem"]), int(line["turn"])
        text, code = line["text"], line.get("tool_code")
        usage = Usage(1, int(line.get("tokens_in", 0)), int(line.get("tokens_out", 0)))
        if not isinstance(text, str) or not isinstance(code, str | None):
            raise TypeError("'text' and 'tool_code' must be text")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: not a recorded answer with problem, turn and text ({error})") from None
    finish = str(line.get("finish", "stop" if code is None else "tool_calls"))
    return key, Answer(text, code, "" if code is None else f"call_{key[1]}", finish, usage, model)
