"""Which tokens of a final answer the repair changed: those that the first attempt does not have."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from reflectioncoder.dialogues.tokens import Encoded


def changed_tokens(encoded: Encoded, head: Sequence[int], tail: Sequence[int]) -> tuple[int, ...]:
    """Indices of the tokens of the final answer that have no counterpart in the first code block.

    Both are aligned by their longest common runs of tokens. What the repair deleted leaves no token in the answer. The
    answer's fence and the format's special tokens never count.

    Args:
        encoded: a reflection sample.
        head: tokens that open an answer's fence.
        tail: tokens that close it.

    Returns:
        Indices into `encoded.ids`, increasing; empty if the sequence has no code block.
    """
    first = next((span for span in encoded.spans if span.message == 1 and span.type == "code"), None)
    if first is None:
        return ()
    # An answer is <|assistant|> <|text|> content <|endofblock|> <|endofmessage|>.
    start, end = encoded.message_bounds[-1][0] + 2, encoded.message_bounds[-1][1] - 2
    for token in head:
        if start < end and encoded.ids[start] == token:
            start += 1
    for token in reversed(tail):
        if start < end and encoded.ids[end - 1] == token:
            end -= 1
    attempt, answer = encoded.ids[first.start + 1 : first.end - 1], encoded.ids[start:end]
    kept: set[int] = set()
    for _, place, size in SequenceMatcher(None, attempt, answer, autojunk=False).get_matching_blocks():
        kept.update(range(start + place, start + place + size))
    return tuple(place for place in range(start, end) if place not in kept)
