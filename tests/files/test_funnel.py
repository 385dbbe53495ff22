"""The funnel of a build, which the report, the data card and the terminal show."""

from reflectioncoder.files.funnel import funnel_steps


def test_each_step_takes_away_from_what_the_one_before_left() -> None:
    funnel = {"skipped_rows": 3, "problems": 10, "too_long": 4, "idle_asserts": 1, "sequences": 5}
    assert list(funnel_steps(funnel)) == [
        ("rows that could not be read", 3, None),
        ("problems", None, 10),
        ("too_long", 4, 6),
        ("idle_asserts", 1, 5),
        ("sequences", None, 5),
    ]


def test_a_funnel_without_problems_only_counts() -> None:
    assert list(funnel_steps({"too_long": 4, "sequences": 5})) == [("too_long", None, 4), ("sequences", None, 5)]
