"""Filters that decide which sequences are kept: predicates that return a reason for rejection.

The first are those of appendix A (input and output found by keyword, unresolved errors, a single round); the rest go
beyond the paper, as does `near_duplicates.py`. A predicate gets the dialogue, its problem and the settings, and returns
what is wrong, or None. The first one that objects decides, and its name in `FILTERS` is the reason that the funnel
counts. Add yours to it, or from outside the package with `FILTERS.add`. Predicates run no code; `final_code_fails`
does, in the interpreter passed to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from reflectioncoder.construct.filters.input_output import IO_MODULES, IO_NAMES, IoMatch, input_or_output
from reflectioncoder.dialogues.dialogue import Dialogue, unfenced
from reflectioncoder.errors import InfrastructureError
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.problem import Problem
from reflectioncoder.registry import Registry
from reflectioncoder.syntax.answers.fences import fenced_blocks, prose_of
from reflectioncoder.syntax.answers.number import read_number
from reflectioncoder.syntax.asserted import exercised
from reflectioncoder.syntax.trees import comments_in, parse_cached, walk

# what a final answer says of the rounds before it; in comments of code only where the words can mean nothing else
MENTIONS_IN_COMMENTS = re.compile(
    r"\b(as (?:shown|seen|explained|mentioned|discussed) (?:above|before|earlier)"
    r"|(?:previous|earlier) (?:attempt|round|version|code|error|failure|execution|output|traceback)"
    r"|(?:fixed|corrected|repaired|revised) (?:the (?:bug|error|code|version)|version|code|bug)"
    r"|the assertion (?:failed|error)|execution result|bug ?fix)",
    re.IGNORECASE,
)
MENTIONS = re.compile(
    r"\b(as (?:shown|seen|explained|mentioned|discussed) (?:above|before|earlier)"
    r"|(?:previous|earlier|above|first|last) (?:attempt|round|version|code|error|failure|execution|output|traceback)"
    r"|(?:fixed|corrected|repaired|revised) (?:the |version|code|bug)|traceback|the assertion (?:failed|error)"
    r"|AssertionError:|execution result|bug ?fix)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rejected:
    """A problem without a sequence, or a sequence that is not kept, with the reason and its detail."""

    problem_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class FilterSettings:
    """Settings of the predicates.

    Args:
        io_names: called names, bare or as an attribute of a module, that count as input or output.
        io_modules: modules whose import counts as input or output.
        io_match: `tree` matches them on the syntax tree; `words` is the paper's plain keyword matching, which also
            finds them in strings, comments and names of one's own.
        max_rounds: most code blocks of a sequence.
        max_chars: most characters of a whole dialogue.
    """

    io_names: tuple[str, ...] = IO_NAMES
    io_modules: tuple[str, ...] = IO_MODULES
    io_match: IoMatch = "tree"
    max_rounds: int = 8
    max_chars: int = 24_000


def settings_of(io_names: tuple[str, ...], max_rounds: int, io_match: IoMatch = "tree") -> FilterSettings:
    """The settings of a build; empty `io_names` selects the default names of this module."""
    return FilterSettings(io_names=io_names or IO_NAMES, io_match=io_match, max_rounds=max_rounds)


Predicate = Callable[[Dialogue, Problem, FilterSettings], str | None]


def io_in_code(code: str, settings: FilterSettings | None = None) -> str | None:
    """The first input or output operation in a piece of code, by the settings; see `input_or_output`."""
    settings = settings or FilterSettings()
    return input_or_output(code, settings.io_names, settings.io_modules, settings.io_match)


def input_output(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """Appendix A: code that reads or writes anything."""
    codes = [block.content for block in dialogue.first_round if block.type == "code"]
    codes += [] if problem.answer else [final_code(dialogue)]
    return next((found for code in codes if (found := io_in_code(code, settings))), None)


def shows_error(execution: str) -> bool:
    """Whether the text of an execution block is that of a program that failed."""
    return "Traceback (most recent call last)" in execution or bool(re.search(r"^\w*Error\b", execution, re.MULTILINE))


def unresolved(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """Appendix A: still an error after the last round, or more rounds than allowed."""
    if dialogue.rounds > settings.max_rounds:
        return f"{dialogue.rounds} rounds, at most {settings.max_rounds}"
    executions = [block.content for block in dialogue.first_round if block.type == "execution"]
    if not executions:
        return "nothing was executed"
    if shows_error(executions[-1]):
        return f"the last of {len(executions)} rounds still fails"
    return None


def single_round(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """Appendix A: the first code passed, so its asserts may be too simple to teach anything."""
    return "the first code passed" if dialogue.rounds == 1 else None


def no_final_code(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """The final answer holds no Python code that defines something, where code is asked for."""
    if problem.answer:
        return None
    if not fenced_blocks(dialogue.final_answer):
        return "the final answer has no code block"
    try:
        tree = parse_cached(final_code(dialogue))
    except SyntaxError as error:
        return f"the final code is not Python: {error.msg} (line {error.lineno})"
    names = {node.name for node in walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    if problem.entry_point and problem.entry_point not in names | {
        node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }:
        return f"the final code does not define `{problem.entry_point}`"
    return None


def no_final_number(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """The final answer does not end in a number, where one is asked for."""
    if not problem.answer or read_number(dialogue.final_answer) is not None:
        return None
    return "the final answer does not end in `Answer: NUMBER`"


def idle_asserts(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """Ours: the asserts of the last round never call the entry point (`assert True`), or there are none."""
    return _idle(tuple(block.content for block in dialogue.first_round if block.type == "code"), problem.entry_point)


@lru_cache(maxsize=256)  # as above
def _idle(codes: tuple[str, ...], entry_point: str | None) -> str | None:
    if not codes:
        return "no code block"
    try:
        tree = parse_cached(codes[-1])
    except SyntaxError as error:
        return f"the last code is not Python: {error.msg} (line {error.lineno})"
    if not any(isinstance(node, ast.Assert) for node in walk(tree)):
        return "the last code asserts nothing"
    trees = [tree]
    for code in codes[:-1]:  # a notebook's last cell may have nothing but asserts
        with suppress(SyntaxError):
            trees.append(parse_cached(code))
    if not exercised(tree, trees, entry_point):
        return f"no assert calls `{entry_point}`" if entry_point else "no assert calls what the code defines"
    return None


def mentions_sequence(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """The final answer talks about the rounds before it, which nobody sees at inference.

    Only its prose and the comments of its code can: a docstring, a literal or a name belongs to the program. Words that
    the problem's own statement or solution has are not about the rounds either.
    """
    blocks = fenced_blocks(dialogue.final_answer)
    prose = prose_of(dialogue.final_answer, blocks)
    comments = "\n".join(comment for block in blocks for comment in comments_in(block.code))
    known = f"{problem.instruction}\n{problem.solution or ''}".lower()
    for words, text in ((MENTIONS, prose), (MENTIONS_IN_COMMENTS, comments)):
        for found in words.finditer(text):
            if found.group().lower() not in known:
                return f"the final answer says '{found.group()}'"
    return None


def too_long(dialogue: Dialogue, problem: Problem, settings: FilterSettings) -> str | None:
    """More characters than a training sample should have."""
    length = sum(len(block.content) for message in dialogue.messages for block in message.blocks)
    return f"{length} characters, at most {settings.max_chars}" if length > settings.max_chars else None


FILTERS: Registry[Predicate] = Registry(
    "filter",
    {
        "input_output": input_output,
        "unresolved": unresolved,
        "single_round": single_round,
        "no_final_code": no_final_code,
        "no_final_number": no_final_number,
        "idle_asserts": idle_asserts,
        "mentions_sequence": mentions_sequence,
        "too_long": too_long,
        # add yours here
    },
)


def apply_filters(
    dialogue: Dialogue,
    problem: Problem,
    settings: FilterSettings | None = None,
    filters: Mapping[str, Predicate] = FILTERS,
) -> Rejected | None:
    """Apply the filters in order; the first rejection, or None if the sequence passes all.

    Args:
        dialogue: a reflection dialogue.
        problem: the sequence's problem.
        settings: limits and word lists.
        filters: name of the reason to predicate, tried in order.
    """
    settings = settings or FilterSettings()
    for reason, predicate in filters.items():
        detail = predicate(dialogue, problem, settings)
        if detail is not None:
            return Rejected(problem.id, reason, detail)
    return None


def final_code(dialogue: Dialogue) -> str:
    """The code of the final answer."""
    return unfenced(dialogue.final_answer)


def final_code_fails(dialogue: Dialogue, problem: Problem, interpreter: Interpreter) -> str | None:
    """Run the final code alone with the problem's own tests; see `code_fails`.

    Of an answer that is text, the number is compared with what the problem's solution returns.
    """
    if not problem.answer:
        return code_fails(final_code(dialogue), problem, interpreter)
    number = read_number(dialogue.final_answer)
    if number is None or not problem.solution:
        return "no number to compare, or no solution to compare it with"
    value = f"Fraction({number.numerator}, {number.denominator})"
    equal = f"from fractions import Fraction\nassert {problem.entry_point}() == {value}"
    return code_fails(problem.solution, problem, interpreter, equal)


def code_fails(code: str, problem: Problem, interpreter: Interpreter, asserts: str = "") -> str | None:
    """Run code as one program with the problem's given code and own tests, and asserts; what went wrong, or None.

    Args:
        code: runs first, and must define what the others use.
        problem: with or without tests.
        interpreter: an open one.
        asserts: such as those of a sequence's last round.

    Raises:
        InfrastructureError: the interpreter failed, which says nothing about the code.
    """
    cells = [*filter(None, (problem.given, code, asserts, "\n".join(problem.tests)))]
    with interpreter.session() as session:
        result = session.run_together(cells)
    if result.outcome == "infrastructure":
        raise InfrastructureError(result.message)
    return None if result.ok else f"{result.outcome}: {result.exception or ''} {result.message or ''}".strip()
