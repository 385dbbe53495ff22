"""A restricted encoding for values that leave a program: plain data only, so that reading it runs nobody's code.

The same file is read by the judge and sent, as text, into the program's process; it uses the standard library only. Of
anything but plain data (numbers, text, bytes, the built-in containers) only the type's name leaves, and on this side it
becomes an `Opaque`, which equals nothing else.
"""

import json
import math
from typing import Any

DEEPEST = 60  # levels of containers; deeper values, and those that contain themselves, are opaque


class Opaque:
    """A value that was not plain data; only its type's name is known, and it equals nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode_value(value: Any) -> str:
    """Plain data as JSON text.

    Args:
        value: anything; subclasses of plain types count as opaque, because they may compare as they like. numpy's
            scalars and arrays leave as the numbers and lists they hold, marked as such.
    """
    return json.dumps(_tagged(value, DEEPEST))


def decode_value(text: str) -> Any:
    """What `encode_value` was given, or `Opaque` parts. Raises ValueError where the text is not of this encoding."""
    try:
        return _value(json.loads(text), DEEPEST + 1)
    except (KeyError, IndexError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not an encoded value: {error}") from None


def _tagged(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value if kind is not str else ["s", value.encode("utf-8", "surrogatepass").hex()]
    if kind is int:
        return ["i", hex(value)]  # decimal digits are limited in number
    if kind is float:
        return ["f", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind is bytes or kind is bytearray:
        return ["b", bytes(value).hex(), kind.__name__]
    if depth <= 0:
        return ["o", kind.__name__]
    if kind in (list, tuple, set, frozenset):
        return ["l", kind.__name__, [_tagged(item, depth - 1) for item in value]]
    if kind is dict:
        return ["d", [[_tagged(key, depth - 1), _tagged(item, depth - 1)] for key, item in value.items()]]
    if kind.__module__ == "numpy":
        if hasattr(value, "tolist") and kind.__name__ in ("ndarray", "matrix"):
            return ["n", _tagged(value.tolist(), depth - 1)]
        if hasattr(value, "item"):
            return _tagged(value.item(), depth - 1)
    return ["o", str(kind.__name__)[:100]]


def _value(tagged: Any, depth: int) -> Any:
    if depth <= 0:
        raise ValueError("nested too deeply")
    if tagged is None or isinstance(tagged, bool):
        return tagged
    tag = tagged[0]
    if tag == "s":
        return bytes.fromhex(tagged[1]).decode("utf-8", "surrogatepass")
    if tag == "i":
        return int(tagged[1], 16)
    if tag == "f":
        return float.fromhex(tagged[1])
    if tag == "c":
        return complex(float.fromhex(tagged[1]), float.fromhex(tagged[2]))
    if tag == "b":
        return {"bytes": bytes, "bytearray": bytearray}[tagged[2]](bytes.fromhex(tagged[1]))
    if tag == "l":
        make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tagged[1]]
        return make(_value(item, depth - 1) for item in tagged[2])
    if tag == "d":
        return {_value(key, depth - 1): _value(item, depth - 1) for key, item in tagged[1]}
    if tag == "n":
        return _value(tagged[1], depth - 1)
    if tag == "o":
        return Opaque(str(tagged[1]))
    raise ValueError(f"unknown tag {tag!r}")


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two plain values are equal: numbers within the tolerance, sets and dicts in any order.

    Args:
        left, right: plain values.
        tolerance: of floating-point numbers, relative and absolute as in `math.isclose`; 0 compares exactly.

    Returns:
        as Python's `==`, so `1 == 1.0 == True` and a list is no tuple; but two NaNs at the same place are equal.
    """
    numbers = (int, float, complex)
    if isinstance(left, numbers) and isinstance(right, numbers):
        if left == right or (left != left and right != right):
            return True
        if tolerance <= 0 or not any(isinstance(value, (float, complex)) for value in (left, right)):
            return False
        try:
            parts = [(complex(left).real, complex(right).real), (complex(left).imag, complex(right).imag)]
        except OverflowError:
            return False
        return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in parts)
    if type(left) is not type(right):
        both_sets = isinstance(left, (set, frozenset)) and isinstance(right, (set, frozenset))
        return both_sets and _same_sets(left, right, tolerance)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right, strict=True))
    if isinstance(left, (set, frozenset)):
        return _same_sets(left, right, tolerance)
    if isinstance(left, dict):
        if len(left) != len(right):
            return False
        if all(key in right for key in left):
            return all(same(item, right[key], tolerance) for key, item in left.items())
        return _same_sets(list(left.items()), list(right.items()), tolerance)
    return left == right


def _same_sets(left: Any, right: Any, tolerance: float) -> bool:
    """Members pair up one to one; with a tolerance the first partner is taken, which is right for values far apart."""
    if len(left) != len(right):
        return False
    if tolerance <= 0 and isinstance(left, (set, frozenset)):
        return left == right
    rest = list(right)
    for item in left:
        partner = next((place for place, other in enumerate(rest) if same(item, other, tolerance)), None)
        if partner is None:
            return False
        del rest[partner]
    return True
