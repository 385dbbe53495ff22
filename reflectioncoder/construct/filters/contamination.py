"""Finds problems that are contained in an evaluation set, by word n-grams shared with its prompts and solutions.

A problem is contaminated by a reference if it contains a large share of the n-grams of the reference's prompt or of its
solution, or if it makes the same request in other words (`same_request.py`). The requested function's name is first
replaced by a placeholder on both sides, so a renamed copy is found and a common name alone does not count. N-grams that
many problems of a benchmark share ("write a function to find the", imports) and rows of numbers do not count.

It finds full and partial copies and reworded short requests. It does not find tasks retold as a story, nor the same
algorithm with other variable names. docs/contamination.md describes how the thresholds were measured.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectioncoder.construct.filters.references import ANY_WORD, Reference
from reflectioncoder.construct.filters.same_request import Requests
from reflectioncoder.problems.problem import Problem

ReferencePart = Literal["prompt", "solution", "request"]
DEFINED = re.compile(r"\bdef\s+(\w+)")
ENTRY = "§"  # placeholder for the entry point; \w does not match it, so it is never a word of a text


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of overlap, from which a problem counts as contaminated.

    N-grams that are not boilerplate are called informative. A part of a reference is its prompt or its solution.

    Args:
        words: the n of the n-grams, in words.
        share: share of the informative n-grams of a prompt that has at least `many`; above 1 turns the detector off.
        short_share: the same for a prompt that has fewer, but at least `few`.
        solution_share: the same for a solution that has at least `many`; larger, because code is full of idioms.
        few: minimal number of informative n-grams of a prompt.
        many: number of informative n-grams of a long prompt; minimal number for a solution.
        whole: a part with at least this many words also matches if the problem contains all its n-grams, including
            boilerplate.
        stretch: number of consecutive words that must be shared in any case.
        common: an n-gram is boilerplate if more than this many families of one benchmark have it.
        request: share of the weight of the keywords of a request (`same_request.py`); above 1 turns that comparison
            off.
    """

    words: int = 5
    share: float = 0.4
    short_share: float = 0.7
    solution_share: float = 0.6
    few: int = 3
    many: int = 10
    whole: int = 10
    stretch: int = 8
    common: int = 3
    request: float = 0.8


@dataclass(frozen=True)
class Contamination:
    """A problem that shares too much with a reference.

    Args:
        id: id of the problem.
        reference: id of the reference.
        benchmark: benchmark of the reference.
        part: the part of the reference that matched; "request" if the request is the same in other words.
        share: share of the part's informative n-grams that the problem has, 0 to 1; for a request, the share of the
            weight of its keywords.
        example: the longest sequence of words that they share, with "§" for the entry point; for a request, the common
            keywords.
    """

    id: str
    reference: str
    benchmark: str
    part: ReferencePart
    share: float
    example: str

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `contamination.jsonl`."""
        return dataclasses.asdict(self)


def words_of(text: str, entry_point: str = "") -> list[str]:
    """Return the words of a text in lower case, with "§" for the entry point (`has_close` or `hasClose`)."""
    name = entry_point.replace("_", "").lower()
    words = ANY_WORD.findall(text.lower())
    return [ENTRY if name and word.replace("_", "") == name else word for word in words] if name else words


def runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all n-grams of the words; fewer than n words are one n-gram."""
    return [tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))] if words else []


def _says_something(run: tuple[str, ...]) -> bool:
    """Whether at least half of an n-gram's words have two or more letters, so are not numbers or short variables."""
    return 2 * sum(word.isalpha() and len(word) > 1 for word in run) >= len(run)


class Detector:
    """Compares problems with the references of evaluation sets.

    Args:
        references: problems that must not be in the data.
        thresholds: thresholds of overlap; by default those of `Thresholds`.
    """

    def __init__(self, references: Iterable[Reference], thresholds: Thresholds | None = None) -> None:
        self.thresholds = limits = thresholds or Thresholds()
        self._references = list(references)
        self._requests = Requests([reference.prompt for reference in self._references])
        parts: list[tuple[Reference, ReferencePart, list[tuple[str, ...]]]] = []
        families: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
        for reference in self._references:
            given: tuple[tuple[ReferencePart, str], ...] = (
                ("prompt", reference.prompt),
                ("solution", reference.solution),
            )
            for part, text in given:
                found = runs(words_of(text, reference.entry_point), limits.words)
                parts.append((reference, part, found))
                for run in found:
                    families[reference.benchmark, run].add(reference.family or reference.id)
        self._parts: list[tuple[Reference, ReferencePart, int]] = []
        self._index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._all: list[frozenset[tuple[str, ...]]] = []
        for reference, part, found in parts:
            known = {run: len(families[reference.benchmark, run]) for run in found}
            telling = {run for run, count in known.items() if count <= limits.common and _says_something(run)}
            for run in telling:
                self._index[run].append(len(self._parts))
            self._parts.append((reference, part, len(telling)))
            self._all.append(frozenset(found))

    def __len__(self) -> int:
        return len(self._references)

    def check(self, id: str, texts: Iterable[str], entry_point: str = "") -> Contamination | None:
        """Find the reference with the largest overlap with a problem; None if no overlap reaches its threshold.

        Args:
            id: id of the problem.
            texts: its instruction and its solution. N-grams do not cross from one text to the next, and requests are
                compared by the first text.
            entry_point: name of the requested function; if empty, the first function defined in the texts.
        """
        limits = self.thresholds
        if limits.share > 1:
            return None
        texts = list(texts)
        if not entry_point and (named := DEFINED.search("\n".join(texts))):
            entry_point = named.group(1)
        words = [words_of(text, entry_point) for text in texts]
        own = {run for part in words for run in runs(part, limits.words)}
        counts = Counter(number for run in own for number in self._index.get(run, ()))
        suspects = []
        for number, count in counts.items():
            _, part, total = self._parts[number]
            if part == "solution":
                needed, least = limits.solution_share, limits.many
            elif total >= limits.many:
                needed, least = limits.share, limits.few
            else:
                needed, least = limits.short_share, limits.few
            everything = self._all[number]
            whole = len(everything) + limits.words > limits.whole and everything <= own
            if whole or (total >= least and count / total >= needed):
                suspects.append((-count / total, number))
        for share, number in sorted(suspects):
            stretch = self._stretch(words, self._all[number])
            if len(stretch) >= limits.stretch:
                reference, part, _ = self._parts[number]
                return Contamination(id, reference.id, reference.benchmark, part, round(-share, 4), " ".join(stretch))
        closest = self._requests.closest(texts[0], limits.request) if texts and limits.request <= 1 else None
        if closest is None:
            return None
        reference, alike, common = self._references[closest[0]], *closest[1:]
        return Contamination(id, reference.id, reference.benchmark, "request", round(alike, 4), common)

    def _stretch(self, words: Sequence[Sequence[str]], runs_of_part: frozenset[tuple[str, ...]]) -> Sequence[str]:
        """Return the longest sequence of consecutive words of a problem whose n-grams are all in a part."""
        n = self.thresholds.words
        longest: Sequence[str] = ()
        for part in words:
            start = 0
            for place, run in enumerate(runs(part, n)):
                if run not in runs_of_part:
                    start = place + 1
                elif place + n - start > len(longest):
                    longest = part[start : place + n]
        return longest


def contaminated(problems: Iterable[Problem], detector: Detector) -> list[Contamination]:
    """Check the instruction and solution of all problems, and return the contaminated ones in order."""
    found = (
        detector.check(problem.id, (problem.instruction, problem.solution or ""), problem.entry_point or "")
        for problem in problems
    )
    return [item for item in found if item is not None]
