"""When a returned value counts as right for HumanEval(+) and MBPP(+): evalplus 0.3.1's rules, one by one.

Values are compared by `==`, and where the expected value is a float, or the problem has a tolerance, also within it. A
few problems have answers that are not unique, or references that are one reading of an unclear task; their rules are
below. In evalplus all this happens in the candidate's own process; here only the records of its values come in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from reflectioncoder.interpreter.calls import Mode, Record, bounded, decoded, same_record

RELATIVE = 1e-7  # beside the absolute tolerance
MOST_ITEMS = 10_000_000  # of what numpy makes of two arrays; an odd shape would make it far larger than both
FLOATS = 1e-6  # absolute tolerance from the first expected float on, where the problem has none

# MBPP functions whose answers are compared as sets, and those of which it is only asked whether they return anything
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
    """What is asked of a function's values."""
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
    """Index of the first value that is not right, or None.

    Args:
        dataset: "humaneval" or "mbpp".
        entry_point: name of the function, by which the special rules go.
        inputs: arguments of the calls.
        given: records of what the candidate returned; may be fewer than the inputs.
        expected: records of what the reference returned, in the same mode.
        atol: the problem's tolerance.
    """
    mode = mode_of(dataset, entry_point)
    for place, (record, wanted) in enumerate(zip(given, expected, strict=False)):
        record = bounded(record, wanted)
        if dataset == "humaneval" and entry_point == "find_zero":  # any root will do
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
            atol = FLOATS  # for the calls that follow, too
        if not exact and (atol == 0 or not _close(value, target, atol)):
            return place
    return None


def _number(record: Record) -> Any:
    """The number of a record. Raises TypeError where it is none."""
    value = decoded(record)[1]
    if not isinstance(value, (int, float, complex)):
        raise TypeError("not a number")
    return value


def _is_root(record: Record, coefficients: Sequence[float], atol: float) -> bool:
    """HumanEval/32: whether the polynomial of these coefficients, constant first, is zero there."""
    try:
        x = _number(record)
        return abs(sum(factor * math.pow(x, power) for power, factor in enumerate(coefficients))) <= atol
    except (TypeError, ValueError, OverflowError):
        return False


def _excused(entry_point: str, record: Record, arguments: Sequence[Any], atol: float) -> bool:
    """Whether a value that is not the reference's is right all the same, by another reading of the task."""
    try:
        if entry_point == "are_equivalent":  # Mbpp/164: its reference is wrong, so anything goes
            return True
        if entry_point == "sum_div":  # Mbpp/295: proper divisors, or none of a prime
            return bool(_number(record) == 0)
        if entry_point == "surface_Area":  # Mbpp/581: the height is that of the pyramid, not of its sides
            edge, height = arguments
            side = math.hypot(edge / 2, height)
            return bool(abs(_number(record) - round(edge**2 + 2 * edge * side)) <= atol)
        if entry_point == "digit_distance_nums":  # Mbpp/558: numbers of unequal length filled up with zeros
            first, second = (str(number) for number in arguments)
            width = max(len(first), len(second))
            pairs = zip(first.zfill(width), second.zfill(width), strict=True)
            return bool(_number(record) == sum(abs(int(a) - int(b)) for a, b in pairs))
    except (TypeError, ValueError, OverflowError):
        pass
    return False


def _is_floats(record: Record) -> bool:
    """Whether an expected value is a float, or a list or tuple of nothing else."""
    if type(record) is float:
        return True
    if type(record) is not list:
        return False
    value = decoded(record)[1]
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, float) for item in value)


def _close(record: Record, wanted: Record, atol: float) -> bool:
    """Whether two values of one type are numbers, or arrays of them, within the tolerances."""
    try:
        (kind, value), (wanted_kind, target) = decoded(record), decoded(wanted)
        if kind != wanted_kind or (isinstance(target, (list, tuple)) and len(value) != len(target)):
            return False
        import numpy

        if not (_all_numbers(value) and _all_numbers(target)):  # numpy refuses too, with its arrays of texts made
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
    """Whether a value is a number, or lists and tuples of nothing else."""
    if isinstance(value, (list, tuple)):
        return all(map(_all_numbers, value))
    return isinstance(value, (int, float, complex))
