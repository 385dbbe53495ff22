"""Writes the analysis of a failing round from the planted bug and the actual failure (figure 1, analysis block).

An analysis names the failing assert, the expected value, the value that the interpreter returned, the cause and the
repair. The wordings are chosen at random. The facts come from the run and the mutation.
"""

from __future__ import annotations

import ast
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from reflectioncoder.construct.mutation.edits import Mutation
from reflectioncoder.construct.mutation.kinds import BUG_KINDS
from reflectioncoder.construct.mutation.reasons import CLOSINGS, EFFECTS, MISTAKEN, STILL
from reflectioncoder.errors import UserError

LONGEST = 90
SIGNS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.NotEq: "other than",
    ast.IsNot: "other than",
    ast.In: "in",
    ast.NotIn: "not in",
}


@dataclass(frozen=True)
class ParsedAssert:
    """The parts of an assert statement.

    Args:
        test: the assert statement.
        call: the expression under test, which is evaluated to get the actual value.
        expected: the expected value as source text, or a phrase if there is no single value.
        is_value: whether `expected` is source text.
    """

    test: str
    call: str
    expected: str
    is_value: bool

    @property
    def wanted(self) -> str:
        """The expected value as it appears in a sentence."""
        return code(self.expected) if self.is_value else self.expected


@dataclass(frozen=True)
class AssertFailure:
    """How an assert failed in the interpreter: with a wrong value (`actual`) or with another exception."""

    check: ParsedAssert
    exception: str
    message: str
    actual: str | None = None


def parse_assert(test: str) -> ParsedAssert:
    """Split an assert statement into its parts.

    Raises:
        SyntaxError: the text is not a single assert statement.
    """
    body = ast.parse(test.strip()).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise SyntaxError("not a single assert statement")
    asked = body[0].test
    if isinstance(asked, ast.Compare) and len(asked.ops) == 1:
        left, right, op = asked.left, asked.comparators[0], type(asked.ops[0])
        if op in (ast.Eq, ast.Is):
            if not _calls(left) and _calls(right):
                left, right = right, left
            return ParsedAssert(test, _text(test, left), _text(test, right), True)
        if op in SIGNS:
            return ParsedAssert(test, _text(test, left), f"a value {SIGNS[op]} {code(_text(test, right))}", False)
    if isinstance(asked, ast.UnaryOp) and isinstance(asked.op, ast.Not):
        return ParsedAssert(test, _text(test, asked.operand), "a false value", False)
    return ParsedAssert(test, _text(test, asked), "a true value", False)


def _calls(node: ast.expr) -> bool:
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _text(test: str, node: ast.expr) -> str:
    return ast.get_source_segment(test.strip(), node) or ast.unparse(node)


def code(text: str, longest: int = LONGEST) -> str:
    """Format a fragment as inline code, on one line of at most `longest` characters."""
    flat = " ".join(text.split())
    return f"`{flat if len(flat) <= longest else flat[: longest - 4] + ' ...'}`"


def contrast(actual: str, expected: str) -> str:
    """Describe how a wrong value differs from the right one, as a clause that follows the cause; may be empty."""
    try:
        got, due = ast.literal_eval(actual), ast.literal_eval(expected)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ""
    if got is None or (isinstance(got, bool) and isinstance(due, bool)):
        return ""  # there is nothing to add to the values, which the first sentence names
    if isinstance(got, (int, float)) and isinstance(due, (int, float)):
        if isinstance(got, float) and isinstance(due, int) and got == int(got) == due:
            return "so the result is a float and not an integer"
        if not (abs(got) < 1e300 and abs(due) < 1e300):
            return ""
        return f"which makes the result {abs(round(got - due, 6))} too {'large' if got > due else 'small'}"
    if type(got) is not type(due):
        return f"so the result is of type `{type(got).__name__}` instead of `{type(due).__name__}`"
    if not got:
        return "which leaves the result empty"
    if isinstance(got, str):
        return _contrast_text(got, due)
    if isinstance(got, dict):
        for key in due:
            if key not in got:
                return f"so the key {code(repr(key))} is missing"
            if got[key] != due[key]:
                return f"so {code(repr(key))} gets {code(repr(got[key]))} instead of {code(repr(due[key]))}"
        extra = next((key for key in got if key not in due), None)
        return f"so the key {code(repr(extra))} should not be there"
    return _contrast_items(got, due) if isinstance(got, (list, tuple, set)) else ""


def _contrast_text(got: str, due: str) -> str:
    if got.lower() == due.lower():
        return "so upper and lower case are wrong"
    if sorted(got) == sorted(due):
        return "which puts the characters in the wrong order"
    if got in due:
        return "so a part of the text is missing"
    return "so the text contains too much" if due in got else ""


def _contrast_items(got: Any, due: Any) -> str:
    have, want = Counter(map(repr, got)), Counter(map(repr, due))
    missing, extra = list((want - have).elements()), list((have - want).elements())
    if not missing and not extra:
        return "which puts the items in the wrong order"
    if not extra:
        return f"so {code(min(missing))} is missing" + (" among others" if len(missing) > 1 else "")
    if not missing:
        return f"so {code(min(extra))} is wrongly included" + (" among others" if len(extra) > 1 else "")
    if isinstance(got, (list, tuple)) and len(got) == len(due):
        at = next(i for i, (a, b) in enumerate(zip(got, due, strict=True)) if a != b)
        return f"so item {at} is {code(repr(got[at]))} instead of {code(repr(due[at]))}"
    return ""


def analysis(
    failure: AssertFailure, mutation: Mutation, buggy: str, fixed: str, function: str, partial: bool, rng: random.Random
) -> str:
    """Write the text of an analysis block: what failed, why, and the repair.

    Args:
        failure: the failing assert and the interpreter's result.
        mutation: the bug that is repaired next.
        buggy: the line of the bug in the buggy program.
        fixed: the same line in the solution.
        function: name of the function with the bug.
        partial: whether another planted bug contributes to this failure.
        rng: picks the wordings.
    """
    cause, repair = clauses(mutation, buggy, fixed, function, rng)
    return compose(failure, cause, repair, EFFECTS.get(mutation.kind, ""), partial, rng)


def clauses(mutation: Mutation, buggy: str, fixed: str, function: str, rng: random.Random) -> tuple[str, str]:
    """Write the cause of a bug as a clause, and its repair as an imperative; see `analysis`."""
    if mutation.clauses is not None:
        return mutation.clauses
    words = {key: code(value)[1:-1] for key, value in mutation.words.items()}
    words |= {"bad": code(mutation.bad)[1:-1], "good": code(mutation.good)[1:-1]}
    words |= {"line": buggy.strip(), "fixed": fixed.strip(), "def": function}
    kind = BUG_KINDS[mutation.kind]
    try:
        cause, repair = (rng.choice(texts).format_map(words) for texts in (kind.causes, kind.repairs))
    except KeyError as error:
        raise UserError(f"bug kind '{mutation.kind}': a template has the unknown field {error}") from None
    return cause, repair


def compose(failure: AssertFailure, cause: str, repair: str, effect: str, partial: bool, rng: random.Random) -> str:
    """Write an analysis from its parts: what failed, the cause, what it does to the run, and the repair.

    Args:
        failure: the failing assert and the interpreter's result.
        cause: a clause.
        repair: an imperative.
        effect: a sentence; may be empty.
        partial: whether something else contributes to this failure.
        rng: picks the wordings.
    """
    parts = [_opening(failure, rng), _cause(cause, failure, partial, rng), effect, _repair(repair, rng)]
    return " ".join(filter(None, parts))


def mistaken_analysis(failure: AssertFailure, line: str, other: str, rng: random.Random) -> str:
    """Write an analysis that guesses a repair which will not help.

    Args:
        failure: the failing assert and the interpreter's result.
        line: the line that is changed.
        other: what it is changed to, which is wrong as well.
        rng: picks the wordings.
    """
    guess = rng.choice(MISTAKEN).format(line=line.strip(), other=other.strip())
    return f"{_opening(failure, rng)} {guess}"


def after_mistake(text: str, rng: random.Random) -> str:
    """Put before an analysis that the repair before it did not help."""
    return f"{rng.choice(STILL)} {text}"


def _opening(failure: AssertFailure, rng: random.Random) -> str:
    check = failure.check
    test, wanted = f"`{check.test}`", check.wanted
    if failure.actual is None:
        error = code(f"{failure.exception}: {failure.message}" if failure.message else failure.exception, 160)
        return rng.choice(
            (
                f"Running {test} raised {error}; the expected result is {wanted}.",
                f"{test} stops with {error} instead of giving {wanted}.",
                f"The test {test} did not get a value: it ended in {error}, where {wanted} was expected.",
                f"There is an exception, {error}, in {test}, which should give {wanted}.",
            )
        )
    actual = f"`{failure.actual}`"
    return rng.choice(
        (
            f"The assertion {test} failed: expected {wanted}, got {actual}.",
            f"{test} fails with {actual} instead of {wanted}.",
            f"The test {test} does not hold; the result is {actual}, while {wanted} is expected.",
            f"For {test} the code returns {actual}, but it should be {wanted}.",
            f"Instead of {wanted}, the result is {actual}, so {test} fails.",
        )
    )


def _cause(cause: str, failure: AssertFailure, partial: bool, rng: random.Random) -> str:
    if partial:
        return rng.choice(
            (f"One reason is that {cause}.", f"At least part of the problem: {cause}.", f"I see one mistake: {cause}.")
        )
    if failure.actual is None:
        return rng.choice(
            (
                f"The reason for the `{failure.exception}` is that {cause}.",
                f"This happens because {cause}.",
                f"The error comes about as {cause}.",
            )
        )
    effect = contrast(failure.actual, failure.check.expected) if failure.check.is_value else ""
    tail = f", {effect}" if effect else ""
    return rng.choice(
        (
            f"The cause is that {cause}{tail}.",
            f"{cause[0].upper()}{cause[1:]}{tail}.",
            f"This is because {cause}{tail}.",
            f"Looking at the code, {cause}{tail}.",
        )
    )


def _repair(repair: str, rng: random.Random) -> str:
    return rng.choice(
        (
            f"I will {repair} and run the tests again.",
            f"The fix is to {repair}.",
            f"To repair it, I {repair}.",
            f"The code has to {repair}; then I retest.",
            f"I'll {repair}.",
        )
    )


def closing(function: str, repaired: str, rounds: int, rng: random.Random) -> str:
    """Write the last text block, which says that the tests pass.

    Args:
        function: name of the tested function.
        repaired: the assert of the last failing round.
        rounds: number of failing rounds before.
        rng: picks the wording.
    """
    repairs = "the repair" if rounds == 1 else f"{('two', 'three')[rounds - 2] if rounds < 4 else rounds} repairs"
    first = repairs[0].upper() + repairs[1:]
    return rng.choice(CLOSINGS).format(function=function, test=repaired, repairs=repairs, repairs_first=first)
