"""A tiny model for tests of studies, which knows the answers to two problems."""

from __future__ import annotations

import blocks

from reflectioncoder.dialogues.dialogue import Dialogue, instruction_dialogue


def known_answers() -> list[Dialogue]:
    """The answers to two of the problems of `blocks.write_problems`, as completions have them."""
    answers = {k: f"```python\n{blocks.final(k)}\n```" for k in blocks.NUMBERS}
    return [instruction_dialogue(f"Write `add_{k}`.", answer) for k, answer in answers.items()]
