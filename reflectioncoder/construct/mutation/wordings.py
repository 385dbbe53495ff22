"""Wordings for the analysis of each kind of bug: causes and repairs.

The fields of a template are `bad` and `good` (the fragment before and after the repair), `line` and `fixed` (the whole
lines), `def` (the name of the function) and the words that the kind's finder records. A cause is a clause that its
effect can follow ("..., so the result is 1 too large").
"""

from __future__ import annotations

from collections.abc import Mapping

# kind: (causes, repairs)
WORDING: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "boundary": (
        (
            "`{bad}` decides wrongly when `{left}` equals `{right}`",
            "the comparison `{bad}` puts the boundary on the wrong side: it should be `{old}`, not `{new}`",
            "the case where `{left}` is exactly `{right}` is handled the wrong way by `{bad}`",
        ),
        ("use `{good}`", "compare with `{old}` instead of `{new}`"),
    ),
    "comparison": (
        (
            "the comparison `{bad}` points the wrong way",
            "`{bad}` selects exactly the opposite side of `{right}`",
        ),
        ("turn the comparison round to `{good}`", "write `{good}`"),
    ),
    "inverted_test": (
        (
            "the test `{bad}` is the opposite of what is needed",
            "`{bad}` is true exactly when it should be false",
        ),
        ("test `{good}`", "replace `{new}` by `{old}`"),
    ),
    "operator": (
        (
            "`{bad}` uses the operator `{new}` where `{old}` is needed",
            "the calculation `{bad}` is wrong, because `{left}` and `{right}` must be combined with `{old}`",
        ),
        ("write `{good}`", "replace `{new}` by `{old}`"),
    ),
    "division": (
        (
            "`{bad}` is the wrong kind of division: `/` gives a float and `//` rounds down",
            "the expression `{bad}` divides with `{new}` although `{old}` is needed",
        ),
        ("divide with `{old}`: `{good}`", "use `{good}`"),
    ),
    "swapped_arguments": (
        (
            "the call `{bad}` passes its arguments in the wrong order",
            "`{callee}` receives `{second}` where it expects `{first}`",
        ),
        ("pass them as `{good}`", "swap the two arguments: `{good}`"),
    ),
    "swapped_operands": (
        (
            "the operands of `{bad}` are swapped",
            "`{bad}` has `{right}` and `{left}` the wrong way round",
        ),
        ("write `{good}`", "swap them to `{good}`"),
    ),
    "slice_bound": (
        (
            "the slice `{now}` does not cover the right elements",
            "`{now}` takes the wrong part of `{value}`",
        ),
        ("slice with `{was}`", "use `{was}`"),
    ),
    "index": (
        (
            "`{now}` reads the wrong position of `{value}`",
            "the index in `{now}` is not the one that is needed",
        ),
        ("read `{was}`", "use the index `{good}`: `{was}`"),
    ),
    "wrong_key": (
        ("`{value}` is asked for the key {bad}, but the key is {good}", "the key {bad} is not one that `{value}` has"),
        ("use the key {good}", "replace {bad} by {good}"),
    ),
    "misspelt_name": (
        (
            "`{bad}` is never defined; the variable is called `{good}`",
            "the name `{good}` is misspelt as `{bad}`",
        ),
        ("write `{good}`", "correct the name to `{good}`"),
    ),
    "wrong_method": (
        (
            "`{value}` has no method `{bad}`; the method is called `{good}`",
            "the method `{bad}` does not exist on `{value}`",
        ),
        ("call `.{good}` instead", "use the method `{good}`"),
    ),
    "wrong_attribute": (
        (
            "the object stores this as `self.{good}`, there is no attribute `{bad}`",
            "`self.{bad}` is a misspelling of `self.{good}`",
        ),
        ("read `self.{good}`", "correct it to `self.{good}`"),
    ),
    "missing_conversion": (
        (
            "`{inner}` is used without converting it with `{callee}()`",
            "the code needs `{good}`, but uses `{bad}` as it is, which has another type",
        ),
        ("convert it: `{good}`", "wrap it as `{good}`"),
    ),
    "missing_call": (
        (
            "`{bad}` is used directly although `{callee}()` has to be applied first",
            "`{callee}()` is missing around `{inner}`",
        ),
        ("use `{good}`", "apply `{callee}`: `{good}`"),
    ),
    "negated_condition": (
        ("the condition `{bad}` is the wrong way round", "`{bad}` holds exactly when it should not"),
        ("use the condition `{good}`", "change it to `{good}`"),
    ),
    "and_or": (
        (
            "`{bad}` joins the two conditions with `{new}` instead of `{old}`",
            "the condition `{bad}` is wrong, since `{left}` and `{right}` have to be joined by `{old}`",
        ),
        ("write `{good}`", "join them with `{old}`"),
    ),
    "min_max": (
        ("`{bad}` is called where `{good}` is needed", "the code takes the `{bad}` instead of the `{good}`"),
        ("call `{call}`", "replace `{bad}` by `{good}`"),
    ),
    "any_all": (
        ("`{bad}` is used where `{good}` is needed", "the check asks for `{bad}` of the items, not for `{good}`"),
        ("use `{good}`", "replace `{bad}` by `{good}`"),
    ),
    "range_bound": (
        (
            "`{bad}` leaves out a value at the {which}",
            "the loop over `{bad}` misses one step at the {which}",
        ),
        ("use `{good}`", "let the loop run over `{good}`"),
    ),
    "constant": (
        ("the number {bad} in `{line}` is wrong", "`{line}` uses {bad} where {good} is needed"),
        ("replace {bad} by {good}", "use {good}: `{fixed}`"),
    ),
    "truth_value": (
        ("`{line}` gives the wrong truth value", "`{bad}` is the opposite of what `{line}` should give"),
        ("change it to `{good}`", "write `{fixed}`"),
    ),
    "separator": (
        ("the string {bad} in `{line}` is not the right one", "`{line}` uses {bad} instead of {good}"),
        ("use {good}", "replace {bad} by {good}"),
    ),
    "initial_value": (
        (
            "`{name}` starts at `{bad}` and not at `{good}`",
            "the line `{line}` gives `{name}` a wrong starting value",
        ),
        ("start with `{fixed}`", "initialise `{name}` to `{good}`"),
    ),
    "missing_edge_case": (
        (
            "the case `{test}` is not handled at all",
            "nothing in `{def}` deals with the case where `{test}` holds",
        ),
        ("add `{good}` with `{does}`", "treat `{test}` separately with `{does}`"),
    ),
    "lost_return": (
        (
            "`{def}` computes `{value}` but never returns it",
            "the `return` of `{value}` is missing in `{def}`",
        ),
        ("add `return {value}`", "return the value: `return {value}`"),
    ),
    "mutable_default": (
        (
            "the default `{bad}` is created only once, so every call shares the same `{name}`",
            "`{name}` is a mutable default argument that keeps the contents of earlier calls",
        ),
        ("create it inside the function with `{good}`", "start every call with a fresh `{good}`"),
    ),
    "premature_return": (
        (
            "`{line}` stands inside the loop `{loop}`, which therefore ends after its first pass",
            "the `return` is indented into the loop, so only the first pass of `{loop}` is done",
        ),
        ("move `{good}` behind the loop", "dedent `{good}` so that the loop can finish"),
    ),
    "branch_removed": (
        (
            "the `{branch}` branch of `if {test}` is missing",
            "nothing is done in the `{branch}` case of `if {test}`",
        ),
        ("add the `{branch}` branch", "put the `{branch}` branch back in"),
    ),
    "wrong_return": (
        ("the function returns `{bad}`, but the answer is in `{good}`", "`{line}` hands back the wrong variable"),
        ("return `{good}`", "write `{fixed}`"),
    ),
    "plain_assignment": (
        (
            "`{bad}` overwrites `{name}` instead of updating it",
            "every pass throws away the earlier value of `{name}` through `{bad}`",
        ),
        ("use `{good}`", "update it with `{good}`"),
    ),
    "append_extend": (
        ("`{value}.{bad}` is the wrong way to add `{item}`", "`{item}` is put into `{value}` with `{bad}`"),
        ("use `{value}.{good}({item})`", "call `{good}` instead of `{bad}`"),
    ),
    "break_continue": (
        (
            "`{bad}` is used when `{test}`, although `{good}` is meant",
            "the loop does a `{bad}` where it should `{good}`",
        ),
        ("use `{good}`", "replace `{bad}` by `{good}`"),
    ),
    "missing_step": (
        ("the step `{good}` is missing", "the code never does `{good}`"),
        ("add `{good}`", "put `{good}` in"),
    ),
    "reset_in_loop": (
        (
            "`{bad}` is inside the loop `{loop}`, so `{name}` is reset in every pass",
            "`{name}` loses its value in each pass because `{bad}` stands in the loop",
        ),
        ("move `{good}` in front of the loop", "set `{name}` once, before the loop"),
    ),
    "wrong_variable": (
        ("`{line}` uses `{bad}` where `{good}` is meant", "the variable `{bad}` in `{line}` is the wrong one"),
        ("use `{good}`: `{fixed}`", "replace `{bad}` by `{good}`"),
    ),
    "sort_order": (
        ("`{bad}` sorts in {bad_way} order", "the order of `{bad}` is {bad_way}, not {good_way}"),
        ("sort in {good_way} order with `{good}`", "use `{good}`"),
    ),
    "missing_sort_key": (
        ("`{bad}` compares the items without the key", "the argument `{key}` is missing in `{bad}`"),
        ("use `{good}`", "pass `{key}`"),
    ),
    "missing_normalisation": (
        ("`{bad}` is used without `{call}`", "the call `{call}` is missing after `{bad}`"),
        ("use `{good}`", "add `{call}`: `{good}`"),
    ),
    "missing_default": (
        (
            "`{bad}` fails for a key that `{value}` does not have yet",
            "the lookup `{bad}` has no default for a missing key",
        ),
        ("use `{good}`", "fall back to `{default}` with `{good}`"),
    ),
    "missing_items": (
        (
            "looping over `{bad}` does not give the pairs that `{target}` needs",
            "`{bad}` yields single values, which cannot be unpacked into `{target}`",
        ),
        ("loop over `{good}`", "use `{good}`"),
    ),
    "in_place_result": (
        (
            "`{bad}` sorts in place and returns `None`",
            "the result of `{bad}` is `None`, because `sort` changes `{name}` itself",
        ),
        ("use `{good}`", "replace it by `{good}`"),
    ),
    "missing_filter": (
        ("the condition `{test}` is not checked", "items are taken without checking `{test}`"),
        ("add `{good}`", "keep only the items for which `{test}` holds"),
    ),
}
