"""`funnel.json`: how many problems a build began with, how many each reason took away, how many sequences are left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class FunnelStep(NamedTuple):
    """A row: what it is called, how many it took away, how many were left; None where it does not say."""

    name: str
    removed: int | None
    left: int | None


def funnel_steps(funnel: Mapping[str, int]) -> Iterator[FunnelStep]:
    """The rows of a funnel, in its order; a funnel without "problems" only counts."""
    left = funnel.get("problems")
    for name, count in funnel.items():
        if name in ("problems", "sequences") or left is None:
            yield FunnelStep(name, None, count)
        elif name == "skipped_rows":  # before there were problems
            yield FunnelStep("rows that could not be read", count, None)
        else:
            left = max(0, left - count)
            yield FunnelStep(name, count, left)
