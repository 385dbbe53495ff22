"""A problem that a server refuses is told from a server that refuses everything."""

from __future__ import annotations

from reflectioncoder.clients.messages import SamplerError
from reflectioncoder.clients.refusals import ALIKE, ALIKE_FILTERED, Refusals

NO = SamplerError("refused", "role 'tool' is unknown")
FILTERED = SamplerError("refused", "flagged", final=True)
FORBIDDEN = SamplerError("forbidden", "403")
LONG = SamplerError("too_long", "context", final=True)


def never(_: int) -> bool:
    return False


def test_an_answer_to_a_later_request_shows_that_the_problem_was_at_fault() -> None:
    refusals: Refusals[str] = Refusals(1)
    early = refusals.sent()
    assert refusals.refused(0, NO, "a") == ([], "")
    assert refusals.answered(0, early) == []  # sent before, so it shows nothing
    assert refusals.answered(1, refusals.sent()) == []  # another kind of request
    assert refusals.answered(0, refusals.sent()) == ["a"]
    assert refusals.answered(0, refusals.sent()) == []


def test_as_many_as_may_be_under_way_are_refused_before_it_is_the_server() -> None:
    for at_once, error, most in ((1, NO, ALIKE), (30, NO, 30), (1, FILTERED, ALIKE_FILTERED), (1, FORBIDDEN, ALIKE)):
        refusals: Refusals[int] = Refusals(at_once)
        found = [refusals.refused(1, error, number) for number in range(most)]
        assert found == [([], "")] * (most - 1) + [([], error.detail)]


def test_a_conversation_that_outgrows_the_context_is_always_the_problems() -> None:
    refusals: Refusals[int] = Refusals(1)
    assert [refusals.refused(4, LONG, number) for number in range(9)] == [([number], "") for number in range(9)]
    assert [refusals.refused(0, LONG, number)[1] for number in range(5)] == ["", "", "", "", "context"]
    local = SamplerError("not_recorded", "no answer")
    assert [refusals.refused(0, local, number) for number in range(9)] == [([number], "") for number in range(9)]


def test_what_is_left_at_the_end_is_decided_by_all_answers() -> None:
    refusals: Refusals[str] = Refusals(1)
    refusals.refused(0, NO, "a")
    settled = refusals.settle(never)
    assert (settled.rejected, settled.open, settled.failure) == ([], [("a", NO.detail)], NO.detail)
    assert refusals.settle(lambda kind: kind == 0).rejected == ["a"]  # answered in an earlier run
    refusals.answered(0, 0)  # an earlier request was answered late
    assert refusals.settle(never).rejected == ["a"]
    refusals.refused(2, FILTERED, "b")
    assert refusals.settle(never).rejected == [
        "a",
        "b",
    ]  # a filter speaks of one problem, and the server answers others
    refusals.refused(2, NO, "c")
    settled = refusals.settle(never)
    assert (settled.rejected, settled.open, settled.failure) == (["a", "b"], [("c", NO.detail)], NO.detail)


def test_a_key_that_is_refused_in_between_leaves_the_problem_open() -> None:
    refusals: Refusals[str] = Refusals(9)
    early = refusals.sent()
    refusals.refused(0, FORBIDDEN, "a")
    refusals.answered(0, early)
    settled = refusals.settle(never)
    assert (settled.rejected, settled.open, settled.failure) == ([], [("a", "403")], "")
