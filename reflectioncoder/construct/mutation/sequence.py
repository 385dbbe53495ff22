"""Builds reflection sequences without a language model: plant bugs in a verified solution, run, explain, repair.

This replaces section 3.1 of the paper where no code interpreter model is available. The text of each execution block is
what the interpreter printed for the code block before it, and each failing round is followed by the repair of exactly
one planted bug. A bug is used only if it actually makes tests fail. Mutants that exceed the time limit are never used,
because their output would depend on the speed of the machine.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.mutation.edits import Mutation, apply_edits
from reflectioncoder.construct.mutation.explain import (
    AssertFailure,
    after_mistake,
    analysis,
    closing,
    mistaken_analysis,
    parse_assert,
)
from reflectioncoder.construct.mutation.kinds import BUG_KINDS, find_mutations
from reflectioncoder.construct.mutation.reasons import WORDING_VERSION
from reflectioncoder.construct.prompts import PROMPT_VERSION, REFLECTION_INSTRUCTIONS, reflection_instruction
from reflectioncoder.dialogues.dialogue import Block, Dialogue, reflection_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.exchange import OwnCode
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits
from reflectioncoder.interpreter.portable import run_portably
from reflectioncoder.problems.given import defined_names
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.trees import names_in

TRIAL_LIMITS = Limits(seconds=1.0)
BUGS_TRIED = 24  # candidates tried as the first bug before the problem is rejected
WRONG_FIRST = 0.15  # share of the sequences with one bug whose first repair is wrong, if the line allows it
EXTRA_ATTEMPTS = 8  # candidates tried as further bugs of a sequence
SHOWN_TESTS = 3
MOST_SHOWN = 5
SHOWN_CHARS = 140  # two asserts are shown instead of three if they have more characters
LONGEST_TEST = 160
LONGEST_ACTUAL = 160
LONGEST_OUTPUT = 1_600
OUTCOMES_MARK = "@@outcomes@@"
GIVEN_CELL = "Cell In[0]"  # in the tracebacks of `Interpreter.run`
# Prints the value of an expression.
_SHOW = f"print({OUTCOMES_MARK!r} + repr(eval(%r, program)))"
# Prints each test's outcome, and the value if it is wrong, so that mutants that fail differently can be told apart.
TRIAL = f"""
def _outcomes_of(pairs):
    import json
    found = []
    for test, call in pairs:
        try:
            exec(test, program)
            found.append("")
        except Exception as error:
            kind = type(error).__name__
            try:
                found.append(kind + ": " + (repr(eval(call, program)) if kind == "AssertionError" else str(error)))
            except Exception as second:
                found.append(kind + ": " + str(second))
    print({OUTCOMES_MARK!r} + json.dumps(found))
_outcomes_of(%s)
"""
HEADINGS = ("# Test cases", "# Tests", "# Check some cases", "# Test with typical and edge cases")
RETESTS = ("# Retest", "# Test cases", "# The same tests again", "# Test the corrected code")
PRINTS = ('print("All tests passed.")', 'print("Test passed")', "print('OK')")


class _UnusableError(Exception):
    """This set of bugs yields no valid sequence; the caller tries another one."""


@dataclass(frozen=True)
class _Round:
    """A failing round; bugs are indices of candidates, asserts indices of the problem's tests.

    Args:
        planted: the bugs in the program.
        shown: the asserts in the code block.
        failing: the assert that fails first.
        repaired: the bug that the next round repairs.
        partial: whether other bugs contribute to the failure.
        tried: the bug that takes the place of the repaired one in the next round, if the repair is wrong.
    """

    planted: tuple[int, ...]
    shown: tuple[int, ...]
    failing: int
    repaired: int
    partial: bool
    tried: int | None = None


@dataclass
class _Workshop:
    """A problem with its candidate bugs, and the cached outcomes of running them."""

    problem: Problem
    solution: str
    interpreter: Interpreter
    rng: random.Random
    wording: random.Random
    candidates: list[Mutation] = field(default_factory=list)
    known: dict[frozenset[int], tuple[str, ...] | None] = field(default_factory=dict)

    def code(self, planted: Sequence[int]) -> str:
        """Return the solution with some of the candidates planted."""
        return apply_edits(self.solution, [self.candidates[i] for i in planted]).strip("\n")

    def outcomes(self, planted: Sequence[int]) -> tuple[str, ...] | None:
        """Return "" for each test that passes, otherwise how it fails; None if the program cannot be used."""
        key = frozenset(planted)
        if key not in self.known:
            pairs = [(test, parse_assert(test).call) for test in self.problem.tests]
            cells = [self.code(planted), OwnCode(TRIAL % repr(pairs))]
            results = self.interpreter.run(cells, TRIAL_LIMITS, given=self.problem.given)
            text = results[-1].text
            if not all(result.ok for result in results) or OUTCOMES_MARK not in text:
                self.known[key] = None
            else:
                self.known[key] = tuple(
                    json.loads(text[text.rindex(OUTCOMES_MARK) + len(OUTCOMES_MARK) :].strip().split("\n")[0])
                )
        return self.known[key]


def reflect_by_mutation(
    problem: Problem, interpreter: Interpreter, seed: int, max_bugs: int = 3
) -> Dialogue | Rejected:
    """Build one reflection sequence for a verified problem.

    Args:
        problem: a problem with a solution and tests.
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
    shop = _Workshop(problem, problem.solution.strip("\n") + "\n", interpreter, rng, wording)
    try:
        found = find_mutations(shop.solution)
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
                    with suppress(_UnusableError):
                        return _sequence(shop, mistaken, seed)
                return _sequence(shop, plan, seed)
            except _UnusableError:
                planted = planted[:-1]
    return Rejected(
        problem.id, "no usable failure" if usable else "no failing mutant", f"{len(shop.candidates)} mutants"
    )


def _drawn_order(found: Sequence[Mutation], shop: _Workshop) -> list[Mutation]:
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
            chance = shop.rng.random() ** (1 / BUG_KINDS[mutation.kind].weight)
            order.append((looping and shop.rng.random() < 0.7, turn, -chance, mutation))
    return [mutation for *_, mutation in sorted(order, key=lambda item: item[:3])]


def _lines(mutation: Mutation, text: str) -> set[int]:
    return {
        line
        for edit in mutation.edits
        for line in range(text.count("\n", 0, edit.start) + 1, text.count("\n", 0, edit.end) + 2)
    }


def _add_bugs(shop: _Workshop, first: int, wanted: int) -> tuple[int, ...]:
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


def _plan(shop: _Workshop, planted: Sequence[int]) -> list[_Round]:
    """Plan the failing rounds: the asserts shown, the one that fails, and the bug that is then repaired.

    Raises:
        _UnusableError: the failures cannot be attributed to single bugs.
    """
    rounds: list[_Round] = []
    shown: tuple[int, ...] = ()
    while planted:
        now = shop.outcomes(planted)
        if now is None:
            raise _UnusableError
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
            raise _UnusableError
        # Take the shortest test of four: sequences should be short, and each digit costs a token.
        bug, test, partial = min(
            (shop.rng.choice(clear) for _ in range(4)), key=lambda option: len(shop.problem.tests[option[1]])
        )
        shown = _shown(shop, test, now, shown)
        rounds.append(_Round(tuple(planted), shown, test, bug, partial))
        planted = [i for i in planted if i != bug]
    return rounds


def _with_mistake(shop: _Workshop, plan: Sequence[_Round]) -> list[_Round] | None:
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
            tried = _Round(first.planted, first.shown, first.failing, first.repaired, False, other)
            return [tried, _Round((other,), first.shown, failing[0], other, False)]
    return None


def _line_of(shop: _Workshop, planted: Sequence[int], line: int) -> str:
    """Return a line of the solution with bugs planted."""
    lines = apply_edits(shop.solution, [shop.candidates[i] for i in planted]).split("\n")
    return lines[line - 1] if len(lines) == len(shop.solution.split("\n")) else ""


def _shown(shop: _Workshop, failing: int, now: Sequence[str], before: tuple[int, ...]) -> tuple[int, ...]:
    """Choose the asserts of a round: those of the previous round, or a few of which `failing` fails first."""
    if before:
        return before if failing in before else tuple(sorted({*before, failing}))[:MOST_SHOWN]
    tests = shop.problem.tests
    others = [i for i in range(len(tests)) if i != failing and (i > failing or not now[i])]
    shop.rng.shuffle(others)
    few = sorted(others[: 2 * SHOWN_TESTS], key=lambda i: len(tests[i]))[: SHOWN_TESTS - 1]
    while len(few) > 1 and sum(len(tests[i]) for i in (failing, *few)) > SHOWN_CHARS:
        few.pop()
    return tuple(sorted([failing, *few]))


def _run_failing(shop: _Workshop, plan: _Round, block: str) -> tuple[CellResult, AssertFailure]:
    """Run a failing round, and evaluate in a fresh session the value that the failing assert saw.

    Raises:
        _UnusableError: another assert fails first, or the output is unsuitable for training.
    """
    given = shop.problem.given
    result = run_portably(shop.interpreter, [block], given=given)[0]
    check = parse_assert(shop.problem.tests[plan.failing])
    place = block.split("\n").index(check.test.split("\n")[0]) + 1
    if result.outcome != "error" or result.exception is None or result.line != place:
        raise _UnusableError
    if len(result.text) > LONGEST_OUTPUT or " at 0x" in result.text:
        raise _UnusableError
    if given and GIVEN_CELL in result.text:  # the traceback shows given code, which is not in the text
        raise _UnusableError
    if result.exception != "AssertionError":
        return result, AssertFailure(check, result.exception, result.message or "")
    earlier = "\n".join(block.split("\n")[: place - 1])
    value = shop.interpreter.run([earlier, OwnCode(_SHOW % check.call)], given=given)[1]
    actual = value.text.rpartition(OUTCOMES_MARK)[2].strip("\n")
    if not value.ok or len(actual) > LONGEST_ACTUAL or "\n" in actual or " at 0x" in actual or "`" in actual:
        raise _UnusableError
    return result, AssertFailure(check, result.exception, result.message or "", actual)


def _sequence(shop: _Workshop, rounds: Sequence[_Round], seed: int) -> Dialogue:
    """Run every round and write the dialogue.

    Raises:
        _UnusableError: a round does not behave as planned.
    """
    problem, rng = shop.problem, shop.rng
    retest = rng.choice(RETESTS)
    headings = [rng.choice(HEADINGS)] + [retest] * len(rounds)
    ending = rng.choice(PRINTS) if rng.random() < 0.4 else ""

    def block(planted: Sequence[int], shown: Sequence[int], turn: int) -> str:
        tests = "\n".join([headings[turn], *(problem.tests[i] for i in shown), *([ending] if ending else [])])
        return f"{shop.code(planted)}\n\n{tests}"

    blocks: list[Block] = []
    for turn, plan in enumerate(rounds):
        text = block(plan.planted, plan.shown, turn)
        result, failure = _run_failing(shop, plan, text)
        mutation = shop.candidates[plan.repaired]
        buggy = apply_edits(shop.solution, [mutation]).split("\n")[mutation.line - 1]
        fixed = shop.solution.split("\n")[mutation.line - 1]
        where = _function_at(shop.solution, mutation.line)
        blocks += [Block("code", text), Block("execution", result.text)]
        if plan.tried is not None:
            said = mistaken_analysis(failure, buggy, _line_of(shop, (plan.tried,), mutation.line), shop.wording)
        else:
            said = analysis(failure, mutation, buggy, fixed, where, plan.partial, shop.wording)
            said = after_mistake(said, shop.wording) if turn and rounds[turn - 1].tried is not None else said
        blocks.append(Block("text", said))
    last = block((), rounds[-1].shown, len(rounds))
    result = run_portably(shop.interpreter, [last], given=problem.given)[0]
    if not result.ok or len(result.text) > LONGEST_OUTPUT:
        raise _UnusableError
    name = problem.entry_point or _function_at(shop.solution, shop.candidates[rounds[-1].repaired].line)
    repaired = problem.tests[rounds[-1].failing]
    blocks += [Block("code", last), Block("execution", result.text)]
    blocks.append(Block("text", closing(name, repaired, len(rounds), shop.wording)))
    instruction = reflection_instruction(
        problem.instruction + _what_is_given(shop, blocks), rng.randrange(len(REFLECTION_INSTRUCTIONS))
    )
    provenance: Mapping[str, object] = {
        "method": "mutation",
        "seed": seed,
        "mutations": [shop.candidates[plan.repaired].kind for plan in rounds],
        "rounds": len(rounds) + 1,
        "prompt_version": PROMPT_VERSION,
        "wording_version": WORDING_VERSION,
        **({"wrong_repairs": 1} if rounds[0].tried is not None else {}),
    }
    return reflection_dialogue(
        instruction,
        blocks,
        problem.instruction,
        shop.solution,
        id=problem.id,
        source=problem.source,
        provenance=provenance,
    )


def _what_is_given(shop: _Workshop, blocks: Sequence[Block]) -> str:
    """Return a sentence that names the given functions and classes that the code of a sequence uses; "" if none."""
    if not shop.problem.given:
        return ""
    used = names_in(ast.parse(shop.solution))
    for block in blocks:
        if block.type == "code":
            used |= names_in(ast.parse(block.content))
    names = [f"`{name}`" for name in defined_names(shop.problem.given) if name in used]
    if not names:
        return ""
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"\n\nThe interpreter already has {listed}."


def _function_at(solution: str, line: int) -> str:
    """Return the name of the innermost function around a line."""
    around = [
        node
        for node in ast.walk(ast.parse(solution))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno).name if around else "the code"
