"""The one table of row shapes, for `build`, `train` and `--decontaminate`: any row becomes a list of turns.

docs/data.md lists the shapes. A column or key that changes what a sample means is read or refused by name, never
carried along: a system prompt, earlier turns, Alpaca's input, tools, weights. Null means absent, since Parquet files
that unite two shapes have null columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reflectioncoder.errors import UserError
from reflectioncoder.files.fields import FieldMap, column
from reflectioncoder.files.json_value import parse_json

# request and answer, in the order in which they are tried
PAIRS = (
    ("query", "answer"), ("query", "response"), ("instruction", "output"), ("instruction", "response"),
    ("question", "answer"), ("question", "response"), ("prompt", "completion"), ("prompt", "response"),
    ("problem", "solution"), ("input", "output"),
)  # fmt: skip
REQUESTS = tuple(dict.fromkeys(request for request, _ in PAIRS))
LISTS = ("messages", "conversations", "conversation")
ROLE_NAMES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant", "model": "assistant",
}  # fmt: skip
# keys that switch the loss of a message on or off
WEIGHT_KEYS = ("weight", "train", "trainable", "loss")
# what this format cannot express; empty values are harmless
OF_A_ROW = ("tools", "functions", "images", "videos", "audios", "audio")
HELD_BACK = frozenset(OF_A_ROW)
OF_A_MESSAGE = (
    "tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking", "audio", "images",
    "refusal",
)  # fmt: skip
EMPTY_VALUES: tuple[Any, ...] = ("", "[]", "{}", "null")


@dataclass(frozen=True)
class RowTurn:
    """One turn of a row.

    Args:
        role: who speaks.
        content: the text, or the typed blocks of the released schema.
        trained: whether an assistant's turn counts in the loss.
    """

    role: Literal["system", "user", "assistant"]
    content: str | list[Any]
    trained: bool = True

    @property
    def text(self) -> str:
        """The text, with the contents of blocks joined by blank lines."""
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(str(block.get("content", "")) for block in self.content if isinstance(block, Mapping))


@dataclass(frozen=True)
class Shaped:
    """A row as turns.

    Args:
        turns: user and assistant in any order; a system prompt is merged into the first request.
        columns: names of the columns that became turns.
    """

    turns: tuple[RowTurn, ...]
    columns: frozenset[str]


def shaped(row: Mapping[str, Any], fields: FieldMap, answers: bool = True) -> Shaped | None:
    """Convert a row of a known shape to turns.

    Args:
        row: the row.
        fields: columns that the user named; they take precedence over the shapes.
        answers: whether an answer is needed; without, a column for the request is enough.

    Returns:
        the turns; None if the row has no known shape.

    Raises:
        UserError: the row may have two shapes, or holds something that the format cannot express. The message does not
            name the place.
    """
    row = {key: value for key, value in row.items() if value is not None}
    if fields.ignore:
        row = {key: value for key, value in row.items() if key not in fields.ignore.split()}
    found = _named(row, fields, answers) or _listed(row, fields) or _paired(row, fields)
    if found is None:
        return None
    for name in HELD_BACK.intersection(row):
        if name not in found.columns and not _is_nothing(row[name]):
            raise UserError(f"column '{name}': samples with {name} are not supported; --fields ignore={name} drops it")
    if row.get("train") is False or _weight(row.get("weight", 1)) != 1:
        name = "train" if row.get("train") is False else "weight"
        raise UserError(
            f"column '{name}': whole samples are not weighted; --fields ignore={name} reads it as any other"
        )
    system = _optional_text(row, fields.system) if fields.system not in found.columns else ""
    if not system and found.turns and found.turns[0].role == "user" and all(t.role != "system" for t in found.turns):
        return found
    turns = [*found.turns]
    if system:
        turns.insert(0, RowTurn("system", system))
    return Shaped(tuple(_without_system(turns)), found.columns | ({fields.system} if system else set()))


def request_of(row: Mapping[str, Any], fields: FieldMap) -> str | None:
    """Return the first request of a row, with its system prompt and its input; None if the row has no known shape.

    Raises:
        UserError: see `shaped`; or the row has earlier turns in a column of their own.
    """
    found = shaped(row, fields, answers=False)
    if found is None:
        return None
    if fields.history in found.columns and not _is_nothing(row.get(fields.history)):
        raise UserError(f"column '{fields.history}': a problem is one request; --fields history= drops earlier turns")
    return next((turn.text for turn in found.turns if turn.role == "user"), "")


def _named(row: Mapping[str, Any], fields: FieldMap, answers: bool) -> Shaped | None:
    """The turns in the columns that the user named."""
    request, answer = fields.names("instruction"), fields.answer if answers else ""
    if not answers and not request and fields.instruction in row:
        request = fields.instruction
    if fields.messages:
        value = column(row, fields.messages)
        if value is None:
            raise UserError(f"no column '{fields.messages}' for 'messages'; there are {', '.join(map(str, row))}")
        return Shaped(_turns(value, fields.messages), frozenset({fields.messages.split(".")[0]}))
    if not request and not answer:
        return None
    if answers and not answer:
        raise UserError("fields name a request and no answer to train on; add answer=COLUMN")
    request = request or fields.instruction
    for part, name in (("instruction", request), ("answer", answer)):
        if name and column(row, name) is None:
            raise UserError(f"no column '{name}' for '{part}'; there are {', '.join(map(str, row))}")
    return _pair(row, request, answer, fields)


def _listed(row: Mapping[str, Any], fields: FieldMap) -> Shaped | None:
    for name in LISTS:
        value = row.get(name)
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[")):
            return Shaped(_turns(value, name), frozenset({name}))
    return None


def _paired(row: Mapping[str, Any], fields: FieldMap) -> Shaped | None:
    found = [pair for pair in PAIRS if pair[0] in row and pair[1] in row]
    if any(request != "input" for request, _ in found):  # beside another request it is Alpaca's input
        found = [pair for pair in found if pair[0] != "input"]
    if not found:
        return None
    if len(found) > 1:
        choices = ", or ".join(f"'{request}' and '{answer}'" for request, answer in found)
        raise UserError(f"may be {choices}; choose with --fields instruction=COLUMN,answer=COLUMN")
    return _pair(row, *found[0], fields)


def _pair(row: Mapping[str, Any], request: str, answer: str, fields: FieldMap) -> Shaped:
    asked, answered = column(row, request), column(row, answer) if answer else None
    used = {request.split(".")[0], *([answer.split(".")[0]] if answer else [])}
    if isinstance(asked, list) or isinstance(answered, list):  # prompt and completion as messages
        before = _turns(asked, request) if isinstance(asked, list) else (RowTurn("user", _text(asked, request)),)
        after = _turns(answered, answer) if isinstance(answered, list) else ()
        if answer and not after:
            after = (RowTurn("assistant", _text(answered, answer)),)
        # the loss of such a row is that of its completion
        return Shaped((*(replace(turn, trained=False) for turn in before), *after), frozenset(used))
    text = _text(asked, request)
    if fields.input and fields.input not in used:
        extra = _optional_text(row, fields.input)
        text = f"{text}\n\n{extra}" if extra else text
        used.add(fields.input)
    turns = [*_history(row.get(fields.history)), RowTurn("user", text)]
    if answer:
        turns.append(RowTurn("assistant", _text(answered, answer)))
    return Shaped(tuple(turns), frozenset({*used, fields.history}))


def _history(value: Any) -> Iterable[RowTurn]:
    if value is None or _is_nothing(value):
        return
    value = _decoded(value, "history")
    for number, pair in enumerate(value if isinstance(value, list) else [None], 1):
        if not isinstance(pair, (list, tuple)) or [type(text) for text in pair] != [str, str]:
            raise UserError(f"column 'history', entry {number}: expected [request, answer]")
        yield RowTurn("user", pair[0])
        yield RowTurn("assistant", pair[1])


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        kind = "" if value is None or isinstance(value, str) else f", but {type(value).__name__}"
        raise UserError(f"column '{name}' has no text{kind}")
    return value


def _optional_text(row: Mapping[str, Any], name: str) -> str:
    value = column(row, name) if name else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    if not isinstance(value, str):
        raise UserError(f"column '{name}' must hold text, found {type(value).__name__}; --fields {name}= drops it")
    return value


def _decoded(value: Any, name: str) -> Any:
    """The value of JSON text in a column that holds a list."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError):
        raise UserError(f"column '{name}' holds text that is not JSON") from None


def _turns(value: Any, name: str) -> tuple[RowTurn, ...]:
    value = _decoded(value, name)
    if not isinstance(value, list) or not value:
        raise UserError(f"'{name}' must be a list that is not empty")
    return tuple(_turn(item, number) for number, item in enumerate(value, 1))


def _turn(item: Any, number: int) -> RowTurn:
    where = f"message {number}"
    if not isinstance(item, Mapping):
        raise UserError(f"{where}: expected an object with 'role' and 'content', found {type(item).__name__}")
    said, content = item.get("role"), item.get("content")
    said = item.get("from") if said is None else said  # ShareGPT's names
    content = item.get("value") if content is None else content
    role = ROLE_NAMES.get(said) if isinstance(said, str) else None
    if role is None:
        raise UserError(f"{where}: role '{said}' is not one of system, user, assistant")
    trained = True
    if len(item) > 2:
        for key in OF_A_MESSAGE:
            if key in item and not _is_nothing(item[key]):
                raise UserError(f"{where}: has '{key}', which the format cannot express; leave it out of the data")
        for key in WEIGHT_KEYS:
            if item.get(key) is not None:
                trained = trained and _weight(item[key], where, key) == 1
    if isinstance(content, list) and content and all(_is_part(part) for part in content):
        content = "\n".join(part["text"] for part in content)
    if isinstance(content, str) or (isinstance(content, list) and content):
        return RowTurn(role, content, trained)
    kind = "nothing" if content is None else type(content).__name__
    raise UserError(f"{where}: 'content' must be text or a list of blocks that is not empty, found {kind}")


def _is_part(part: Any) -> bool:
    """Whether this is a text part as OpenAI's interface has it."""
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _weight(value: Any, where: str = "", key: str = "weight") -> float:
    if isinstance(value, (bool, int, float)) and (value in (0, 1) or not where):
        return float(value)
    if not where:  # a column of that name which is no number
        return 1.0
    raise UserError(f"{where}: {key} {value!r} is neither 0 nor 1")


def _is_nothing(value: Any) -> bool:
    return value is None or value in EMPTY_VALUES or (isinstance(value, (list, dict)) and not value)


def _without_system(turns: Sequence[RowTurn]) -> list[RowTurn]:
    """Merge the system prompt into the first request, because the format has no system role."""
    prompts = 0
    while prompts < len(turns) and turns[prompts].role == "system":
        prompts += 1
    rest = list(turns[prompts:])
    if any(turn.role == "system" for turn in rest):
        raise UserError("a system message after the first turn is not supported")
    texts = [turn.text for turn in turns[:prompts] if turn.text.strip()]
    if not texts:
        return rest
    if not rest or rest[0].role != "user":
        raise UserError("a system prompt must come before a user's turn")
    first = rest[0]
    if isinstance(first.content, str):
        joined: str | list[Any] = "\n\n".join([*texts, first.content] if first.content.strip() else texts)
    else:
        joined = [{"type": "text", "content": "\n\n".join(texts)}, *first.content]
    return [replace(first, content=joined), *rest[1:]]


def check_text(*texts: str | None) -> None:
    """Raise UserError for a text with a lone surrogate, which is no character and cannot be encoded."""
    for text in texts:
        if text and not text.isascii():  # known without reading the text
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                code = f"\\u{ord(text[error.start]):04x}"
                raise UserError(f"holds {code}, half of a surrogate pair, which is no character") from None
