"""Families of procedural problems: all of them, or a few parts that a small model can learn.

A family with a pre-training split is divided in three by composition. `pretrain` is what a small model sees before it
is tuned, `train` is what it is tuned on, and `heldout` is what it is scored on. Some parts, and so the words that name
them, never occur in `pretrain`: they are what tuning has to teach.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from reflectioncoder.problems.procedural.render import Composition

Split = Literal["pretrain", "train", "heldout"]
PROCEDURAL_SPLITS: tuple[Split, ...] = ("pretrain", "train", "heldout")
HELDOUT_SHARE = 0.2


@dataclass(frozen=True)
class Family:
    """A set of compositions, and its division into splits.

    Args:
        name: the name under which a build finds it (`problems = NAME`).
        kinds, rules, filters, maps, reductions: keys of the parts that it uses; None is all of them.
        new: keys of filters, maps and reductions that the split `pretrain` does not have.
        pretrain_share: share of the compositions without new parts and not held out that belong to `pretrain`.
    """

    name: str
    kinds: frozenset[str] | None = None
    rules: frozenset[str] | None = None
    filters: frozenset[str] | None = None
    maps: frozenset[str] | None = None
    reductions: frozenset[str] | None = None
    new: frozenset[str] = frozenset()
    pretrain_share: float = 0.0

    def has_selection(self, filters: tuple[tuple[str, str], ...]) -> bool:
        """Whether the family has all of these (accessor, filter) pairs."""
        return self.filters is None or all(key in self.filters for _, key in filters)

    def has_tail(self, tail: tuple[str, str, str, str, bool]) -> bool:
        """Whether the family has the rule, the map and the reduction of a (rule, view, map, reduction, special)."""
        rule, _, map_key, reduction, _ = tail
        return (
            (self.rules is None or not rule or rule in self.rules)
            and (self.maps is None or not map_key or map_key in self.maps)
            and (self.reductions is None or reduction in self.reductions)
        )

    def split_of(self, composition: Composition) -> Split:
        """Return the split of a composition. It depends on a hash of its key only, not on seed, process or wording."""
        parts = {composition.map, composition.reduction, *(key for _, key in composition.filters)}
        return hashed_split(composition.key, 0.0 if parts & self.new else self.pretrain_share)


def hashed_split(key: str, pretrain_share: float) -> Split:
    """Return the split of a composition from a hash of its key: 20 % are held out.

    Args:
        key: name of the composition.
        pretrain_share: share of the others that belongs to `pretrain`; 0 if the composition has new parts.
    """
    digest = hashlib.sha256(key.encode()).digest()
    if int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32:
        return "heldout"
    return "pretrain" if int.from_bytes(digest[4:8], "big") < pretrain_share * 2**32 else "train"


EVERYTHING = Family("procedural")
MICRO = Family(
    "procedural_micro",
    kinds=frozenset({"ints"}),
    rules=frozenset(),
    filters=frozenset("even odd pos neg gt lt ge le div ne between absgt".split()),
    maps=frozenset("square times plus minus neg abs mod half cap floor".split()),
    reductions=frozenset("sum product max min count list sorted descending first last distinct average range".split()),
    new=frozenset("ne absgt between half floor mod average range distinct descending".split()),
    pretrain_share=0.5,
)
FAMILIES = {family.name: family for family in (EVERYTHING, MICRO)}
