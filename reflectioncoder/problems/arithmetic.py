"""Arithmetic word problems: a story in steps, its calculation as code with checks, and mistakes that can be planted.

A story begins with a number of things; each step changes it by one more number. The kinds of the steps, in order, are
the composition of a problem, and its level is the number of steps. A hash of the composition decides its split, so no
held-out sequence of steps is ever trained on, with whatever names and numbers. All numbers of a story differ.

The answer is text with a number: each step as an equation, then the line `Answer: NUMBER`. The calculation in the
sequences is a function `answer()`. Its checks do not repeat it: one undoes the last step, the other works the story out
in one expression.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from reflectioncoder.errors import UserError
from reflectioncoder.problems.problem import GivenMistake, Problem
from reflectioncoder.problems.procedural.families import PROCEDURAL_SPLITS, Split, hashed_split

Quantity = Literal["item", "group", "coin"]
LEVELS = (1, 2, 3, 4)
LARGEST = {1: 40, 2: 40, 3: 80, 4: 120}  # of the values of all steps, by level
MOST_ADDED = {1: 9, 2: 9, 3: 20, 4: 30}  # or taken off
SUMS = 4  # in a text with sums alone
PRETRAIN_SHARE = 0.5
# Kinds of steps that the split `pretrain` does not have: what tuning has to teach a micro model.
NEW_STEPS = frozenset("share wants difference sell".split())
ENDING = "End with the line `Answer: NUMBER`."
PEOPLE = (
    ("Mia", "she"), ("Tom", "he"), ("Anna", "she"), ("Ben", "he"), ("Lena", "she"), ("Paul", "he"), ("Nora", "she"),
    ("Max", "he"),
)  # fmt: skip
ITEMS = ("pens", "apples", "marbles", "stamps", "cards", "shells", "buttons", "beads", "eggs", "nuts")
GROUPS = (("box", "boxes"), ("bag", "bags"), ("jar", "jars"), ("tray", "trays"), ("basket", "baskets"))


@dataclass(frozen=True)
class StepKind:
    """A kind of step: what becomes of the quantity so far, `x`, by a number `n` of the story.

    The texts have the fields {n}, {who}, {he}, {He}, {friend}, {things} (what is counted so far), {items}, {group} and
    {groups}.

    Args:
        expression: the calculation, in {x} and {n}.
        undone: what the check of the last step does to the answer to get back `x`, or `n` if {x} is in it.
        on: units of the quantity that the step can follow.
        name: variable of its result in the calculation.
        stories: wordings of what happens.
        fact: the same as a clause, for analyses.
        plan: what to calculate, as an imperative.
        said: beginning of its sentence in the answer, before the equation.
        ask: question for its result.
        gives: unit of its result; that of `x` if empty.
        last: whether no step can follow.
    """

    expression: str
    undone: str
    on: tuple[Quantity, ...]
    name: str
    stories: tuple[str, ...]
    fact: str
    plan: str
    said: str
    ask: str
    gives: Quantity | Literal[""] = ""
    last: bool = False

    @property
    def operator(self) -> str:
        """The operator of the expression: +, -, * or //."""
        return self.expression.split(" ")[1]


STEP_KINDS = {
    "gain": StepKind(
        "{x} + {n}", "{a} - {n}", ("item", "group"), "with_found",
        ("{who} finds {n} more.", "Then {he} finds another {n} {things}."),
        "{n} {things} are found", "add the {n} that are found", "With the {n} found ones it is",
        "How many {things} does {who} have now?",
    ),
    "buy": StepKind(
        "{x} + {n}", "{a} - {n}", ("item", "group"), "with_bought",
        ("{who} buys {n} more {things}.", "In a shop {he} buys {n} {things}."),
        "{n} {things} are bought", "add the {n} that are bought", "With the {n} bought ones it is",
        "How many {things} does {who} own now?",
    ),
    "together": StepKind(
        "{x} + {n}", "{a} - {n}", ("item", "group"), "together",
        ("{friend} brings {n} {things}, and they put all together.", "{friend} adds {n} {things} of {his} own."),
        "{friend} brings {n} {things}", "add the {n} of {friend}", "Together with the {n} of {friend} it is",
        "How many {things} are there in all?",
    ),
    "lose": StepKind(
        "{x} - {n}", "{a} + {n}", ("item", "group"), "after_loss",
        ("{who} loses {n} of them.", "On the way {n} {things} get lost."),
        "{n} {things} get lost", "take off the {n} that get lost", "Without the {n} lost ones it is",
        "How many {things} are left?",
    ),
    "give": StepKind(
        "{x} - {n}", "{a} + {n}", ("item", "group"), "after_gift",
        ("{who} gives {n} of them to {friend}.", "{friend} gets {n} of the {things}."),
        "{friend} gets {n} of the {things}", "take off the {n} for {friend}", "Without the {n} for {friend} it is",
        "How many {things} does {who} keep?",
    ),
    "times": StepKind(
        "{x} * {n}", "{a} / {n}", ("item", "coin"), "grown",
        ("A year later {who} has {n} times as many.", "In a year the {things} become {n} times as many."),
        "the {things} become {n} times as many", "multiply by {n}", "{n} times as many is",
        "How many {things} does {who} have then?",
    ),
    "fill": StepKind(
        "{x} * {n}", "{a} / {n}", ("group",), "content",
        ("Each {group} holds {n} {items}.", "There are {n} {items} in every {group}."),
        "each {group} holds {n} {items}", "multiply by the {n} of each {group}", "With {n} in each {group} it is",
        "How many {items} are there in all?", gives="item",
    ),
    "pack": StepKind(
        "{x} // {n}", "{a} * {n}", ("item",), "packed",
        ("{who} packs them into {groups} of {n}.", "All {things} go into {groups}, {n} in each."),
        "each {group} takes {n} {things}", "divide by the {n} of each {group}", "In {groups} of {n} it is",
        "How many {groups} does {who} fill?", gives="group",
    ),
    "earn": StepKind(
        "{x} + {n}", "{a} - {n}", ("coin",), "with_earned",
        ("{who} earns {n} more coins.", "For some work {he} gets {n} coins."),
        "{n} coins are earned", "add the {n} coins that are earned", "With the {n} earned ones it is",
        "How many coins does {who} have now?",
    ),
    "spend": StepKind(
        "{x} - {n}", "{a} + {n}", ("coin",), "after_spending",
        ("{who} spends {n} coins.", "Then {he} pays {n} coins for a game."),
        "{n} coins are spent", "take off the {n} coins that are spent", "Without the {n} spent ones it is",
        "How many coins are left?",
    ),
    "sell": StepKind(
        "{x} * {n}", "{a} / {n}", ("item", "group"), "income",
        ("{who} sells them for {n} coins each.", "Each of them is sold for {n} coins."),
        "each of the {things} is sold for {n} coins", "multiply by the {n} coins for each", "At {n} coins each it is",
        "How many coins does {who} get?", gives="coin",
    ),
    "share": StepKind(
        "{x} // {n}", "{a} * {n}", ("item", "coin"), "share",
        ("{who} shares them equally among {n} friends.", "Then {n} friends get the {things} in equal parts."),
        "{n} friends share the {things} equally", "divide by the {n} friends", "Each of the {n} friends gets",
        "How many {things} does each friend get?", last=True,
    ),
    "wants": StepKind(
        "{n} - {x}", "{a} + {x}", ("item", "group", "coin"), "missing",
        ("{who} wants to have {n} {things}.", "But {he} needs {n} {things}."),
        "{n} {things} are needed", "take that off the {n} that are needed", "Up to the {n} needed ones it is",
        "How many {things} are missing?", last=True,
    ),
    "difference": StepKind(
        "{x} - {n}", "{a} + {n}", ("item", "group", "coin"), "difference",
        ("{friend} has {n} {things}.", "{friend} owns only {n} {things}."),
        "{friend} has only {n} {things}", "take off the {n} of {friend}", "Compared with the {n} of {friend} it is",
        "How many more {things} does {who} have?", last=True,
    ),
}  # fmt: skip

CAUSES = {
    "wrong_operation": (
        "`{bad}` has the wrong operation, as {fact}",
        "the story says that {fact}, which `{bad}` calculates the wrong way",
    ),
    "swapped_operands": ("`{bad}` has its two numbers the wrong way round", "in `{bad}` the order is wrong, as {fact}"),
    "missed_step": ("`{bad}` leaves out that {fact}", "a step is missing: {fact}"),
    "off_by_one": (
        "`{bad}` has {m} where the story says {n}",
        "the number {m} in `{bad}` is one off, as the story says that {fact}",
    ),
    "wrong_quantity": (
        "`{bad}` takes {m}, which is another number of the story",
        "{m} in `{bad}` is the wrong quantity: the story says that {fact}",
    ),
}
REPAIRS = ("write `{good}`", "replace it by `{good}`", "correct the line to `{good}`")
OTHER_OPERATION = {"+": "-", "-": "+", "*": "+", "//": "*"}


@dataclass(frozen=True)
class Story:
    """A problem before its wording.

    Args:
        start: unit of the first quantity.
        kinds: keys of the steps, in order.
        numbers: the first quantity, then the number of each step.
        values: the first quantity, then the result of each step.
    """

    start: Quantity
    kinds: tuple[str, ...]
    numbers: tuple[int, ...]
    values: tuple[int, ...]

    @property
    def composition(self) -> str:
        """Name of its sequence of steps."""
        return composition_key(self.start, self.kinds)


def composition_key(start: Quantity, kinds: Sequence[str]) -> str:
    """Return the name of a sequence of steps, such as "item:gain>give"."""
    return f"{start}:{'>'.join(kinds)}"


def story_split(start: Quantity, kinds: Sequence[str]) -> Split:
    """Return the split of a composition."""
    return hashed_split(composition_key(start, kinds), 0.0 if NEW_STEPS & set(kinds) else PRETRAIN_SHARE)


def story_compositions(level: int) -> Iterator[tuple[Quantity, tuple[str, ...]]]:
    """Yield every composition of a level: its first unit, and the kinds of its steps."""
    starts: tuple[Quantity, ...] = ("item", "group", "coin")
    for start in starts:
        yield from ((start, kinds) for kinds in _continued(start, (), level))


def _continued(unit: Quantity, before: tuple[str, ...], level: int) -> Iterator[tuple[str, ...]]:
    if len(before) == level:
        yield before
        return
    for key in _followers(unit, before, len(before) + 1 == level):
        yield from _continued(STEP_KINDS[key].gives or unit, (*before, key), level)


def _followers(unit: Quantity, before: Sequence[str], final: bool) -> list[str]:
    """Return the kinds that may come next. None occurs twice, and what was packed is not filled again."""
    return [
        key
        for key, kind in STEP_KINDS.items()
        if unit in kind.on
        and key not in before
        and (final or not kind.last)
        and not (key in ("pack", "fill") and {"pack", "fill"} & set(before))
    ]


def _draw(rng: random.Random, level: int) -> tuple[Quantity, tuple[str, ...]] | None:
    """Draw a composition step by step, so that all kinds are about equally frequent."""
    unit: Quantity = rng.choice(("item", "item", "group", "coin"))
    start, kinds = unit, tuple[str, ...]()
    for place in range(level):
        followers = _followers(unit, kinds, place + 1 == level)
        if not followers:
            return None
        key = rng.choice(followers)
        kinds, unit = (*kinds, key), STEP_KINDS[key].gives or unit
    return start, kinds


def _draw_story(rng: random.Random, level: int, split: Split) -> Story | None:
    """Draw a story of a split; None if this draw found none."""
    drawn = _draw(rng, level)
    if drawn is None or story_split(*drawn) != split:
        return None
    numbers = [rng.randint(2, 12) if drawn[0] == "group" else rng.randint(4, LARGEST[level] // 2)]
    values = list(numbers)
    for key in drawn[1]:
        expression, x = STEP_KINDS[key].expression, values[-1]
        choices = [n for n in _operands(expression, x, level) if n not in numbers]
        if not choices:
            return None
        numbers.append(rng.choice(choices))
        values.append(_value(expression, x, numbers[-1]))
    return Story(*drawn, tuple(numbers), tuple(values))


def _operands(expression: str, x: int, level: int) -> list[int]:
    """Return the numbers with which a step from `x` has a whole result in the range of the level."""
    largest, most = LARGEST[level], MOST_ADDED[level]
    if "*" in expression:
        return [n for n in range(2, 10) if x * n <= largest]
    if "//" in expression:
        return [n for n in range(2, 10) if x % n == 0 and x > n]
    if expression.startswith("{n}"):
        return list(range(x + 2, min(x + most, largest) + 1))
    return list(range(2, min(x - 2 if "-" in expression else largest - x, most) + 1))


def _sums(rng: random.Random, level: int) -> tuple[str, str]:
    """Return a text with sums alone: a request for them, and their results."""
    asked, told = list[str](), list[str]()
    while len(asked) < SUMS:
        expression, x = rng.choice([kind.expression for kind in STEP_KINDS.values()]), rng.randint(2, LARGEST[level])
        operands = _operands(expression, x, level)
        if operands:
            n = rng.choice(operands)
            asked.append(expression.format(x=x, n=n).replace("//", "/"))
            told.append(f"{asked[-1]} = {_value(expression, x, n)}")
    return f"Calculate {', '.join(asked)}.", f"{'. '.join(told)}."


def _value(expression: str, x: int, n: int) -> int:
    left, operator, _ = expression.split(" ")
    a, b = (x, n) if left == "{x}" else (n, x)
    results: dict[str, Callable[[], int]] = {
        "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "//": lambda: a // b,
    }  # fmt: skip
    return results[operator]()


def _words(story: Story, rng: random.Random) -> list[dict[str, str]]:
    """Return the fields of the texts: those of the beginning, then those of each step."""
    (who, he), (friend, other) = rng.sample(PEOPLE, 2)
    items, (group, groups) = rng.choice(ITEMS), rng.choice(GROUPS)
    nouns = {"item": items, "group": groups, "coin": "coins"}
    fixed = {"who": who, "he": he, "He": he.capitalize(), "friend": friend, "items": items, "group": group}
    fixed |= {"groups": groups, "his": "her" if other == "she" else "his"}
    units: list[Quantity] = [story.start, story.start]
    for key in story.kinds[:-1]:
        units.append(STEP_KINDS[key].gives or units[-1])
    return [fixed | {"n": str(n), "things": nouns[unit]} for n, unit in zip(story.numbers, units, strict=True)]


def _instruction(story: Story, words: Sequence[dict[str, str]], rng: random.Random) -> str:
    first = words[0]
    filled = f"{first['n']} {first['groups']} of {first['items']}" if story.start == "group" else "{n} {things}"
    sentences = [f"{first['who']} has {filled}.".format_map(first)]
    kinds = [STEP_KINDS[key] for key in story.kinds]
    sentences += [rng.choice(kind.stories).format_map(more) for kind, more in zip(kinds, words[1:], strict=True)]
    return " ".join([*sentences, kinds[-1].ask.format_map(words[-1]), ENDING])


def _answer(story: Story, words: Sequence[dict[str, str]]) -> str:
    sentences = []
    for key, more, x, value in zip(story.kinds, words[1:], story.values, story.values[1:], strict=False):
        kind = STEP_KINDS[key]
        equation = kind.expression.format(x=x, n=more["n"]).replace("//", "/")
        sentences.append(f"{kind.said.format_map(more)} {equation} = {value}.")
    return f"{' '.join(sentences)}\nAnswer: {story.values[-1]}"


def _variables(story: Story) -> list[str]:
    return ["start", *(STEP_KINDS[key].name for key in story.kinds)]


def _solution(story: Story) -> str:
    names = _variables(story)
    steps = [
        f"    {name} = {STEP_KINDS[key].expression.format(x=x, n=n)}"
        for key, name, x, n in zip(story.kinds, names[1:], names, story.numbers[1:], strict=False)
    ]
    return "\n".join(["def answer():", f"    start = {story.numbers[0]}", *steps, f"    return {names[-1]}", ""])


def _in_one(story: Story) -> list[str]:
    """Return the quantity after 0, 1, ... steps as one expression of the story's numbers."""
    found = [str(story.numbers[0])]
    for key, n in zip(story.kinds, story.numbers[1:], strict=True):
        x, kind = found[-1], STEP_KINDS[key]
        tight = kind.operator in ("*", "//") or kind.expression.startswith("{n}")
        found.append(kind.expression.format(x=f"({x})" if tight and (" + " in x or " - " in x) else x, n=n))
    return found


def _checks(story: Story) -> tuple[str, ...]:
    *_, before, whole = _in_one(story)
    kind, n = STEP_KINDS[story.kinds[-1]], story.numbers[-1]
    undone = kind.undone.format(a="answer()", x=before, n=n)
    return f"assert {undone} == {n if '{x}' in kind.undone else before}", f"assert answer() == {whole}"


def _mistakes(story: Story, words: Sequence[dict[str, str]], rng: random.Random) -> tuple[GivenMistake, ...]:
    names, found = _variables(story), list[GivenMistake]()

    def add(kind: str, place: int, good: str, bad: str, m: int | str = "") -> None:
        fact = "{who} has {n} {things}" if place == 0 else STEP_KINDS[story.kinds[place - 1]].fact
        bad, good = f"{names[place]} = {bad}", f"{names[place]} = {good}"
        fields = {**words[place], "fact": fact.format_map(words[place]), "bad": bad, "good": good, "m": str(m)}
        cause, repair = rng.choice(CAUSES[kind]).format_map(fields), rng.choice(REPAIRS).format_map(fields)
        found.append(GivenMistake(kind, place + 2, f"    {bad}", cause, repair))

    for place, n in enumerate(story.numbers):
        expression = STEP_KINDS[story.kinds[place - 1]].expression if place else "{n}"
        x = names[place - 1] if place else ""
        good = expression.format(x=x, n=n)
        for m in (n - 1, n + 1):
            add("off_by_one", place, good, expression.format(x=x, n=m), m)
        for m in story.numbers:
            if abs(m - n) > 1:
                add("wrong_quantity", place, good, expression.format(x=x, n=m), m)
        if not place:
            continue
        left, operator, right = good.split(" ")
        add("wrong_operation", place, good, f"{left} {OTHER_OPERATION[operator]} {right}")
        add("missed_step", place, good, x)
        if operator in ("-", "//"):
            add("swapped_operands", place, good, f"{right} {operator} {left}")
    return tuple(found)


def _plan(story: Story, words: Sequence[dict[str, str]]) -> str:
    steps = [STEP_KINDS[key].plan.format_map(more) for key, more in zip(story.kinds, words[1:], strict=True)]
    return f"Start with the {{n}} {{things}}, then {', then '.join(steps)}.".format_map(words[0])


def iter_story_problems(seed: int, split: Split, levels: Sequence[int] = LEVELS) -> Iterator[Problem]:
    """Yield distinct problems until a level has no new ones, alternating between the levels.

    Args:
        seed: determines the problems and their wording.
        split: `pretrain`, `train` or `heldout`; no composition is in two of them.
        levels: numbers of steps, 1 to 4.

    Raises:
        UserError: unknown split or level, or a level has no new problems left.
    """
    seen: set[str] = set()
    rng = random.Random(f"arithmetic:{seed}:{split}")
    for level in itertools.cycle(_checked(split, levels)):
        for _ in range(20_000):
            story = _draw_story(rng, level, split)
            if story is None or (key := f"{story.composition}:{story.numbers}") in seen:
                continue
            seen.add(key)
            yield _problem(story, key, split, random.Random(f"{seed}:{key}"))
            break
        else:
            raise UserError(f"arithmetic problems: none left at level {level} after {len(seen)}; ask for fewer")


def iter_story_texts(seed: int, split: Split, levels: Sequence[int] = LEVELS) -> Iterator[tuple[str, str]]:
    """Yield instructions with their answers without end; see `iter_story_problems` for arguments and errors.

    In the split `pretrain` half of the texts are sums without a story, from which a micro model learns to calculate.
    """
    rng = random.Random(f"arithmetic texts:{seed}:{split}")
    for level in itertools.cycle(_checked(split, levels)):
        if split == "pretrain" and rng.random() < 0.5:
            yield _sums(rng, level)
            continue
        while (story := _draw_story(rng, level, split)) is None:
            pass
        words = _words(story, rng)
        yield _instruction(story, words, rng), _answer(story, words)


def _checked(split: Split, levels: Sequence[int]) -> Sequence[int]:
    if split not in PROCEDURAL_SPLITS:
        raise UserError(f"split {split!r}: must be one of {', '.join(PROCEDURAL_SPLITS)}")
    if not levels or any(level not in LEVELS for level in levels):
        raise UserError(f"levels {list(levels)!r}: choose one or more of {', '.join(map(str, LEVELS))}")
    return levels


def _problem(story: Story, key: str, split: Split, rng: random.Random) -> Problem:
    words = _words(story, rng)
    return Problem(
        id=f"arithmetic/{split}/{hashlib.sha256(key.encode()).hexdigest()[:12]}",
        instruction=_instruction(story, words, rng),
        solution=_solution(story),
        tests=_checks(story),
        entry_point="answer",
        source="arithmetic",
        licence="Apache-2.0",
        level=len(story.kinds),
        extra={"composition": story.composition, "numbers": list(story.numbers)},
        answer=_answer(story, words),
        plan=_plan(story, words),
        mistakes=_mistakes(story, words, rng),
    )
