"""What completes prompts: the interface of the three back ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from reflectioncoder.generate.completions import Completion

if TYPE_CHECKING:  # a server's completions take no torch
    pass

Key = tuple[str, int]  # a problem's id and a sample
Keep = Callable[[Completion, int], None]  # takes a completion that has ended, and its number of tokens


class Backend(Protocol):
    """Whatever completes prompts.

    Args:
        wanted: all completions of the run in order, each with the hash of its prompt.
        fingerprint: of the model.
        paid: a completion is worth waiting for the disk.
    """

    wanted: dict[Key, str]
    fingerprint: str
    paid: bool

    def load(self) -> None:
        """Get ready; only called where something is missing."""
        ...

    def complete(self, missing: Sequence[Key], keep: Keep) -> None:
        """Make these completions and hand over each as soon as it ends, in any order.

        Raises:
            UserError: some cannot be made; those that were handed over are kept.
        """
        ...
