"""Wordings for what was wrong in an attempt, where its repair undoes none of the known kinds of bugs.

The fields of a template are `bad` and `good` (the fragment before and after the repair), `line` and `fixed` (the whole
lines) and `def` (the name of the function). A cause is a clause that its effect can follow ("..., so the result is 1
too large"). `ATTEMPTS_VERSION` must change when any wording here or in `explain.py` changes; those of
`construct/mutation` have a version of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from reflectioncoder.construct.attempts.differences import What

ATTEMPTS_VERSION = "1"

# what was repaired: (causes, repairs)
REPAIRED: Mapping[What, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "condition": (
        (
            "the condition `{bad}` does not pick the right cases",
            "`{bad}` decides wrongly, because the condition has to be `{good}`",
            "the code asks for `{bad}` where it should ask for `{good}`",
        ),
        ("test `{good}`", "replace the condition by `{good}`"),
    ),
    "loop": (
        (
            "the loop runs over `{bad}`, which are not the items it has to visit",
            "`{bad}` is not what has to be looped over",
        ),
        ("loop over `{good}`", "let the loop run over `{good}`"),
    ),
    "result": (
        (
            "`{def}` returns `{bad}`, which is not the value that is asked for",
            "the value `{bad}` that is returned is wrong",
            "`return {bad}` hands back something else than the task wants",
        ),
        ("return `{good}`", "return `{good}` instead"),
    ),
    "value": (
        (
            "`{line}` stores the wrong value",
            "the value `{bad}` in `{line}` is wrong",
        ),
        ("write `{fixed}`", "replace `{bad}` by `{good}`"),
    ),
    "argument": (
        (
            "`{bad}` is the wrong argument in `{line}`",
            "the call in `{line}` gets `{bad}` where it needs `{good}`",
        ),
        ("pass `{good}`", "replace the argument by `{good}`"),
    ),
    "index": (
        (
            "`{line}` reads the wrong place with `{bad}`",
            "the index `{bad}` in `{line}` is not the one that is needed",
        ),
        ("use the index `{good}`", "replace `{bad}` by `{good}`"),
    ),
    "expression": (
        (
            "`{bad}` in `{line}` is not right",
            "the part `{bad}` of `{line}` is wrong",
            "`{line}` has `{bad}` where `{good}` is needed",
        ),
        ("replace `{bad}` by `{good}`", "write `{good}` there: `{fixed}`"),
    ),
    "statement": (
        (
            "`{bad}` is not the step that is needed here",
            "`{bad}` does something else than the task asks for",
        ),
        ("replace it by `{good}`", "write `{good}` in its place"),
    ),
    "added": (
        (
            "the step `{good}` is missing",
            "nothing in `{def}` does `{good}`",
            "the code never does `{good}`",
        ),
        ("add `{good}`", "put in `{good}`"),
    ),
    "removed": (
        (
            "`{bad}` should not be there",
            "`{bad}` does something that nobody asked for",
        ),
        ("remove `{bad}`", "leave out `{bad}`"),
    ),
    "rewritten": (
        (
            "`{def}` goes about it in a way that cannot give the right results",
            "the approach of `{def}` does not fit the task",
            "too much of `{def}` does something else than the task asks for",
        ),
        ("write it anew", "start `{def}` again from the task's words"),
    ),
}
