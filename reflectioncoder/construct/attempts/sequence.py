"""Turns a model's own attempt at a problem into a reflection sequence, or into a plain sample if it passes its tests.

The attempt is the first round, with what the interpreter really printed. The repair is the smallest set of differences
from the reference solution with which all tests pass (`repair.py`); where a part of it changes the failure, it is a
round of its own. Seen from the repaired program the mistakes are planted bugs, so the rounds are run and written as
those of a build by mutation are (`construct/mutation/workshop.py`).
"""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from reflectioncoder.construct.attempts.differences import TreeDifference, differences, normal_tree
from reflectioncoder.construct.attempts.explain import Mistake, explain
from reflectioncoder.construct.attempts.names import with_names_of
from reflectioncoder.construct.attempts.repair import smallest_repair
from reflectioncoder.construct.attempts.wordings import ATTEMPTS_VERSION
from reflectioncoder.construct.filters.sequence import FilterSettings, Rejected, code_fails, io_in_code
from reflectioncoder.construct.mutation.edits import Edit, Mutation, apply_edits
from reflectioncoder.construct.mutation.explain import AssertFailure, parse_assert
from reflectioncoder.construct.mutation.kinds import find_mutations
from reflectioncoder.construct.mutation.reasons import WORDING_VERSION
from reflectioncoder.construct.mutation.workshop import (
    HEADINGS,
    LONGEST_TEST,
    SHOWN_TESTS,
    Round,
    UnusableError,
    Workshop,
    choose_shown,
    function_at,
    write_sequence,
)
from reflectioncoder.construct.prompts import PROMPT_VERSION
from reflectioncoder.dialogues.dialogue import Dialogue, fenced, instruction_dialogue
from reflectioncoder.dialogues.training_files import plain_code, unix_lines
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.problem import Problem

MOST_TRIALS = 200  # programs that are run in search of a repair
MOST_TOGETHER = 2  # mistakes that are tried together as the repair of one round, before all that are left
END_OF_PROGRAM = 1 << 20  # place of the difference that is the whole program


@dataclass(frozen=True)
class AttemptSettings:
    """What decides how an attempt becomes a sequence.

    Args:
        seed: determines all random choices, together with the problem's id.
        max_rounds: most rounds of a sequence, at least 2.
        largest_repair: largest share of the repaired program's syntax nodes that the repair writes or removes.
        answer: whose code the final answer is: the `repaired` attempt, or the `reference` solution.
        filters: settings of the filters; input and output are looked for before anything is run.
        provenance: what is recorded with every sequence and every plain sample.
    """

    seed: int = 0
    max_rounds: int = 8
    largest_repair: float = 0.5
    answer: Literal["repaired", "reference"] = "repaired"
    filters: FilterSettings = field(default_factory=FilterSettings)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failing:
    """An attempt that fails its tests: its code, and how it fails."""

    code: str
    detail: str


def reflect_on_attempt(
    problem: Problem, attempt: str, interpreter: Interpreter, settings: AttemptSettings
) -> Dialogue | Rejected:
    """Build a reflection sequence from an attempt at a problem, or a plain sample from one that passes.

    Args:
        problem: a problem with tests, and a solution that passes them.
        attempt: the code in the model's answer.
        interpreter: runs every code block.
        settings: see `AttemptSettings`.

    Returns:
        a reflection dialogue whose first round is the attempt; or an instruction dialogue with the attempt as its
        answer; or the reason for rejecting it.
    """
    looked = look_at_attempt(problem, attempt, interpreter, settings)
    if not isinstance(looked, Failing):
        return looked
    code, failure = looked.code, looked.detail
    if not problem.solution or not problem.solution.strip():
        return Rejected(problem.id, "no solution")
    try:
        for test in problem.tests:
            parse_assert(test)
    except (SyntaxError, ValueError) as error:
        return Rejected(problem.id, "test is not a single assert", str(error))
    if problem.given and not (result := interpreter.run(problem.given)).ok:
        return Rejected(problem.id, "given code fails", result.error or result.outcome)
    solved = _workshop(problem, problem.solution, interpreter, settings).outcomes(())
    if solved is None or any(solved):
        detail = "not ended" if solved is None else next(how for how in solved if how)
        return Rejected(problem.id, "solution fails its tests", detail)
    try:
        return _repaired(problem, f"{code}\n", interpreter, settings)
    except UnusableError as error:
        return Rejected(problem.id, "no usable failure", str(error) or failure)


def look_at_attempt(
    problem: Problem, attempt: str, interpreter: Interpreter, settings: AttemptSettings
) -> Dialogue | Rejected | Failing:
    """Run an attempt with its problem's tests: a plain sample if it passes, else how it fails."""
    if not problem.tests:
        unread = str(problem.extra.get("unread_tests", ""))
        return Rejected(problem.id, "tests not read" if unread else "no tests", unread)
    code = plain_code(unix_lines(attempt)).strip("\n")
    if not code.strip():
        return Rejected(problem.id, "no code")
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        return Rejected(problem.id, "attempt does not parse", getattr(error, "msg", None) or str(error))
    if found_io := io_in_code(code, settings.filters):
        return Rejected(problem.id, "input_output", found_io)
    failure = code_fails(code, problem, interpreter)
    return _plain(problem, code, settings) if failure is None else Failing(code, failure)


def first_block(problem: Problem, code: str, interpreter: Interpreter, settings: AttemptSettings) -> str:
    """Return a failing attempt with some of its problem's asserts, one that fails among them, to be run as a round.

    Args:
        problem: the problem.
        code: the attempt.
        interpreter: finds out which asserts fail.
        settings: the seed decides which others are shown.
    """
    shop = _workshop(problem, code, interpreter, settings)
    now: tuple[str, ...] | None = None
    with suppress(SyntaxError, ValueError):
        now = shop.outcomes(())
    failing = [i for i, how in enumerate(now or ()) if how]
    if now is None or not failing:  # it does not run to the end of its tests
        shown = tuple(range(min(SHOWN_TESTS, len(problem.tests))))
    else:
        shown = choose_shown(shop, min(failing, key=lambda i: len(problem.tests[i])), now, ())
    heading = shop.rng.choice(HEADINGS)
    return "\n".join([code.strip("\n"), "", heading, *(problem.tests[i] for i in shown)])


def _plain(problem: Problem, code: str, settings: AttemptSettings) -> Dialogue:
    """Make the plain sample of an attempt that passes."""
    provenance = {**settings.provenance, "seed": settings.seed}
    return instruction_dialogue(
        problem.instruction, fenced(code), id=problem.id, source=problem.source, provenance=provenance
    )


def _workshop(problem: Problem, program: str, interpreter: Interpreter, settings: AttemptSettings) -> Workshop:
    rng, wording = (random.Random(f"{settings.seed}:{problem.id}:{part}") for part in ("rounds", "wording"))
    return Workshop(problem, program.strip("\n") + "\n", interpreter, rng, wording)


def _repaired(
    problem: Problem, attempt: str, interpreter: Interpreter, settings: AttemptSettings
) -> Dialogue | Rejected:
    trying = _workshop(problem, attempt, interpreter, settings)
    if trying.outcomes(()) is None:
        raise UnusableError("the attempt does not run to the end of its tests")
    if not any(trying.outcomes(()) or ()):
        raise UnusableError("the tests fail only together")
    chosen = _smallest(trying)
    if chosen is None:
        return Rejected(problem.id, "no repair", "the reference does not pass in the attempt's place")
    program = apply_edits(attempt, [Mutation("", (item.edit,), "", "", 1) for item in chosen]).strip("\n") + "\n"
    share = sum(item.size for item in chosen) / max(1, len(list(ast.walk(ast.parse(program)))))
    if share > settings.largest_repair:
        detail = f"the repair is {share:.0%} of the program, at most {settings.largest_repair:.0%}"
        return Rejected(problem.id, "repair too large", detail)
    shop = _workshop(problem, program, interpreter, settings)
    mistakes = _mistakes(attempt, program, chosen)
    shop.candidates = [mistake.undone for mistake in mistakes]
    if shop.code(range(len(mistakes))) != attempt.strip("\n") or any(shop.outcomes(()) or ("not ended",)):
        raise UnusableError("the repaired program does not pass alone")
    rounds, groups = _plan(shop, settings.max_rounds - 1)

    def say(turn: int, plan: Round, failure: AssertFailure) -> str:
        return explain(failure, [mistakes[i] for i in groups[turn]], plan.partial, shop.wording)

    provenance = {
        **settings.provenance,
        "seed": settings.seed,
        "repairs": [[_name(mistakes[i]) for i in group] for group in groups],
        "changed": round(share, 3),
        "answer": settings.answer,
        "rounds": len(rounds) + 1,
        "prompt_version": PROMPT_VERSION,
        "wording_version": f"{WORDING_VERSION}.{ATTEMPTS_VERSION}",
    }
    assert problem.solution is not None
    answer = problem.solution.strip("\n") + "\n" if settings.answer == "reference" else ""
    return write_sequence(shop, rounds, say, provenance, answer)


def _name(mistake: Mistake) -> str:
    return mistake.difference.what if mistake.known is None else mistake.known.kind


def find_repair(problem: Problem, attempt: str, interpreter: Interpreter) -> list[TreeDifference] | None:
    """Find the smallest set of differences from the reference solution with which an attempt passes all tests.

    Args:
        problem: a problem with single asserts as tests, and a solution that passes them.
        attempt: a program that fails some of them; it ends with a line break.
        interpreter: runs the candidates.

    Returns:
        the differences in the order of the text, none of which can be left out; None if there is no repair.
    """
    return _smallest(_workshop(problem, attempt, interpreter, AttemptSettings()))


def _smallest(trying: Workshop) -> list[TreeDifference] | None:
    """Find the smallest repair of the program of a workshop; see `find_repair`."""
    problem = trying.problem
    assert problem.solution is not None
    ours = normal_tree(trying.solution)
    try:
        found = differences(ours, with_names_of(ours, normal_tree(problem.solution.strip("\n") + "\n")))
    except RecursionError:
        found = []
    whole = Edit(0, len(trying.solution), problem.solution.strip("\n") + "\n")
    size = len(list(ast.walk(ast.parse(problem.solution))))
    rewritten = TreeDifference(
        whole, trying.solution.strip("\n"), problem.solution.strip("\n"), "rewritten", size, END_OF_PROGRAM
    )
    for candidates in (found, [rewritten]):
        trying.candidates = [Mutation("", (item.edit,), "", "", 1) for item in candidates]
        trying.known.clear()

        def passes(chosen: Sequence[int]) -> bool:
            if len(trying.known) >= MOST_TRIALS:
                return False
            return not any(trying.outcomes(chosen) or ("not ended",))

        chosen = smallest_repair(candidates, passes)
        if chosen is not None:
            return [candidates[i] for i in chosen]
    return None


def _mistakes(attempt: str, program: str, chosen: Sequence[TreeDifference]) -> list[Mistake]:
    """Turn the differences of a repair around: into bugs that are planted in the repaired program."""
    known: dict[str, Mutation] = {}
    for mutation in find_mutations(program):
        known.setdefault(ast.dump(ast.parse(apply_edits(program, [mutation]))), mutation)
    moved = 0
    mistakes = []
    order = sorted(range(len(chosen)), key=lambda i: (chosen[i].edit.start, chosen[i].edit.end))
    undone: dict[int, Mutation] = {}
    for i in order:
        edit = chosen[i].edit
        start = edit.start + moved
        back = Edit(start, start + len(edit.new), attempt[edit.start : edit.end])
        moved += len(edit.new) - (edit.end - edit.start)
        line = program.count("\n", 0, min(start, len(program) - 1)) + 1
        undone[i] = Mutation("", (back,), chosen[i].old, chosen[i].new, line)
    lines, fixed = attempt.split("\n"), program.split("\n")
    for i, difference in enumerate(chosen):
        mutation = undone[i]
        line = attempt.count("\n", 0, difference.edit.start)
        function = function_at(program, mutation.line)
        try:
            same = known.get(ast.dump(ast.parse(apply_edits(program, [mutation]))))
        except (SyntaxError, ValueError):
            same = None
        mistakes.append(
            Mistake(difference, mutation, same, lines[line].strip(), fixed[mutation.line - 1].strip(), function)
        )
    return mistakes


def _plan(shop: Workshop, most: int) -> tuple[list[Round], list[tuple[int, ...]]]:
    """Plan the failing rounds, and which mistakes each of the next ones repairs.

    Args:
        shop: the repaired program, with the mistakes as its candidates.
        most: most failing rounds, at least 1.

    Raises:
        UnusableError: no test shows the failure.
    """
    rounds: list[Round] = []
    groups: list[tuple[int, ...]] = []
    shown: tuple[int, ...] = ()
    left = tuple(range(len(shop.candidates)))
    while left:
        now = shop.outcomes(left)
        if now is None:
            raise UnusableError("a partly repaired attempt does not run")
        failing = [i for i, how in enumerate(now) if how and len(shop.problem.tests[i]) <= LONGEST_TEST]
        failing = [i for i in failing if i in shown][:1] or failing
        if not failing:
            raise UnusableError("no failing test is short enough")
        group = left if len(rounds) + 1 == most else _next_group(shop, left, now, failing)
        after = shop.outcomes([i for i in left if i not in group]) or ()
        changed = [i for i in failing if after[i] != now[i]] or failing
        test = min(changed, key=lambda i: (bool(after[i]), len(shop.problem.tests[i]), i))
        shown = choose_shown(shop, test, now, shown)
        rounds.append(Round(left, shown, test, group[0], bool(after[test])))
        groups.append(group)
        left = tuple(i for i in left if i not in group)
    return rounds, groups


def _next_group(shop: Workshop, left: tuple[int, ...], now: Sequence[str], failing: Sequence[int]) -> tuple[int, ...]:
    """Choose the mistakes that the next round repairs: the fewest that help, or all that are left.

    A repair helps if no test fails that passed before, and one of the failing tests passes or fails differently.
    """
    for number in range(1, min(MOST_TOGETHER, len(left) - 1) + 1):
        helpful = []
        for group in itertools.combinations(left, number):
            after = shop.outcomes([i for i in left if i not in group])
            if after is None or any(how and not was for how, was in zip(after, now, strict=True)):
                continue
            passing = sum(not how and bool(was) for how, was in zip(after, now, strict=True))
            other = any(_progress(now[i], after[i]) for i in failing)
            if other and (passing or any(now[i].partition(":")[0] != after[i].partition(":")[0] for i in failing)):
                helpful.append((-passing, group))
        if helpful:
            return min(helpful)[1]
    return left


def _progress(before: str, after: str) -> bool:
    """Whether a test that failed passes now, or gets a value where it raised another exception before."""
    if not after:
        return True
    return not before.startswith("AssertionError") and after.startswith("AssertionError")
