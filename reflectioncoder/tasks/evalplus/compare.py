"""Comparison of returned values for HumanEval(+) and MBPP(+), by the rules of evalplus 0.3.1.

Values are compared by `==`. If the expected value is a float, or the problem has a tolerance, values within the
tolerance are also accepted. A few problems have special rules, because their answers are not unique or their references
follow one reading of an unclear task. evalplus compares in the candidate's process; this module only receives records
of the returned values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Number
from typing import Any

from reflectioncoder.interpreter.calls import Mode, Record, bounded, decoded, same_record

RELATIVE = 1e-7  # relative tolerance, besides the absolute one
MOST_ITEMS = 10_000_000  # limit on the broadcast of two arrays, which can be far larger than both
FLOATS = 1e-6  # absolute tolerance from the first expected float on, if the problem has none

# MBPP functions whose values are compared as sets, and those for which only the presence of a value is compared
AS_SETS = {
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
}
PRESENCE = {"check_str", "text_match_three", "text_starta_endb"}


def mode_of(dataset: str, entry_point: str) -> Mode:
    """Return what is compared of a function's values; see `caller.serve`."""
    if dataset == "mbpp" and entry_point in AS_SETS:
        return "set"
    return "presence" if dataset == "mbpp" and entry_point in PRESENCE else "value"


def first_wrong(
    dataset: str,
    entry_point: str,
    inputs: Sequence[Sequence[Any]],
    given: Sequence[Record],
    expected: Sequence[Record],
    atol: float,
) -> int | None:
    """Find the first wrong value.

    Args:
        dataset: "humaneval" or "mbpp".
        entry_point: name of the function, which selects the special rules.
        inputs: arguments of the calls.
        given: records of the candidate's values; there may be fewer than inputs.
        expected: records of the reference's values, in the same mode.
        atol: absolute tolerance of the problem; 0 compares exactly until the first expected float.

    Returns:
        index of the first wrong value, or None.
    """
    mode = mode_of(dataset, entry_point)
    for place, (record, wanted) in enumerate(zip(given, expected, strict=False)):
        record = bounded(record, wanted)
        if dataset == "humaneval" and entry_point == "find_zero":  # any root is accepted
            if not _is_root(record, inputs[place][0], atol):
                return place
            continue
        value, target = record, wanted
        if mode == "set":
            if type(record) is not list or record[:1] != ["s"] or len(record) != 3:
                return place
            exact = same_record(record[1], wanted[1])
            value, target = record[2], wanted[2]
        elif mode == "presence":
            present = wanted is not None
            value, target = record if type(record) is bool else record is not None, present
            exact = value == target
        else:
            exact = same_record(record, wanted)
        if dataset == "mbpp" and not exact:
            exact = _excused(entry_point, record, inputs[place], atol)
        if atol == 0 and _is_floats(target):
            atol = FLOATS  # for the remaining calls as well
        if not exact and (atol == 0 or not _close(value, target, atol)):
            return place
    return None


def _number(record: Record) -> Any:
    """Decode a record as a number. Raises TypeError if it is not one."""
    value = decoded(record)[1]
    if not isinstance(value, Number):
        raise TypeError("not a number")
    return value


def _is_root(record: Record, coefficients: Sequence[float], atol: float) -> bool:
    """HumanEval/32: whether the value is a root of the polynomial with these coefficients, constant first."""
    try:
        x = _number(record)
        return abs(sum(factor * math.pow(x, power) for power, factor in enumerate(coefficients))) <= atol
    except (TypeError, ValueError, ArithmeticError):
        return False


def _excused(entry_point: str, record: Record, arguments: Sequence[Any], atol: float) -> bool:
    """Whether a value that differs from the reference's is accepted by a special rule."""
    try:
        if entry_point == "are_equivalent":  # Mbpp/164: its reference is wrong, so any value is accepted
            return True
        if entry_point == "sum_div":  # Mbpp/295: 0 is also accepted, as if a prime had no proper divisors
            return bool(_number(record) == 0)
        if entry_point == "surface_Area":  # Mbpp/581: the height of the pyramid, not the slant height
            edge, height = arguments
            side = math.hypot(edge / 2, height)
            return bool(abs(_number(record) - round(edge**2 + 2 * edge * side)) <= atol)
        if entry_point == "digit_distance_nums":  # Mbpp/558: the shorter number is padded with zeros
            first, second = (str(number) for number in arguments)
            width = max(len(first), len(second))
            pairs = zip(first.zfill(width), second.zfill(width), strict=True)
            return bool(_number(record) == sum(abs(int(a) - int(b)) for a, b in pairs))
    except (TypeError, ValueError, ArithmeticError):
        pass
    return False


def _is_floats(record: Record) -> bool:
    """Whether an expected value is a float, or a non-empty list or tuple of floats."""
    if type(record) is float:
        return True
    if type(record) is not list:
        return False
    value = decoded(record)[1]
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, float) for item in value)


def _close(record: Record, wanted: Record, atol: float) -> bool:
    """Whether two values have the same type and are numbers, or arrays of numbers, within the tolerances."""
    try:
        (kind, value), (wanted_kind, target) = decoded(record), decoded(wanted)
        if kind != wanted_kind or (isinstance(target, (list, tuple)) and len(value) != len(target)):
            return False
        import numpy

        if not (_all_numbers(value) and _all_numbers(target)):  # before numpy makes huge arrays of strings
            return False
        value, target = numpy.asarray(value), numpy.asarray(target)
        if math.prod(numpy.broadcast_shapes(value.shape, target.shape)) > MOST_ITEMS:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(numpy.allclose(value, target, rtol=RELATIVE, atol=atol))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False


def _all_numbers(value: Any) -> bool:
    """Whether a value is a number, or a list or tuple of numbers, nested to any depth."""
    if isinstance(value, (list, tuple)):
        return all(map(_all_numbers, value))
    return isinstance(value, Number) and not isinstance(value, (Fraction, Decimal))  # numpy cannot compare those
