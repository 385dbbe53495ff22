"""Tool calls as servers and models really send them, and how they are sent back.

The protocol wants `tool_calls` with JSON text as arguments. Servers also send objects, raw code, JSON with literal
line breaks, other keys, or the older `function_call`; and a server without a parser for its model's format leaves the
call in the text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflectioncoder.files.json_value import parse_json

TOOL = "python"
CODE_KEYS = (
    "code",
    "python",
    "python_code",
    "source",
    "source_code",
    "script",
    "program",
    "cell",
    "input",
    "command",
    "cmd",
)
NOT_RUN = "Not run: only one call at a time is run. Call the tool again if it is still needed."
NO_ID = "call"  # for a call without an id, and for one that was found in the text
FENCED_CALL = re.compile(r"\A\s*```[^\n`]*\n(.*?)\n?```\s*\Z", re.DOTALL)
# a call in the text of an answer: the name if it is given apart, and the arguments
IN_TEXT = (
    re.compile(r"<tool_call>\s*(?P<all>\{.*?\})\s*</tool_call>", re.DOTALL),
    re.compile(
        r"(?:<tool_call>\s*)?<function=(?P<name>[^>\s]+)>\s*<parameter=[^>]+>\n?(?P<code>.*?)\n?</parameter>.*?</function>"
        r"(?:\s*</tool_call>)?",
        re.DOTALL,
    ),
    re.compile(r"<function=(?P<name>[^>\s]+)>\s*(?P<arguments>\{.*?\})\s*</function>", re.DOTALL),
    re.compile(
        r"<tool_call>\s*(?P<name>[\w.]+)\s*<arg_key>[^<]*</arg_key>\s*<arg_value>(?P<code>.*?)</arg_value>\s*</tool_call>",
        re.DOTALL,
    ),
    re.compile(
        r"(?:<｜tool▁calls▁begin｜>)?<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>(?P<name>[\w.]+)|(?P<other>[\w.]+)"
        r"<｜tool▁sep｜>)\s*(?:```json\s*)?(?P<arguments>\{.*?\})\s*(?:```\s*)?<｜tool▁call▁end｜>",
        re.DOTALL,
    ),
    re.compile(r"\[TOOL_CALLS\]\s*(?P<name>[\w.]+)\[ARGS\]\s*(?P<arguments>\{.*\})", re.DOTALL),
    re.compile(r"\[TOOL_CALLS\]\s*\[\s*(?P<all>\{.*\})\s*\]", re.DOTALL),
    re.compile(r"<\|python_tag\|>\s*(?P<all>\{.*\})", re.DOTALL),
    re.compile(r"<\|python_tag\|>(?P<code>.+?)(?:<\|eom_id\|>|\Z)", re.DOTALL),
    re.compile(r"\A\s*(?P<all>\{\s*\"name\".*\})\s*\Z", re.DOTALL),
)


@dataclass(frozen=True)
class ToolCall:
    """A call of the tool.

    Args:
        code: the code to run.
        id: id of the call; `NO_ID` if the server gave none.
    """

    code: str
    id: str


def read_calls(message: Mapping[str, Any]) -> ToolCall | None:
    """Read the call that a message makes, preferably of our tool; None if it makes none.

    Raises:
        ValueError: there are calls, but none holds code.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        old = message.get("function_call")
        if not isinstance(old, Mapping):
            return None
        calls = [{"id": NO_ID, "function": old}]
    found: list[tuple[bool, ToolCall]] = []
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            code = called_code(function.get("arguments"))
            if code is not None:
                ours = str(function.get("name") or "").rpartition(".")[2] == TOOL
                found.append((not ours, ToolCall(code, id_of(call, place))))
    if not found:
        raise ValueError("a tool call without code")
    return min(found, key=lambda item: item[0])[1]


def call_in_text(text: str) -> tuple[str, str] | None:
    """Find a call that a model wrote into its text; return the text before it and the code, or None."""
    for pattern in IN_TEXT:
        found = pattern.search(text)
        if found is None:
            continue
        parts = found.groupdict()
        code = parts.get("code")
        if code is None:
            given: Any = parts.get("arguments")
            if given is None:
                whole = _parsed(parts["all"])
                if not isinstance(whole, Mapping) or not isinstance(whole.get("name"), str):
                    continue
                given = whole.get("arguments", whole.get("parameters"))
            code = called_code(given)
        if code is not None:
            return text[: found.start()].rstrip(), code
    return None


def called_code(arguments: Any) -> str | None:
    """The code in the arguments of a call: a JSON text, an object, or the code itself; None if there is none."""
    if isinstance(arguments, str):
        parsed = _parsed(arguments)
        if isinstance(parsed, str):  # JSON text of a JSON text
            inner = _parsed(parsed)
            parsed = inner if isinstance(inner, Mapping) else {"code": parsed}
        if not isinstance(parsed, Mapping):
            looks_cut = arguments.lstrip().startswith("{") or not arguments.strip()
            return None if looks_cut else _bare(arguments)
        arguments = parsed
    if not isinstance(arguments, Mapping):
        return None
    texts = {str(key).lower(): "\n".join(value) if _is_lines(value) else value for key, value in arguments.items()}
    named = next((texts[key] for key in CODE_KEYS if isinstance(texts.get(key), str)), None)
    if named is None:
        rest = [value for value in texts.values() if isinstance(value, str)]
        named = rest[0] if len(rest) == 1 else None
    return None if named is None else _bare(named)


def sent_back(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the model as it is sent back: as it came, with what the protocol demands filled in.

    Empty fields are left out, but not the content, which may be null. Arguments that are not the text of a JSON object
    are replaced by one, since servers parse them again.
    """
    kept = {key: value for key, value in message.items() if value not in (None, [], {}) or key == "content"}
    kept.pop("role", None)
    kept.setdefault("content", None)
    if isinstance(kept.get("function_call"), Mapping):
        kept["function_call"] = _repaired(kept["function_call"])
    if isinstance(kept.get("tool_calls"), list):
        calls = [dict(call) for call in kept["tool_calls"] if isinstance(call, Mapping)]
        for place, call in enumerate(calls):
            call["id"] = id_of(call, place)
            call.setdefault("type", "function")
            if isinstance(call.get("function"), Mapping):
                call["function"] = _repaired(call["function"])
        kept["tool_calls"] = calls
    return kept


def plain_call(code: str, id: str) -> list[dict[str, Any]]:
    """The `tool_calls` of a message that calls our tool once."""
    return [{"id": id, "type": "function", "function": {"name": TOOL, "arguments": json.dumps({"code": code})}}]


def ids_of(message: Mapping[str, Any]) -> list[str]:
    """The ids of all calls of a message from `sent_back`."""
    return [str(call["id"]) for call in message.get("tool_calls") or []]


def id_of(call: Mapping[str, Any], place: int) -> str:
    """The id of a call; a call without one gets an id by its place."""
    return str(call.get("id") or (f"{NO_ID}_{place}" if place else NO_ID))


def _repaired(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    try:
        whole = isinstance(arguments, str) and isinstance(parse_json(arguments), Mapping)
    except (ValueError, RecursionError):
        whole = False
    if whole:
        return dict(function)
    if isinstance(arguments, Mapping):
        return {**function, "arguments": json.dumps(arguments)}
    code = called_code(arguments)
    return {**function, "arguments": json.dumps({} if code is None else {"code": code})}


def _parsed(text: str) -> Any:
    """JSON, also with literal line breaks in its texts, or a Python literal; None if it is neither."""
    try:
        return parse_json(text, strict=False)
    except (ValueError, RecursionError):
        pass
    if not text.lstrip().startswith("{"):
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _is_lines(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(line, str) for line in value)


def _bare(code: str) -> str:
    """Code without the fence around it."""
    found = FENCED_CALL.match(code)
    return found[1] if found else code
