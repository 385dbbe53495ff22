"""The funnel of a build (`funnel.json`): problems at the start, problems lost to each reason, sequences at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class FunnelStep(NamedTuple):
    """One row of the funnel.

    Args:
        name: name of the step.
        removed: how many problems the step removed; None for a row that only counts.
        left: how many problems were left after it, or the count; None if unknown.
    """

    name: str
    removed: int | None
    left: int | None


def funnel_steps(funnel: Mapping[str, int]) -> Iterator[FunnelStep]:
    """Yield the rows of a funnel in its order. Without the key "problems" each row only reports its count as `left`."""
    left = funnel.get("problems")
    for name, count in funnel.items():
        if name in ("problems", "sequences") or left is None:
            yield FunnelStep(name, None, count)
        elif name == "skipped_rows":  # removed before rows became problems
            yield FunnelStep("rows that could not be read", count, None)
        else:
            left = max(0, left - count)
            yield FunnelStep(name, count, left)
