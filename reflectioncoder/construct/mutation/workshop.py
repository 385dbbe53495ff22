"""A program with planted bugs, from its runs to the written sequence: what builds by mutation and from attempts share.

The program that is right is the solution; each candidate is a bug that can be planted in it. Of a model's own attempt
the repaired program is the solution, and its mistakes are the candidates (`construct/attempts/`). The text of each
execution block is what the interpreter printed for the code block before it.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflectioncoder.construct.mutation.edits import Mutation, apply_edits
from reflectioncoder.construct.mutation.explain import AssertFailure, closing, parse_assert
from reflectioncoder.construct.prompts import CALCULATION_INSTRUCTIONS, REFLECTION_INSTRUCTIONS, reflection_instruction
from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message, reflection_dialogue
from reflectioncoder.interpreter.exchange import OwnCode
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits
from reflectioncoder.interpreter.portable import run_portably
from reflectioncoder.problems.given import defined_names
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.trees import names_in

TRIAL_LIMITS = Limits(seconds=1.0)
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
CHECK = "# Check"
RETESTS = ("# Retest", "# Test cases", "# The same tests again", "# Test the corrected code")
PRINTS = ('print("All tests passed.")', 'print("Test passed")', "print('OK')")


class UnusableError(Exception):
    """This set of bugs yields no valid sequence; the caller tries another one."""


@dataclass(frozen=True)
class Round:
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
class Workshop:
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


def choose_shown(shop: Workshop, failing: int, now: Sequence[str], before: tuple[int, ...]) -> tuple[int, ...]:
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


def run_failing(shop: Workshop, plan: Round, block: str) -> tuple[CellResult, AssertFailure]:
    """Run a failing round, and evaluate in a fresh session the value that the failing assert saw.

    Raises:
        UnusableError: another assert fails first, or the output is unsuitable for training.
    """
    given = shop.problem.given
    result = run_portably(shop.interpreter, [block], given=given)[0]
    check = parse_assert(shop.problem.tests[plan.failing])
    place = block.split("\n").index(check.test.split("\n")[0]) + 1
    if result.outcome != "error" or result.exception is None or result.line != place:
        raise UnusableError
    if len(result.text) > LONGEST_OUTPUT or " at 0x" in result.text:
        raise UnusableError
    if given and GIVEN_CELL in result.text:  # the traceback shows given code, which is not in the text
        raise UnusableError
    if result.exception != "AssertionError":
        return result, AssertFailure(check, result.exception, result.message or "")
    earlier = "\n".join(block.split("\n")[: place - 1])
    value = shop.interpreter.run([earlier, OwnCode(_SHOW % check.call)], given=given)[1]
    actual = value.text.rpartition(OUTCOMES_MARK)[2].strip("\n")
    if not value.ok or len(actual) > LONGEST_ACTUAL or "\n" in actual or " at 0x" in actual or "`" in actual:
        raise UnusableError
    return result, AssertFailure(check, result.exception, result.message or "", actual)


def write_sequence(
    shop: Workshop,
    rounds: Sequence[Round],
    say: Callable[[int, Round, AssertFailure], str],
    provenance: Mapping[str, Any],
    answer: str = "",
) -> Dialogue:
    """Run every round and write the dialogue.

    Args:
        shop: the problem, its solution and its bugs.
        rounds: the failing rounds; the last one leaves no bug.
        say: writes the analysis of a failing round from its number, its plan, and how its assert failed.
        provenance: what is recorded with the sequence.
        answer: the code of the final answer; empty for the solution. The text of `problem.answer` goes before both.

    Raises:
        UnusableError: a round does not behave as planned.
    """
    problem, rng = shop.problem, shop.rng
    if problem.answer:  # a calculation, which shows its result once it has passed its checks
        headings, ending = [CHECK] * (len(rounds) + 1), f"print({problem.entry_point}())"
    else:
        retest = rng.choice(RETESTS)
        headings = [rng.choice(HEADINGS)] + [retest] * len(rounds)
        ending = rng.choice(PRINTS) if rng.random() < 0.4 else ""

    def block(planted: Sequence[int], shown: Sequence[int], turn: int) -> str:
        tests = "\n".join([headings[turn], *(problem.tests[i] for i in shown), *([ending] if ending else [])])
        return f"{shop.code(planted)}\n\n{tests}"

    blocks = [Block("text", problem.plan)] if problem.plan else []
    for turn, plan in enumerate(rounds):
        text = block(plan.planted, plan.shown, turn)
        result, failure = run_failing(shop, plan, text)
        blocks += [Block("code", text), Block("execution", result.text), Block("text", say(turn, plan, failure))]
    last = block((), rounds[-1].shown, len(rounds))
    result = run_portably(shop.interpreter, [last], given=problem.given)[0]
    if not result.ok or len(result.text) > LONGEST_OUTPUT:
        raise UnusableError
    name = problem.entry_point or function_at(shop.solution, shop.candidates[rounds[-1].repaired].line)
    repaired = problem.tests[rounds[-1].failing]
    blocks += [Block("code", last), Block("execution", result.text)]
    blocks.append(Block("text", closing(name, repaired, len(rounds), shop.wording)))
    texts = CALCULATION_INSTRUCTIONS if problem.answer else REFLECTION_INSTRUCTIONS
    asked = problem.instruction + _what_is_given(shop, blocks)
    instruction = reflection_instruction(asked, rng.randrange(len(texts)), texts)
    dialogue = reflection_dialogue(
        instruction,
        blocks,
        problem.instruction,
        answer or shop.solution,
        id=problem.id,
        source=problem.source,
        provenance=provenance,
    )
    if not problem.answer:
        return dialogue
    final = Message("assistant", (Block("text", problem.answer),))
    return dataclasses.replace(dialogue, messages=(*dialogue.messages[:-1], final))


def _what_is_given(shop: Workshop, blocks: Sequence[Block]) -> str:
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


def function_at(solution: str, line: int) -> str:
    """Return the name of the innermost function around a line."""
    around = [
        node
        for node in ast.walk(ast.parse(solution))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno).name if around else "the code"
