"""Finds the same request in other words, by a comparison of keywords that are weighted by their rarity in benchmarks.

"Calculate the Surface Area of a Cuboid" is the same request as MBPP's "Write a function to find the surface area of a
cuboid.", but they share no long sequence of words. Here a request is reduced to the keywords of its first sentence, if
that sentence asks for something: words that any request may have (`COMMON_WORDS`) are removed, and the others are put
into a common form. Two requests are compared by the weight of the heaviest common subsequence of their keywords, so
"octal to decimal" is not "decimal to octal". Synonyms, requests told as a story, and requests with a single keyword
("is it prime?") are not detected.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

COMMON_WORDS = frozenset(
    """a an and any are as at be by can could do does each every for from given gives has have how if in into is it its
    me of on one or so such that the their them then there these this to us using use used via was we were when where
    which while will with would you your whether not write create implement develop construct design build make define
    provide generate program code script method function procedure algorithm python java javascript cpp rust go php
    ruby bash shell language please help take takes taking accept accepts receive receives input inputs output outputs
    return returns returning print prints get gets calculate calculates compute computes computing find finds finding
    determine determines check checks checking show shows display called name named should must need want like
    following value values variable argument arguments parameter parameters param integer integers int str string
    strings float number numbers list lists array arrays arr lst element elements item items num nums true false
    boolean otherwise none null def self result example examples""".split()
)
FORMS = {"maximum": "max", "largest": "max", "biggest": "max", "greatest": "max", "minimum": "min", "smallest": "min",
         "repeating": "repeated", "sorted": "sort", "sorting": "sort", "sorts": "sort"}  # fmt: skip
SENTENCE = re.compile(r"(?<=[.?!])\s+|\n+|>>>")
REQUEST_WORD = re.compile(r"[a-z]{2,}|\d{2,}")
CODE = re.compile(r"^[^\w\n]*(?:def|class|import|from|func|public|private|static|using)\b.*$", re.MULTILINE)
ASKS = re.compile(
    r"\b(?:write|create|implement|develop|construct|design|build|make|generate|provide|finds?|returns?|checks?|"
    r"calculates?|computes?|determines?|converts?|counts?|removes?|reverses?|sorts?|replaces?|get|how)\b",
    re.IGNORECASE,
)
LEAST = 2  # keywords; with one, all requests about palindromes would be the same


def asked(text: str) -> tuple[str, ...]:
    """Return the keywords of a request, in order.

    They come from the first sentence that has at least `LEAST` of them. If that sentence asks for nothing, as in a
    request that begins with a story, the result is empty, because single sentences of a story mean little. Lines of
    code are ignored.
    """
    for sentence in SENTENCE.split(CODE.sub("\n", text).replace("_", " ")):
        words = tuple(_form(word) for word in REQUEST_WORD.findall(sentence.lower()) if word not in COMMON_WORDS)
        if len(words) >= LEAST:
            return words if ASKS.search(sentence) else ()
    return ()


def _form(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return FORMS.get(word, word[:-1] if plural else word)


class Requests:
    """Compares problems with the requests of benchmarks.

    Args:
        texts: the prompts of the benchmarks. Prompts that do not begin with the request, or whose keywords have too
            little weight, never match.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        forms = [asked(text) for text in texts]
        families = Counter(word for form in set(forms) for word in set(form))
        self._count = len(set(forms) - {()})
        self._weights = {word: math.log((self._count + 2) / (1 + number)) for word, number in families.items()}
        self._forms: dict[tuple[str, ...], int] = {}
        for place, form in enumerate(forms):
            if self._weight(form) >= math.log(self._count + 2):  # the full weight of a word that no benchmark has
                self._forms.setdefault(form, place)
        self._index: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for form in self._forms:
            for word in set(form):
                self._index[word].append(form)

    def _weight(self, words: Sequence[str]) -> float:
        # a word that no benchmark has may be a detail or change the request, so it gets a part of the full weight
        return sum(self._weights.get(word, 0.75 * math.log(self._count + 2)) for word in words)

    def closest(self, text: str, least: float) -> tuple[int, float, str] | None:
        """Find the prompt with the most similar request.

        Args:
            text: a request.
            least: share of the keywords' weight, 0 to 1, that both must have in common.

        Returns:
            the prompt's index, the share and the common keywords; None if no prompt reaches that share.
        """
        words, best = asked(text), None
        own, among = self._weight(words), frozenset(words)
        shared = set[tuple[str, ...]]()
        for word in among:
            shared.update(self._index.get(word, ()))
        for form in sorted(shared):
            both = own + self._weight(form)
            if 2 * self._weight([word for word in form if word in among]) < least * both:
                continue
            common = self._common(words, form)
            share = 2 * self._weight(common) / both
            if share >= least and (best is None or share > best[1]):
                best = self._forms[form], share, " ".join(common)
        return best

    def _common(self, first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
        """Return the common subsequence with the largest weight."""
        row: list[tuple[float, tuple[str, ...]]] = [(0.0, ())] * (len(second) + 1)
        for word in first:
            above = row[0]
            for place, other in enumerate(second, 1):
                best = max(row[place], row[place - 1])
                if word == other:
                    best = max(best, (above[0] + self._weight([word]), (*above[1], word)))
                above, row[place] = row[place], best
        return row[-1][1]
