"""Generates verified programming problems by composition: more than 100,000, in four levels, with a held-out split.

A problem consists of an input kind, a rule that selects the items, filters, a map, a reduction, and an answer for the
empty case. The split is determined by a stable hash of the composition (the parts without their constants), so that no
held-out composition is ever trained on, in any wording. By design, the parts of a held-out composition may all occur in
the training split, in other combinations.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from reflectioncoder.errors import UserError
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural.families import EVERYTHING, PROCEDURAL_SPLITS, Family, Split
from reflectioncoder.problems.procedural.kinds import PROBLEM_KINDS, Kind
from reflectioncoder.problems.procedural.maps import MAPS, ROW_VIEWS, RULES
from reflectioncoder.problems.procedural.parts import INT_FILTERS, STR_FILTERS, Constants
from reflectioncoder.problems.procedural.reductions import REDUCTIONS
from reflectioncoder.problems.procedural.render import (
    Composition,
    Exact,
    evaluate_pipeline,
    function_name,
    render_code,
    render_text,
    theme_of,
    variants,
)

ALL_LEVELS = (1, 2, 3, 4)
TESTS_PER_PROBLEM = 7
MAX_TEXT, MAX_CODE, MAX_LINES, MAX_TEST = 300, 380, 13, 150

# Two filters of one family would be redundant or contradictory, so they are never combined.
_FAMILIES = tuple(
    frozenset(keys.split())
    for keys in (
        "pos neg gt lt ge le between outside absgt onedigit square prime",
        "even odd square prime",
        "div notdiv rem square prime",
        "ne prime square lastdigit",
        "starts starts_ci vowel capital",
        "contains contains_ci lacks",
        "longer shorter length evenlen oddlen",
        "capital lower",
        "palindrome sameends unique",
    )
)
_SIZE_FILTERS = _FAMILIES[0]


@lru_cache
def _accessors(kind: str) -> tuple[tuple[str, str], ...]:
    """Return all (accessor, filter) keys that make sense for the items of `kind`."""
    item_type = PROBLEM_KINDS[kind].item_type
    numbers = [key for key, part in INT_FILTERS.items() if part.digits or kind != "digits"]
    if kind == "digits":
        numbers.remove("pos")  # `ne` already covers "is not 0"
    if item_type == "int":
        return tuple(("", key) for key in numbers)
    if item_type == "str":
        return tuple(("", key) for key in STR_FILTERS)
    if item_type == "pair":
        return tuple(("key", key) for key in STR_FILTERS) + tuple(("value", key) for key in numbers)
    return tuple(
        (view, key) for view in ROW_VIEWS for key in ("even", "odd", "pos", "neg", "gt", "lt", "div", "ge", "le")
    )


def _clash(first: tuple[str, str], second: tuple[str, str]) -> bool:
    return first[0] == second[0] and any(first[1] in family and second[1] in family for family in _FAMILIES)


@lru_cache
def _selections(kind: str) -> tuple[tuple[tuple[tuple[str, str], ...], Literal["", "and", "or"]], ...]:
    """Return all selections: no filter, each single filter, and each pair of filters joined by "and" or "or"."""
    singles = _accessors(kind)
    chosen: list[tuple[tuple[tuple[str, str], ...], Literal["", "and", "or"]]] = [((), "")]
    chosen += [((single,), "") for single in singles]
    for pair in itertools.combinations(singles, 2):
        if not _clash(*pair):
            chosen += [(pair, "and"), (pair, "or")]
    return tuple(chosen)


@lru_cache
def _tails(kind: str) -> tuple[tuple[str, str, str, str, bool], ...]:
    """Return all sensible (rule, view, map, reduction, special) of an input kind."""
    item_type = PROBLEM_KINDS[kind].item_type
    views = {"pair": ("key", "value", ""), "row": tuple(ROW_VIEWS)}.get(item_type, ("",))
    rules = [None, *(rule for rule in RULES if kind in rule.kinds)]
    found = []
    for rule, view in itertools.product(rules, views):
        viewed = Composition(kind, "", (), "", view, "", "").viewed
        for map_key in ("", *MAPS.get(viewed, ())):
            made = MAPS[viewed][map_key].result if map_key else viewed
            for reduction in REDUCTIONS[made]:
                if rule and rule.needs == "order" and not reduction.ordered:
                    continue
                if rule and rule.needs == "multiplicity" and not reduction.multiplicity:
                    continue
                if (
                    rule
                    and rule.needs == "no order"
                    and (reduction.ordered or reduction.key in ("best", "worst", "longest", "shortest"))
                ):
                    continue
                if (map_key and not reduction.values) or (map_key == "abs" and kind == "digits"):
                    continue
                if (
                    rule
                    and rule.key == "distinct"
                    and not map_key
                    and reduction.key in ("distinct", "counts", "common", "repeated", "streak")
                ):
                    continue
                unique_names = kind == "dict" or (rule is not None and rule.key == "last_wins")
                if unique_names and (
                    reduction.key == "peaks"
                    or (view == "key" and not map_key and reduction.key in ("distinct", "counts", "common", "repeated"))
                ):
                    continue
                special = (False, True) if reduction.empty == "natural" and reduction.key != "product" else (False,)
                found += [(rule.key if rule else "", view, map_key, reduction.key, s) for s in special]
    return tuple(found)


def _sensible(composition: Composition) -> bool:
    if not composition.level or not (composition.filters or composition.map or composition.rule):
        return False
    if composition.level not in ALL_LEVELS:
        return False
    rule, filters = composition.rule, composition.filters
    on_value = {key for accessor, key in filters if accessor == composition.view}
    if composition.map in ("abs", "cap", "floor") and on_value & _SIZE_FILTERS:
        return False
    # Reject filters that a stop rule makes redundant, and sorting that leaves a reduction nothing to do.
    return not (
        rule in ("until_negative", "until_above", "until_low") and any(key in _SIZE_FILTERS for _, key in filters)
    )


def compositions(kind: str | None = None) -> Iterator[Composition]:
    """Yield every composition, kind by kind, in a fixed order; `kind` restricts them to one input kind."""
    for name in (kind,) if kind else PROBLEM_KINDS:
        for filters, operator in _selections(name):
            for rule, view, map_key, reduction, special in _tails(name):
                composition = Composition(name, rule, filters, operator, view, map_key, reduction, special)
                if _sensible(composition):
                    yield composition


@lru_cache
def _weights(kind: str) -> dict[tuple[str, str, str, str, bool], int]:
    return {tail: Composition(kind, tail[0], (), "", *tail[1:]).level for tail in _tails(kind)}


def iter_problems(
    seed: int, split: Split, levels: Sequence[int] = ALL_LEVELS, family: Family = EVERYTHING
) -> Iterator[Problem]:
    """Yield the problems of `iter_exact` without their compositions; see there for arguments and errors."""
    return (problem for _, problem in iter_exact(seed, split, levels, family))


def iter_exact(
    seed: int, split: Split, levels: Sequence[int] = ALL_LEVELS, family: Family = EVERYTHING
) -> Iterator[tuple[Exact, Problem]]:
    """Yield distinct problems until a level has no new ones, alternating between the levels.

    Args:
        seed: determines the problems, their wording and their tests.
        split: "train" or "heldout", or "pretrain" of a family that has it; no composition is in two of them.
        levels: difficulties to draw from, 1 to 4.
        family: the parts to draw from.

    Raises:
        UserError: unknown split or level, or a level has no new problems left.
    """
    seen: set[str] = set()
    rng = random.Random(f"procedural:{seed}:{split}")
    for level in itertools.cycle(_checked(split, levels, family)):
        for _ in range(20_000):
            exact = _draw_exact(rng, split, level, family)
            if exact is None or exact.key in seen:
                continue
            problem = _problem(exact, seed, split)
            if problem is not None:
                seen.add(exact.key)
                yield exact, problem
                break
        else:
            raise UserError(f"procedural problems: none left at level {level} after {len(seen)}; ask for fewer")


def iter_texts(
    seed: int, split: Split, levels: Sequence[int] = ALL_LEVELS, family: Family = EVERYTHING
) -> Iterator[tuple[str, str]]:
    """Yield instructions with their solutions without end, in new wordings where a problem occurs again.

    They have no tests, so this is ten times as fast as `iter_exact`: for pre-training, which needs very many.
    See there for arguments and errors.
    """
    rng = random.Random(f"texts:{seed}:{split}")
    for level in itertools.cycle(_checked(split, levels, family)):
        while (exact := _draw_exact(rng, split, level, family)) is None:
            pass
        instruction, solution, _ = _written(exact, rng)
        if len(instruction) <= MAX_TEXT and len(solution) <= MAX_CODE and solution.count("\n") <= MAX_LINES:
            yield instruction, solution


def _checked(split: Split, levels: Sequence[int], family: Family) -> Sequence[int]:
    if split not in PROCEDURAL_SPLITS or (split == "pretrain" and not family.pretrain_share):
        raise UserError(f"split {split!r}: must be 'train' or 'heldout'")
    if not levels or any(level not in ALL_LEVELS for level in levels):
        raise UserError(f"levels {list(levels)!r}: choose one or more of 1, 2, 3, 4")
    return levels


def procedural_problems(
    count: int, seed: int, split: Split, levels: Sequence[int] = ALL_LEVELS, family: Family = EVERYTHING
) -> list[Problem]:
    """Return the first `count` problems of `iter_problems`. A longer list begins with every shorter one.

    Args:
        count: number of problems, at least 0.
        seed: determines the problems, their wording and their tests.
        split: "train" or "heldout", or "pretrain" of a family that has it.
        levels: difficulties to alternate between, 1 to 4.
        family: the parts to draw from.

    Returns:
        distinct problems; their ids identify split and content.

    Raises:
        UserError: an invalid argument, or `count` exceeds the number of problems.
    """
    if count < 0:
        raise UserError(f"count of procedural problems must not be negative, got {count}")
    return list(itertools.islice(iter_problems(seed, split, levels, family), count))


@lru_cache
def _tails_of(family: Family, kind: str, weight: int) -> dict[str, list[tuple[str, str, str, str, bool]]]:
    """Return the tails of a family with a weight, by reduction, in the order of the reductions' keys."""
    found: dict[str, list[tuple[str, str, str, str, bool]]] = {}
    for tail, its_weight in _weights(kind).items():
        if its_weight == weight and family.has_tail(tail):
            found.setdefault(tail[3], []).append(tail)
    return {key: found[key] for key in sorted(found)}


@lru_cache
def _selections_of(
    family: Family, kind: str, filters: int
) -> tuple[tuple[tuple[tuple[str, str], ...], Literal["", "and", "or"]], ...]:
    chosen = (selection for selection in _selections(kind) if len(selection[0]) == filters)
    return tuple(selection for selection in chosen if family.has_selection(selection[0]))


def _draw(rng: random.Random, level: int, family: Family) -> Composition | None:
    """Draw a random composition of a level. Kinds and reductions are drawn evenly, so that no large group dominates."""
    kinds = (*PROBLEM_KINDS, *(("ints", "words") * 5 if level == 1 else ()))  # what beginners ask about, at level 1
    kind = rng.choice(kinds if family.kinds is None else [key for key in kinds if key in family.kinds])
    size = rng.choice([n for n in (0, 1, 1, 2) if n <= level])
    tails = _tails_of(family, kind, level - size)
    if not tails:
        return None
    wanted = rng.choice(list(tails))
    rule, view, map_key, reduction, special = rng.choice(tails[wanted])
    filters, operator = rng.choice(_selections_of(family, kind, size))
    composition = Composition(kind, rule, filters, operator, view, map_key, reduction, special)
    return composition if _sensible(composition) else None


def _draw_exact(rng: random.Random, split: Split, level: int, family: Family) -> Exact | None:
    """Draw a composition of a split and a level with its constants; None if this draw found none."""
    composition = _draw(rng, level, family)
    if composition is None or family.split_of(composition) != split:
        return None
    return _draw_constants(composition, rng)


def _written(exact: Exact, rng: random.Random) -> tuple[str, str, str]:
    """Return instruction, solution and function name of a problem."""
    theme = theme_of(PROBLEM_KINDS[exact.composition.kind], rng)
    name = function_name(exact, theme, rng)
    code = render_code(exact, theme, name, rng)
    return render_text(exact, theme, name, rng), code, name


def _draw_constants(composition: Composition, rng: random.Random) -> Exact:
    reduction, mapped = composition.reduced, composition.mapped
    needed = composition.special or reduction.empty == "needs"
    text = (mapped.result if mapped else composition.viewed) != "int" and reduction.key not in (
        "count",
        "distinct",
        "total",
    )
    answers: tuple[Any, ...] = ("", None, "none") if text else (-1, None, -1)
    if reduction.key in (
        "list",
        "sorted",
        "descending",
        "counts",
        "repeated",
        "ends",
        "running",
        "steps",
        "records",
        "bylen",
        "ranking",
        "totals",
        "peaks",
        "invert",
    ):
        answers = (None,)
    constants: list[Constants] = [rng.choice(part.constants) for part in composition.filter_parts()]
    return Exact(
        composition,
        rng.choice(composition.ruled.constants) if composition.ruled else (),
        tuple(constants),
        rng.choice(mapped.constants) if mapped else (),
        rng.choice(answers) if needed else "natural",
    )


def _problem(exact: Exact, seed: int, split: Split) -> Problem | None:
    """Build the problem with its wording; None if its parts conflict or a text is too long."""
    composition, kind = exact.composition, PROBLEM_KINDS[exact.composition.kind]
    rng = random.Random(f"{seed}:{exact.key}")
    tests = _choose_inputs(exact, kind, rng)
    if tests is None:
        return None
    text, code, name = _written(exact, rng)
    if len(text) > MAX_TEXT or len(code) > MAX_CODE or code.count("\n") > MAX_LINES:
        return None
    return Problem(
        id=f"proc/{split}/{hashlib.sha256(exact.key.encode()).hexdigest()[:12]}",
        instruction=text,
        solution=code,
        tests=tuple(
            f"assert {name}({value!r}) {'is' if expected is None else '=='} {expected!r}" for value, expected in tests
        ),
        entry_point=name,
        source="procedural",
        licence="Apache-2.0",
        level=composition.level,
        extra={"composition": composition.key, "key": exact.key},
    )


def _choose_inputs(exact: Exact, kind: Kind, rng: random.Random) -> list[tuple[Any, Any]] | None:
    """Choose edge cases, and inputs that distinguish the problem from each of its variants; None if impossible."""
    constants = [c for group in (exact.rule, *exact.filters, exact.map) for c in group]
    candidates = [*kind.edges, *(kind.sample(rng, constants) for _ in range(36))]
    answers = [(value, evaluate_pipeline(exact, value)) for value in candidates]
    answers = [(value, answer) for value, answer in answers if len(repr(value)) + len(repr(answer)) < MAX_TEST]
    others = variants(exact)
    told = [
        {n for n, other in enumerate(others) if evaluate_pipeline(other, value) != answer} for value, answer in answers
    ]
    edges = sum(any(value is edge for edge in kind.edges) for value, _ in answers)
    chosen = [0, 1 + rng.randrange(edges - 1)]  # the empty input and one small one
    left = set(range(len(others))) - set().union(*(told[i] for i in chosen))
    rest = list(range(edges, len(answers))) + [i for i in range(1, edges) if i not in chosen]
    known = {repr(answers[i][1]) for i in chosen}
    while len(chosen) < TESTS_PER_PROBLEM and rest:
        best = max(rest, key=lambda i: (len(told[i] & left), repr(answers[i][1]) not in known, len(told[i])))
        chosen.append(best)
        rest.remove(best)
        left -= told[best]
        known.add(repr(answers[best][1]))
    first = [repr(value) == repr(answer) for value, answer in answers]
    if left or len(chosen) < 6 or len(known) < 3 or all(first[i] for i in chosen):
        return None
    return [answers[i] for i in chosen]
