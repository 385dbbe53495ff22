"""Renders a composition of parts as a Python function and as an English request, and computes its expected values."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reflectioncoder.problems.procedural.kinds import PROBLEM_KINDS, Kind, Theme
from reflectioncoder.problems.procedural.maps import MAPS, ROW_VIEWS, RULES
from reflectioncoder.problems.procedural.parts import (
    INT_FILTERS,
    STR_FILTERS,
    Constants,
    ItemFilter,
    ItemType,
    Map,
    Reduction,
    Rule,
)
from reflectioncoder.problems.procedural.reductions import REDUCTIONS

RULES_BY_KEY = {rule.key: rule for rule in RULES}


@dataclass(frozen=True)
class Composition:
    """The parts of a problem, without their constants: the unit of the held-out split.

    Args:
        kind: input kind.
        rule: key of the rule that selects the items; "" for all items.
        filters: (accessor, filter) keys. The accessor is "" for the item itself, otherwise one of its attributes.
        operator: how two filters are combined; "" for fewer than two.
        view: the attribute of an item that the map gets; "" for the item itself.
        map: key of the map; "" for none.
        reduction: key of the reduction.
        special: whether an empty selection has a special answer although the reduction would return one.
    """

    kind: str
    rule: str
    filters: tuple[tuple[str, str], ...]
    operator: Literal["", "and", "or"]
    view: str
    map: str
    reduction: str
    special: bool = False

    @property
    def key(self) -> str:
        """The composition as a stable line of text."""
        chosen = self.operator.join(f"({accessor}.{name})" for accessor, name in self.filters)
        return "/".join(
            (self.kind, self.rule, chosen, self.view, self.map, self.reduction, "special" if self.special else "")
        )

    @property
    def viewed(self) -> ItemType:
        """Type of the items that the map gets."""
        kind = PROBLEM_KINDS[self.kind].item_type
        if kind == "row":
            return "int"
        return {"key": "str", "value": "int"}.get(self.view, kind)  # type: ignore[return-value]

    @property
    def mapped(self) -> Map | None:
        """The map, if there is one."""
        return MAPS[self.viewed][self.map] if self.map else None

    @property
    def reduced(self) -> Reduction:
        """The reduction."""
        made = self.mapped.result if self.mapped else self.viewed
        return next(part for part in REDUCTIONS[made] if part.key == self.reduction)

    @property
    def ruled(self) -> Rule | None:
        """The rule, if there is one."""
        return RULES_BY_KEY[self.rule] if self.rule else None

    @property
    def level(self) -> int:
        """Difficulty: the number of parts that a solver has to get right; a reduction counts at most two."""
        return len(self.filters) + bool(self.map) + bool(self.rule) + self.special + self.reduced.weight

    def filter_parts(self) -> list[ItemFilter]:
        """Return the filters, each from the vocabulary of its accessor."""
        return [filter_of(self.kind, accessor, name) for accessor, name in self.filters]


@dataclass(frozen=True)
class Exact:
    """A composition with its constants. Two different ones are different problems.

    Args:
        composition: the parts.
        rule, map: constants of the rule and of the map.
        filters: constants of each filter.
        empty: the answer for an empty selection.
    """

    composition: Composition
    rule: Constants
    filters: tuple[Constants, ...]
    map: Constants
    empty: Any

    @property
    def key(self) -> str:
        """A stable, unique key of the composition with its constants."""
        return f"{self.composition.key}#{self.rule!r}{self.filters!r}{self.map!r}{self.empty!r}"


def filter_of(kind: str, accessor: str, name: str) -> ItemFilter:
    """Return the filter `name` for the values that `accessor` yields on items of `kind`."""
    text = accessor == "key" or PROBLEM_KINDS[kind].item_type == "str"
    return (STR_FILTERS if text else INT_FILTERS)[name]


def _get(item_type: ItemType, accessor: str, item: Any) -> Any:
    if item_type == "pair" and accessor:
        return item[0] if accessor == "key" else item[1]
    return ROW_VIEWS[accessor][2](item) if item_type == "row" else item


def evaluate_pipeline(exact: Exact, value: Any) -> Any:
    """Compute the expected answer for the input `value`, from the functions of the parts instead of source text."""
    composition, kind = exact.composition, PROBLEM_KINDS[exact.composition.kind]
    items = kind.parse(value)
    if composition.ruled:
        items = composition.ruled.fn(items, *exact.rule)
    if composition.filters:
        checks = list(zip(composition.filters, composition.filter_parts(), exact.filters, strict=True))
        combine = any if composition.operator == "or" else all
        items = [i for i in items if combine([part.fn(_get(kind.item_type, a, i), *c) for (a, _), part, c in checks])]
    items = [_get(kind.item_type, composition.view, item) for item in items]
    if composition.mapped:
        items = [composition.mapped.fn(item, *exact.map) for item in items]
    reduction = composition.reduced
    if (composition.special or reduction.empty == "needs") and reduction.too_few(items):
        return exact.empty
    return reduction.fn(items)


def _fill(text: str, constants: Constants = (), **names: Any) -> str:
    letters = dict(zip("ab", constants, strict=False))
    if constants and isinstance(constants[0], str):
        letters["A"] = constants[0].upper()
    return text.format(**letters, **names)


def _source(exact: Exact, theme: Theme) -> tuple[list[str], str, str, str, list[str], str]:
    """Return prelude lines, sequence, loop target, stop condition, filter conditions and element expression."""
    composition, kind = exact.composition, PROBLEM_KINDS[exact.composition.kind]
    names = {"p": theme.param, "k": theme.variables[0], "v": theme.variables[-1]}
    target = item = ", ".join(theme.variables)
    prelude = [_fill(line, (), **names) for line in kind.prelude]
    sequence = _fill(kind.sequence, (), **names)

    def access(accessor: str) -> str:
        if kind.item_type == "pair":
            return {"key": names["k"], "value": names["v"], "": f"({item})"}[accessor]
        return ROW_VIEWS[accessor][0].format(x=item) if kind.item_type == "row" else item

    conditions: list[str] = []
    stop = ""
    if rule := composition.ruled:
        here = {"x": item, "v": names["v"]}
        if rule.code:
            sliced = (
                f"list({sequence})" if "(" in sequence and "split" not in sequence and "[" in rule.code else sequence
            )
            sequence = _fill(rule.code, exact.rule, s=sliced)
        elif rule.stop:
            stop = _fill(rule.stop, exact.rule, **here)
        else:
            if kind.named:
                prelude.append(_fill(kind.named[0], (), **names))
                sequence = kind.named[1]
            sequence = f"zip({sequence}, {sequence}[1:])"
            conditions.append(_fill(rule.previous, exact.rule, p="previous", x=item))
            target = f"previous, {item}"
    tests = [
        _fill(part.code, constants, x=access(accessor))
        for (accessor, _), part, constants in zip(
            composition.filters, composition.filter_parts(), exact.filters, strict=True
        )
    ]
    if composition.operator == "or":
        tests = [" or ".join(tests)]
        if conditions:
            tests = [f"({tests[0]})"]
    elif len(tests) + len(conditions) > 1:
        tests = [f"({test})" if " or " in test else test for test in tests]
    element = access(composition.view)
    if composition.mapped:
        element = _fill(composition.mapped.code, exact.map, x=element)
    return prelude, sequence, target, stop, conditions + tests, element


def render_code(exact: Exact, theme: Theme, name: str, rng: random.Random) -> str:
    """Render the solution as a loop or a comprehension; `rng` picks among the forms that are possible."""
    reduction = exact.composition.reduced
    prelude, sequence, target, stop, conditions, element = _source(exact, theme)
    where = f" if {' and '.join(conditions)}" if conditions else ""
    plain = element.strip("()") == target and not where and not stop
    guarded = exact.composition.special or reduction.empty == "needs"
    generator = f"{element} for {target} in {sequence}{where}"
    inline = sequence if plain else generator
    if (plain and reduction.inline[:1] == "[") or reduction.inline.startswith("len({"):
        inline = f"*{sequence}" if plain else generator
    styles = ["collect", "collect"]
    if reduction.inline and not guarded and not stop:
        styles += ["inline"] * 2
    if reduction.acc and not exact.composition.special:
        styles += ["loop"] * 3
    style = rng.choice(styles)

    body = list(prelude)
    returned = "return " + reduction.inline.format(g=inline, g1=f"{target} in {sequence}{where}")
    if style == "inline" and len(returned) > 96:
        style = "collect"
    if style == "inline":
        body.append(returned)
    elif style == "loop":
        assert reduction.acc is not None
        start, step, answer = reduction.acc
        inner: list[str] = []
        if not element.isidentifier() and sum(line.count("{e}") for line in step) > 1:
            inner.append(f"new = {element}")
            element = "new"
        if " " in element and any("* {e}" in line for line in step):
            element = f"({element})"
        inner += [line.format(e=element) for line in step]
        body += [line.format() for line in start] + _loop(target, sequence, stop, conditions, inner, rng)
        if guarded and exact.empty is not None:
            answer = f"{exact.empty!r} if {answer} is None else {answer}"
        body.append(f"return {answer}")
    else:
        kept = rng.choice(("kept", "chosen", "selected"))
        if plain:
            indexable = sequence.isidentifier() or sequence.endswith("]") or sequence.endswith("split()")
            kept, lines = (
                (sequence, [])
                if sequence.isidentifier()
                else (kept, [f"{kept} = {sequence if indexable else f'list({sequence})'}"])
            )
        elif stop or len(generator) > 84 or rng.random() < 0.3:
            lines = [f"{kept} = []", *_loop(target, sequence, stop, conditions, [f"{kept}.append({element})"], rng)]
        else:
            lines = [f"{kept} = [{generator}]"]
        body += lines
        if guarded:
            body += [f"if {reduction.guard.format(v=kept)}:", f"    return {exact.empty!r}"]
        body += [line.format(v=kept) for line in reduction.lines]
    return "\n".join([f"def {name}({theme.param}):", *("    " + line for line in body)]) + "\n"


def _loop(
    target: str, sequence: str, stop: str, conditions: Sequence[str], inner: Sequence[str], rng: random.Random
) -> list[str]:
    lines = [f"for {target} in {sequence}:"]
    if stop:
        lines += [f"    if {stop}:", "        break"]
    if len(conditions) == 1 and rng.random() < 0.2:
        lines += [f"    if not ({conditions[0]}):", "        continue"]
        conditions = []
    if conditions:
        lines.append(f"    if {' and '.join(conditions)}:")
    pad = "        " if conditions else "    "
    return lines + [pad + line for line in inner]


_PLURALS = (
    (r"^is\b", "are"),
    (r"^has\b", "have"),
    (r"^does\b", "do"),
    (r"^lies\b", "lie"),
    (r"^exceeds\b", "exceed"),
    (r"^(starts|begins|ends|contains|leaves|differs|reads)\b", lambda m: m[0][:-1]),
    (r" and ends with", " and end with"),
    (r"\bits\b", "their"),
    (r" in it$", " in them"),
    (r"^are a (perfect square|palindrome|multiple|prime)", r"are \1s"),
    (r" a last ", " last "),
)


def plural(predicate: str) -> str:
    """Turn the predicate of a singular noun into that of a plural noun ("is even" -> "are even")."""
    for pattern, replacement in _PLURALS:
        predicate = re.sub(pattern, replacement, predicate)  # type: ignore[call-overload]
    return predicate


def _nouns(theme: Theme) -> dict[str, str]:
    return {"item": theme.item, "items": theme.items, "key": theme.key, "value": theme.value}


def _predicates(exact: Exact, theme: Theme, many: bool, rng: random.Random) -> str:
    """Render the filters as a predicate: "are even", "whose score is even and whose name is long"."""
    composition, clauses = exact.composition, []
    for (accessor, _), part, constants in zip(
        composition.filters, composition.filter_parts(), exact.filters, strict=True
    ):
        predicate = _fill(rng.choice(part.says), constants)
        if accessor:
            noun = {"key": theme.key, "value": theme.value}.get(accessor, accessor)
            clauses.append(f"whose {noun} {predicate}")
        else:
            clauses.append("that " + (plural(predicate) if many else predicate))
    return f" {composition.operator} ".join(clauses)


def _noun_phrase(exact: Exact, theme: Theme, rng: random.Random) -> str:
    composition = exact.composition
    filters = composition.filter_parts()
    adjective = filters[0].adjective if len(filters) == 1 and not composition.filters[0][0] else ""
    if not filters:
        items = f"the {theme.items}"
    elif adjective and rng.random() < 0.6:
        items = f"the {adjective} {theme.items}"
    else:
        items = f"the {theme.items} {_predicates(exact, theme, True, rng)}"
    return items


def _view_phrase(exact: Exact, theme: Theme, inner: str) -> str:
    view = exact.composition.view
    if not view:
        return inner
    noun = {"key": f"{theme.key}s", "value": f"{theme.value}s"}.get(view) or ROW_VIEWS[view][1]
    return f"the {noun} of {inner}"


def empty_sentence(exact: Exact, rng: random.Random) -> str:
    """Render the sentence about the empty case; "" if the reduction makes it obvious."""
    reduction = exact.composition.reduced
    if not (exact.composition.special or reduction.empty == "needs"):
        return ""
    answer = "an empty string" if exact.empty == "" else repr(exact.empty)
    if reduction.missing:
        return f" If {reduction.missing}, return {answer}."
    return rng.choice(
        (" Return {} if nothing is left.", " If nothing qualifies, return {}.", " Give {} when there are none.")
    ).format(answer)


def render_text(exact: Exact, theme: Theme, name: str, rng: random.Random) -> str:
    """Render the request in English: one of eight sentence patterns, with paraphrases of each part."""
    composition, nouns = exact.composition, _nouns(theme)
    reduction, mapped = composition.reduced, composition.mapped
    call, describe = f"`{name}({theme.param})`", rng.choice(theme.describe)
    describe = describe.format(**nouns)
    rule = " " + _fill(rng.choice(composition.ruled.says), exact.rule, **nouns) if composition.ruled else ""
    empty = empty_sentence(exact, rng)
    items = _noun_phrase(exact, theme, rng)
    viewed = _view_phrase(exact, theme, items)
    inner = _fill(rng.choice(mapped.np), exact.map, X=viewed) if mapped else viewed
    whole = _fill(rng.choice(reduction.np), (), X=inner, **nouns)
    them = _fill(rng.choice(reduction.them), (), **nouns)
    steps = f", {_fill(rng.choice(mapped.does), exact.map)}" if mapped else ""
    noun = {"key": f"{theme.key}s", "value": f"{theme.value}s"}.get(composition.view) or (
        ROW_VIEWS[composition.view][1] if composition.view else ""
    )
    take = f", take the {noun}" if noun else ""
    shapes = [
        f"Write a function {call} that takes {describe} and returns {whole}.{rule}{empty}",
        f"Given {describe}, {call} should return {whole}.{rule}{empty}",
        f"I have {describe} and need {whole}. Please write {call}.{rule}{empty}",
        f"How do I get {whole} from {describe}? Answer with a function {call}.{rule}{empty}",
        f"Implement {call}: it receives {describe}.{rule} Return {whole}.{empty}",
    ]
    keep = f"keep {items}" if composition.filters else f"go through {items}"
    shapes += [
        f"{call} gets {describe}.{rule} {keep.capitalize()}{take}{steps} and return {them}.{empty}",
        f"Take {describe}, {keep}{take}{steps}, and return {them}. Call it {call}.{rule}{empty}",
    ]
    if composition.filters:
        every = _predicates(exact, theme, True, rng)
        shapes.append(
            f"Write {call} for {describe}.{rule} Ignore every {theme.item} except those {every}."
            f" From those{take}{steps}{',' if steps or take else ''} return {them}.{empty}"
        )
    return rng.choice(shapes)


def function_name(exact: Exact, theme: Theme, rng: random.Random) -> str:
    """Build a function name from the parts, such as `sum_even_squares`."""
    composition = exact.composition
    words = [composition.reduced.name]
    for part, constants in zip(composition.filter_parts()[:1], exact.filters[:1], strict=True):
        words.append(_fill(part.name, constants).lower())
    if composition.mapped and rng.random() < 0.8:
        words.append(composition.mapped.name)
    if len(words) < 2 or (len(words) < 3 and rng.random() < 0.7):  # a single word could shadow a builtin
        words.append({"key": f"{theme.key}s", "value": f"{theme.value}s"}.get(composition.view, theme.items))
    name = "_".join(words)
    return f"get_{name}" if name == theme.param else name


def variants(exact: Exact) -> list[Exact]:
    """Return variants with one part removed or exchanged; good tests distinguish each of them from the original."""
    composition, made = exact.composition, []
    for index in range(len(exact.filters)):
        fewer = replace(
            composition, filters=composition.filters[:index] + composition.filters[index + 1 :], operator=""
        )
        made.append(replace(exact, composition=fewer, filters=exact.filters[:index] + exact.filters[index + 1 :]))
    if composition.operator:
        made.append(replace(exact, composition=replace(composition, filters=(), operator=""), filters=()))
        other: Literal["and", "or"] = "or" if composition.operator == "and" else "and"
        made.append(replace(exact, composition=replace(composition, operator=other)))
    if composition.rule:
        made.append(replace(exact, composition=replace(composition, rule=""), rule=()))
    if composition.mapped and composition.mapped.result == composition.viewed:
        made.append(replace(exact, composition=replace(composition, map=""), map=()))
    return made


def theme_of(kind: Kind, rng: random.Random) -> Theme:
    """Pick one of the wordings of an input kind."""
    return rng.choice(kind.themes)
