"""The interface of the three back ends that complete prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from reflectioncoder.generate.completions import Completion

SampleKey = tuple[str, int]  # a problem's id and a sample
Keep = Callable[[Completion, int], None]  # called with a finished completion and its number of tokens


class Backend(Protocol):
    """A back end that completes prompts.

    Args:
        wanted: all completions of the run in order, each with the hash of its prompt.
        fingerprint: fingerprint of the model.
        paid: whether completions cost money, so that each is synced to disk before the run continues.
    """

    wanted: dict[SampleKey, str]
    fingerprint: str
    paid: bool

    def load(self) -> None:
        """Load the model or connect; called only if completions are missing."""
        ...

    def complete(self, missing: Sequence[SampleKey], keep: Keep) -> None:
        """Make these completions and pass each to `keep` as soon as it is finished, in any order.

        Raises:
            UserError: some completions cannot be made; those passed to `keep` stay on disk.
        """
        ...
