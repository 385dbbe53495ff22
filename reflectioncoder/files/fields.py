"""Which columns of a row hold which part of a problem or of a training sample: `--fields`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reflectioncoder.errors import UserError


@dataclass(frozen=True)
class FieldMap:
    """Which column of a row holds which part of a problem or of a training sample.

    Without a column for the request or for the messages, the shape of the row decides (`shapes.py`). A dotted name
    addresses nested objects. In a list of messages, a role addresses the first message of that role, as in
    "messages.user". A column that is named explicitly must exist; one with a default name may be missing. A part with
    an empty column name is not read.

    Args:
        instruction: the request.
        id: id of the problem; without it, problems are numbered.
        solution: reference code; a block under `if __name__ == "__main__"` is removed.
        tests: tests, in any format of `split_tests`.
        entry_point: name, or an expression such as `Solution().twoSum`; if empty, it is inferred from the tests.
        setup: code to insert before the solution.
        level: difficulty, a number from 1 or one of easy, medium, hard.
        require: column that must be true, or "column=value"; other rows are left out.
        ranges: for files that contain all splits: first and last id of each, as in "train:601-974 test:11-510".
        source: name of the data set; by default the file name.
        licence: licence of its problems.
        answer: the answer to train on; `build` ignores it.
        messages: list of messages, instead of request and answer.
        input: text that belongs to the request and follows it, as in Alpaca's sets.
        system: system prompt, put in front of the first request.
        history: earlier turns, as [request, answer] pairs.
        type: type of a training sample, such as "reflection".
        ignore: columns, separated by spaces, that do not belong to the sample although their names say so.
    """

    instruction: str = "instruction"
    id: str = "id"
    solution: str = "solution"
    tests: str = "tests"
    entry_point: str = "entry_point"
    setup: str = ""
    level: str = ""
    require: str = ""
    ranges: str = ""
    source: str = ""
    licence: str = ""
    answer: str = ""
    messages: str = ""
    input: str = "input"
    system: str = "system"
    history: str = "history"
    type: str = "type"
    ignore: str = ""

    @classmethod
    def parse(cls, text: str) -> FieldMap:
        """Parse a preset name, pairs like "instruction=text,tests=test_list", or both, separated by commas.

        Raises:
            UserError: unknown preset or part; the message lists the known ones.
        """
        chosen = cls()
        parts = {item.name for item in dataclasses.fields(cls)}
        for item in filter(None, (item.strip() for item in text.split(","))):
            key, equals, value = (piece.strip() for piece in item.partition("="))
            if not equals and key in PRESETS:
                chosen = PRESETS[key]
            elif not equals:
                raise UserError(f"fields: unknown preset '{key}'; use {', '.join(PRESETS)}, or write part=column")
            elif key not in parts:
                raise UserError(f"fields: unknown part '{key}'; use one of {', '.join(sorted(parts))}")
            else:
                chosen = dataclasses.replace(chosen, **{key: value})
        return chosen

    def names(self, part: str) -> str:
        """Return the column that was named for a part; "" if the default stands."""
        name = str(getattr(self, part))
        return "" if name == getattr(FieldMap, part) else name  # defaults are attributes of the class


LEETCODE_COLUMNS = FieldMap(
    "query", "task_id", "completion", "test", "entry_point", setup="prompt", level="meta.difficulty",
    source="LeetCodeDataset", licence="MIT (statements: LeetCode)", answer="response",
)  # fmt: skip
THEALGORITHMS_COLUMNS = FieldMap(
    "docstring", "task_id", "module_source", "examples", "entry_point", require="doctest_pass",
    source="TheAlgorithms", licence="MIT",
)  # fmt: skip
MBPP_COLUMNS = FieldMap(
    "text", "task_id", "code", "test_list", "", setup="test_setup_code",
    ranges="train:601-974 validation:511-600 test:11-510 prompt:1-10", source="MBPP", licence="CC-BY-4.0",
)  # fmt: skip
# requests only, for chat models: the answers in instruction data sets are not self-contained code
CODEFEEDBACK_COLUMNS = FieldMap("query", "", "", "", "", source="CodeFeedback", licence="Apache-2.0", answer="answer")
MESSAGES_COLUMNS = FieldMap("", "", "", "", "", messages="messages")
PRESETS: Mapping[str, FieldMap] = {
    "leetcode": LEETCODE_COLUMNS, "thealgorithms": THEALGORITHMS_COLUMNS, "mbpp": MBPP_COLUMNS,
    "codefeedback": CODEFEEDBACK_COLUMNS,
    "messages": MESSAGES_COLUMNS,
}  # fmt: skip


def column(row: Mapping[str, Any], name: str) -> Any:
    """Return the value at a dotted name; None if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if isinstance(value, list):
            value = next((_said(item) for item in value if isinstance(item, Mapping) and item.get("role") == key), None)
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _said(message: Mapping[str, Any]) -> Any:
    """Return the text of a message, whose content is a string or a list of blocks."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(block, Mapping) for block in content):
        return "\n\n".join(str(block.get("content") or block.get("text") or "") for block in content)
    return content
