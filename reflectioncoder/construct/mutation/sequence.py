"""Builds reflection sequences without a language model: plant bugs in a verified solution, run, explain, repair.

This replaces section 3.1 of the paper where no code interpreter model is available. The text of each execution block is
what the interpreter printed for the code block before it, and each failing round is followed by the repair of exactly
one planted bug. A bug is used only if it actually makes tests fail. Mutants that exceed the time limit are never used,
because their output would depend on the speed of the machine.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from contextlib import suppress

from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.mutation.edits import Mutation, apply_edits
from reflectioncoder.construct.mutation.explain import (
    AssertFailure,
    after_mistake,
    analysis,
    mistaken_analysis,
    parse_assert,
)
from reflectioncoder.construct.mutation.kinds import BUG_KINDS, find_mutations, given_mutations
from reflectioncoder.construct.mutation.reasons import WORDING_VERSION
from reflectioncoder.construct.mutation.workshop import (
    LONGEST_TEST,
    Round,
    UnusableError,
    Workshop,
    choose_shown,
    function_at,
    write_sequence,
)
from reflectioncoder.construct.prompts import PROMPT_VERSION
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.problem import Problem

BUGS_TRIED = 24  # candidates tried as the first bug before the problem is rejected
WRONG_FIRST = 0.15  # share of the sequences with one bug whose first repair is wrong, if the line allows it
EXTRA_ATTEMPTS = 8  # candidates tried as further bugs of a sequence


def reflect_by_mutation(
    problem: Problem, interpreter: Interpreter, seed: int, max_bugs: int = 3
) -> Dialogue | Rejected:
    """Build one reflection sequence for a verified problem.

    Args:
        problem: a problem with a solution and tests. Its own mistakes are planted if it has any; otherwise bugs of the
            kinds in `BUG_KINDS`.
        interpreter: runs every code block.
        seed: determines all random choices, together with the problem's id.
        max_bugs: maximum number of planted bugs and so of failing rounds, at least 1. The target is one bug for 70 % of
            the sequences, up to two for 25 %, up to three for 5 %.

    Returns:
        a reflection dialogue with at least one failing round and a last round that passes, or the reason for rejecting
        the problem.
    """
    if not problem.solution or not problem.solution.strip():
        return Rejected(problem.id, "no solution")
    if not problem.tests:
        unread = str(problem.extra.get("unread_tests", ""))
        return Rejected(problem.id, "tests not read" if unread else "no tests", unread)
    # wordings are drawn from a generator of their own, so that they do not change which bugs are planted
    rng, wording = random.Random(f"{seed}:{problem.id}"), random.Random(f"{seed}:{problem.id}:wording")
    shop = Workshop(problem, problem.solution.strip("\n") + "\n", interpreter, rng, wording)
    try:
        found = given_mutations(shop.solution, problem.mistakes) if problem.mistakes else find_mutations(shop.solution)
    except UserError:  # a mistake in a bug kind
        raise
    except (SyntaxError, ValueError, RecursionError) as error:
        return Rejected(problem.id, "solution does not parse", str(error))
    try:
        for test in problem.tests:
            parse_assert(test)
    except (SyntaxError, ValueError) as error:
        return Rejected(problem.id, "test is not a single assert", str(error))
    if problem.given:
        result = interpreter.run(problem.given)
        if not result.ok:
            return Rejected(problem.id, "given code fails", result.error or result.outcome)
    verdict = shop.outcomes(())
    if verdict is None or any(verdict):
        detail = "not ended" if verdict is None else next(how for how in verdict if how)
        return Rejected(problem.id, "solution fails its tests", detail)
    shop.candidates = _drawn_order(found, shop)
    draw = rng.random()
    wanted = min(max_bugs, 3 if draw < 0.05 else 2 if draw < 0.30 else 1)
    usable = False
    for first in range(min(len(shop.candidates), BUGS_TRIED)):
        if not any(shop.outcomes((first,)) or ()):
            continue
        usable = True
        planted = _add_bugs(shop, first, wanted)
        while planted:
            try:
                plan = _plan(shop, planted)
                mistaken = _with_mistake(shop, plan)
                if mistaken is not None:
                    with suppress(UnusableError):
                        return _written(shop, mistaken, seed)
                return _written(shop, plan, seed)
            except UnusableError:
                planted = planted[:-1]
    return Rejected(
        problem.id, "no usable failure" if usable else "no failing mutant", f"{len(shop.candidates)} mutants"
    )


def _drawn_order(found: Sequence[Mutation], shop: Workshop) -> list[Mutation]:
    """Return the candidates in random order, kinds by weight. Those inside a `while` loop mostly come last."""
    loops = [node for node in ast.walk(ast.parse(shop.solution)) if isinstance(node, ast.While)]
    kinds: dict[str, list[Mutation]] = {}
    for mutation in found:
        kinds.setdefault(mutation.kind, []).append(mutation)
    order: list[tuple[bool, int, float, Mutation]] = []
    for mutations in kinds.values():
        shop.rng.shuffle(mutations)
        for turn, mutation in enumerate(mutations):
            looping = any(loop.lineno <= mutation.line <= (loop.end_lineno or 0) for loop in loops)
            weight = 1.0 if mutation.clauses is not None else BUG_KINDS[mutation.kind].weight
            chance = shop.rng.random() ** (1 / weight)
            order.append((looping and shop.rng.random() < 0.7, turn, -chance, mutation))
    return [mutation for *_, mutation in sorted(order, key=lambda item: item[:3])]


def _lines(mutation: Mutation, text: str) -> set[int]:
    return {
        line
        for edit in mutation.edits
        for line in range(text.count("\n", 0, edit.start) + 1, text.count("\n", 0, edit.end) + 2)
    }


def _add_bugs(shop: Workshop, first: int, wanted: int) -> tuple[int, ...]:
    """Add bugs of other kinds on other lines, each of which makes a test fail on its own."""
    planted = [first]
    others = [i for i in range(len(shop.candidates)) if i != first]
    shop.rng.shuffle(others)
    for i in others[:EXTRA_ATTEMPTS]:
        if len(planted) >= wanted:
            break
        mutation = shop.candidates[i]
        lines = _lines(mutation, shop.solution)
        if any(
            mutation.kind == shop.candidates[j].kind or lines & _lines(shop.candidates[j], shop.solution)
            for j in planted
        ):
            continue
        try:
            ast.parse(shop.code([*planted, i]))
        except (SyntaxError, ValueError):
            continue
        if any(shop.outcomes((i,)) or ()) and any(shop.outcomes((*planted, i)) or ()):
            planted.append(i)
    return tuple(planted)


def _plan(shop: Workshop, planted: Sequence[int]) -> list[Round]:
    """Plan the failing rounds: the asserts shown, the one that fails, and the bug that is then repaired.

    Raises:
        UnusableError: the failures cannot be attributed to single bugs.
    """
    rounds: list[Round] = []
    shown: tuple[int, ...] = ()
    while planted:
        now = shop.outcomes(planted)
        if now is None:
            raise UnusableError
        failing = [i for i, how in enumerate(now) if how and len(shop.problem.tests[i]) <= LONGEST_TEST]
        seen = [i for i in failing if i in shown]
        options = []
        for bug in planted:
            after = shop.outcomes([i for i in planted if i != bug])
            if after is None:
                continue
            for test in seen[:1] or failing:
                if after[test] != now[test]:
                    other_error = after[test].split(":")[0] != now[test].split(":")[0]
                    options.append((bug, test, bool(after[test]) and not other_error))
        clear = [option for option in options if not option[2]] or options
        if not clear:
            raise UnusableError
        # Take the shortest test of four: sequences should be short, and each digit costs a token.
        bug, test, partial = min(
            (shop.rng.choice(clear) for _ in range(4)), key=lambda option: len(shop.problem.tests[option[1]])
        )
        shown = choose_shown(shop, test, now, shown)
        rounds.append(Round(tuple(planted), shown, test, bug, partial))
        planted = [i for i in planted if i != bug]
    return rounds


def _with_mistake(shop: Workshop, plan: Sequence[Round]) -> list[Round] | None:
    """Add to some plans of one bug a first repair that is wrong: another bug on the same line takes its place.

    Returns:
        the longer plan; None for most plans, or if there is no such bug.
    """
    if len(plan) != 1 or shop.wording.random() >= WRONG_FIRST:
        return None
    first = plan[0]
    bug = shop.candidates[first.repaired]
    lines = _lines(bug, shop.solution)
    others = [
        i
        for i, other in enumerate(shop.candidates)
        if i != first.repaired and len(lines) == 1 and _lines(other, shop.solution) == lines
    ]
    shop.wording.shuffle(others)
    for other in others[:EXTRA_ATTEMPTS]:
        now = shop.outcomes((other,))
        failing = [i for i, how in enumerate(now or ()) if how and i in first.shown]
        changed = _line_of(shop, (other,), bug.line)
        if failing and changed.strip() and changed != _line_of(shop, first.planted, bug.line):
            tried = Round(first.planted, first.shown, first.failing, first.repaired, False, other)
            return [tried, Round((other,), first.shown, failing[0], other, False)]
    return None


def _line_of(shop: Workshop, planted: Sequence[int], line: int) -> str:
    """Return a line of the solution with bugs planted."""
    lines = apply_edits(shop.solution, [shop.candidates[i] for i in planted]).split("\n")
    return lines[line - 1] if len(lines) == len(shop.solution.split("\n")) else ""


def _written(shop: Workshop, rounds: Sequence[Round], seed: int) -> Dialogue:
    """Run every round and write the dialogue. Raises UnusableError: a round does not behave as planned."""

    def say(turn: int, plan: Round, failure: AssertFailure) -> str:
        mutation = shop.candidates[plan.repaired]
        buggy = apply_edits(shop.solution, [mutation]).split("\n")[mutation.line - 1]
        if plan.tried is not None:
            return mistaken_analysis(failure, buggy, _line_of(shop, (plan.tried,), mutation.line), shop.wording)
        fixed, where = shop.solution.split("\n")[mutation.line - 1], function_at(shop.solution, mutation.line)
        text = analysis(failure, mutation, buggy, fixed, where, plan.partial, shop.wording)
        return after_mistake(text, shop.wording) if turn and rounds[turn - 1].tried is not None else text

    provenance = {
        "method": "mutation",
        "seed": seed,
        "mutations": [shop.candidates[plan.repaired].kind for plan in rounds],
        "rounds": len(rounds) + 1,
        "prompt_version": PROMPT_VERSION,
        "wording_version": WORDING_VERSION,
        **({"wrong_repairs": 1} if rounds[0].tried is not None else {}),
    }
    return write_sequence(shop, rounds, say, provenance)
