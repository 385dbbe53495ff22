"""Removes the thoughts of a reasoning model from its answer, in the marks of the usual models.

A mark counts only outside code: an answer's program may hold `</think>` in a literal. A thought that is never closed is
an answer that was cut off: what it drafts is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from reflectioncoder.errors import UserError
from reflectioncoder.syntax.answers.dialects import PYTHON_DIALECT, Dialect
from reflectioncoder.syntax.answers.fences import TRAILING_TOKENS, fenced_blocks, unix_text
from reflectioncoder.syntax.trees import parses

_NAMES = (
    "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|scratch_pad|inner_monologue|"
    "monologue|deliberation|rationale|internal_thoughts|internal_monologue|chain_of_thought|cot"
)
_TAG = rf"(?:[a-z]\w*[:_])?(?:{_NAMES})"
# opening and closing mark of each kind, as regular expressions; the name of a tag must be the same in both
_MARKS: tuple[tuple[str, str], ...] = (
    (rf"<(?P<tag>{_TAG})(?:\s[^<>\n]*)?>", r"</\s*{tag}\s*>"),
    (rf"\[(?P<tag>{_NAMES})\]", r"\[/{tag}\]"),
    (rf"◁(?P<tag>{_NAMES})▷", r"◁/{tag}▷"),
    (
        rf"<\|(?:begin_of_|start_of_|start_|begin_)?(?P<tag>{_NAMES})\|>",
        r"(?:<\|(?:end_of_|end_|/){tag}\|>|<\|/{tag}\|>)",
    ),
    (r"<\|channel>\s*thought\b", r"<channel\|>"),  # Gemma 4
    (r"<unused94>\s*thought\b", r"<unused95>"),  # MedGemma
)
_LONE = (
    rf"</\s*{_TAG}\s*>|\[/(?:{_NAMES})\]|◁/(?:{_NAMES})▷|<\|(?:end_(?:of_)?|/)(?:{_NAMES})\|>|<channel\|>|<unused95>"
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_HINT = re.compile(r"<[|/a-z]|<\s*/|\[/?[a-z]|◁", re.IGNORECASE)  # a text without it has no marks


@dataclass(frozen=True)
class Answered:
    """An answer without its thoughts.

    Args:
        text: the answer; `\\n` ends its lines.
        cut: whether a thought is not closed, so that the answer was cut off inside it.
    """

    text: str
    cut: bool = False


def without_thoughts(text: str, marks: Sequence[str] = (), dialect: Dialect = PYTHON_DIALECT) -> Answered:
    """Remove the thoughts from an answer.

    Args:
        text: the answer.
        marks: further kinds of thoughts, each an opening and a closing mark with a blank between them.
        dialect: language of the answer's code.
    """
    text = unix_text(text)
    if not (marks or _HINT.search(text) or text.lstrip().startswith("analysis")):
        return Answered(text)
    channels = list(_CHANNEL.finditer(text))
    if channels:
        return _from_channels(text, channels)
    if re.match(r"\s*analysis(?=[A-Z\s])", text) and "assistantfinal" in text:  # the same without special tokens
        return Answered(text.rpartition("assistantfinal")[2])
    opening, lone = _patterns(tuple(marks))
    if not opening.search(text) and not lone.search(text):
        return Answered(text)
    if parses(text):
        return Answered(text)
    cut = False
    for _ in range(20):
        step = _one_removed(text, opening, lone, marks, dialect)
        if step is None:
            break
        text, cut = step
        if cut:
            break
    return Answered(text, cut)


def check_marks(marks: Sequence[str]) -> None:
    """Raise UserError if a kind of thoughts is not an opening and a closing mark with a blank between them."""
    for pair in marks:
        if len(pair.split()) != 2:
            raise UserError(f"thought_marks '{pair}': give an opening and a closing mark, such as '<plan> </plan>'")


def thought_was_cut(text: str, marks: Sequence[str] = ()) -> bool:
    """Whether an answer ends inside a thought."""
    return without_thoughts(text, marks).cut


@lru_cache(maxsize=8)
def _patterns(marks: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of an opening mark, which begins a line, and of a closing one."""
    added = [pair.split() for pair in marks]
    opening = [re.sub(r"\?P<tag>", "?:", begin) for begin, _ in _MARKS] + [re.escape(pair[0]) for pair in added]
    closing = [_LONE, *(re.escape(pair[1]) for pair in added)]
    return (
        re.compile(rf"^[^\S\n]*(?:{'|'.join(opening)})", re.MULTILINE | re.IGNORECASE),
        re.compile("|".join(closing), re.IGNORECASE),
    )


def _closing_of(mark: str, marks: Sequence[str]) -> re.Pattern[str]:
    for pair in marks:
        begin, end = pair.split()
        if mark == begin:
            return re.compile(re.escape(end))
    for opening, closing in _MARKS:
        if found := re.fullmatch(opening, mark, re.IGNORECASE):
            tag = found.groupdict().get("tag", "")
            return re.compile(closing.replace("{tag}", re.escape(tag)), re.IGNORECASE)
    raise AssertionError(mark)


def _one_removed(
    text: str, opening: re.Pattern[str], lone: re.Pattern[str], marks: Sequence[str], dialect: Dialect
) -> tuple[str, bool] | None:
    """Remove the first thought; None if there is none. The flag says whether it was not closed."""
    start = len(text) - len(text.lstrip())
    spans = _code_spans(text, dialect)
    begun = next((f for f in opening.finditer(text) if f.start() <= start or not _within(f.end() - 1, spans)), None)
    closers = [f for f in lone.finditer(text) if not _within(f.start(), spans)]
    closed = closers[0] if closers else None
    if begun is not None and (closed is None or begun.start() < closed.start() or begun.start() <= start):
        ends = list(_closing_of(begun[0].strip(), marks).finditer(text, begun.end()))
        if not ends:
            return text[: begun.start()], True
        for end in ends[:-1]:
            rest = text[end.end() :]
            later = next(f.start() - end.end() for f in ends if f.start() >= end.end())
            again = opening.search(rest)
            if _within(later, _code_spans(rest, dialect)) or (again and again.start() < later):
                break
        else:
            end = ends[-1]
        return text[: begun.start()] + text[end.end() :], False
    if not closers:
        return None
    return text[closers[0 if begun else -1].end() :], False


def _code_spans(text: str, dialect: Dialect) -> list[tuple[int, int]]:
    """Return the places of the code in fenced blocks that are whole: (start, end)."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return [
        (starts[block.first + 1], starts[min(block.end - block.closed, len(starts) - 1)])
        for block in fenced_blocks(text, dialect)
        if block.code.strip() and dialect.whole(block.code)
    ]


def _within(place: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in spans)


def _from_channels(text: str, channels: Sequence[re.Match[str]]) -> Answered:
    """Read the messages of the Harmony format: those of the channel `final`, else all that are no analysis."""
    before = text[: channels[0].start()]
    messages = []
    for number, found in enumerate(channels):
        until = channels[number + 1].start() if number + 1 < len(channels) else len(text)
        body = text[found.end() : until]
        end = _MESSAGE_END.search(body)
        messages.append((found[1].lower(), body[: end.start()] if end else body))
    final = [body for name, body in messages if name == "final"]
    rest = final or [body for name, body in messages if name != "analysis"]
    if not rest:
        said = TRAILING_TOKENS.sub("", re.sub(r"<\|start\|>\w*\s*\Z", "", before))
        return Answered(said, not said.strip())
    return Answered("\n".join(rest))
