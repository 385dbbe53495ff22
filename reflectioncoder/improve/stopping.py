"""When a loop stops, from the scores of its rounds alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NO_GAIN = 1e-9  # points; sums of shares are not exact


@dataclass(frozen=True)
class Standing:
    """What the scores so far say.

    Args:
        best: the round with the highest score; the earliest of several.
        waited: rounds since the last gain that counts.
        stops: whether the loop ends here because it has waited long enough.
    """

    best: int
    waited: int
    stops: bool


def standing(scores: Sequence[float], patience: int, min_gain: float) -> Standing:
    """Judge whether a loop goes on.

    A round gains if its score exceeds that of the last round that gained (at first round 0), by `min_gain` at least. So
    several small gains add up to one that counts.

    Args:
        scores: share of problems solved after each round, from round 0 on; at least one.
        patience: rounds in a row without a gain after which the loop ends; 0 never ends it.
        min_gain: smallest gain that counts, in percentage points.
    """
    last = scores[0]
    waited = 0
    for score in scores[1:]:
        gain = 100 * (score - last)
        if gain > NO_GAIN and gain >= min_gain - NO_GAIN:
            last, waited = score, 0
        else:
            waited += 1
    best = max(range(len(scores)), key=lambda number: (scores[number], -number))
    return Standing(best, waited, bool(patience) and waited >= patience)
