"""When a loop stops: cases worked out by hand. Scores in percent here, as shares in the program."""

from __future__ import annotations

import pytest

from reflectioncoder.improve.stopping import Standing, standing

CASES = [
    # scores of rounds 0, 1, ..., patience, min_gain, best, waited, stops
    ([20], 1, 0, 0, 0, False),  # nothing was trained yet
    ([20, 30], 1, 0, 1, 0, False),
    ([20, 30, 30], 1, 0, 1, 1, True),  # an equal score is no gain, and the earlier round is the best
    ([20, 30, 25], 2, 0, 1, 1, False),
    ([20, 30, 25, 29], 2, 0, 1, 2, True),
    ([20, 30, 25, 31], 2, 0, 3, 0, False),
    ([20, 10, 15], 2, 0, 0, 2, True),  # 15 is more than 10, but not more than round 0
    ([20, 10, 10, 10, 10], 0, 0, 0, 4, False),  # patience 0 never stops
    ([20, 20.5], 1, 1, 1, 1, True),  # half a point is too little to go on, but it is the best
    ([20, 20.5, 21], 2, 1, 2, 0, False),  # two halves are one point since the last gain
    ([20, 20.5, 20.9], 2, 1, 2, 2, True),
    ([20, 21, 21.9, 22.0], 3, 1, 3, 0, False),
    ([10, 40], 1, 30, 1, 0, False),  # exactly the smallest gain counts, although 0.4 - 0.1 < 0.3 in floating point
]


@pytest.mark.parametrize(("percent", "patience", "least", "best", "waited", "stops"), CASES)
def test_a_loop_stops_after_rounds_without_a_gain(
    percent: list[float], patience: int, least: float, best: int, waited: int, stops: bool
) -> None:
    assert standing([value / 100 for value in percent], patience, least) == Standing(best, waited, stops)
