"""A restricted encoding for the values that a program returns: plain data only, so decoding never runs foreign code.

The parent process imports this module, and so does the warm process (`own.py`), so it uses only the standard library.
Plain data are numbers, strings, bytes and the built-in containers. Any other value is encoded as the name of its type,
and decoded as an `Opaque`, which equals nothing.
"""

import json
import math
from numbers import Number
from typing import Any

DEEPEST = 60  # levels of nested containers; deeper values, and values that contain themselves, are opaque


MOST_DIGITS = 4096  # digits of a fraction or decimal; longer ones are opaque, because decoding them takes long
NARROW = ("float16", "float32", "longdouble", "complex64")  # numpy compares these in their own precision
_CONTENTS = {
    "collections.UserList": lambda value: list(value.data),
    "collections.UserDict": lambda value: dict(value.data),
    "collections.UserString": lambda value: str(value.data),
    "collections.ChainMap": dict,
    "builtins.mappingproxy": dict,
    "builtins.dict_items": set,
    "builtins.dict_keys": set,
    "builtins.memoryview": bytes,
}


class Opaque:
    """A value that was not plain data; it equals nothing, not even itself.

    Args:
        kind: name of the value's type.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode_value(value: Any) -> str:
    """Encode a value as JSON text.

    Args:
        value: any value. Instances of subclasses of plain types are opaque, because they may redefine `==`. numpy
            scalars are encoded as numbers; arrays as nested lists with a tag of their own.
    """
    return json.dumps(_tagged(value, DEEPEST))


def decode_value(text: str) -> Any:
    """Decode text from `encode_value`; parts that were not plain data become `Opaque`.

    Raises:
        ValueError: the text is not in this encoding.
    """
    try:
        return _value(json.loads(text), DEEPEST + 1)
    except (KeyError, IndexError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not an encoded value: {error}") from None


def unwrapped(value: Any, subclasses: bool = False) -> Any:
    """Return the contents of a wrapper that equals them, such as UserList; any other value as it is.

    Args:
        value: any value.
        subclasses: whether instances of subclasses are unwrapped as well.
    """
    for kind in type(value).__mro__ if subclasses else type(value).__mro__[:1]:
        contents = _CONTENTS.get(f"{kind.__module__}.{kind.__qualname__}")
        if contents is not None:
            try:
                return contents(value)
            except TypeError:  # a view of items that cannot be in a set equals no set
                return value
    return value


def _tagged(value: Any, depth: int) -> Any:
    value = unwrapped(value)
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value if kind is not str else ["s", value.encode("utf-8", "surrogatepass").hex()]
    if kind is int:
        return ["i", hex(value)]  # Python limits the length of decimal integers
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
        if kind.__name__ in NARROW:
            return ["h", kind.__name__, str(value)]
        if hasattr(value, "item"):
            return _tagged(value.item(), depth - 1)
    if kind.__module__ == "fractions" and kind.__name__ == "Fraction":
        parts = hex(value.numerator), hex(value.denominator)
        return ["q", *parts] if max(map(len, parts)) <= MOST_DIGITS else ["o", "Fraction"]
    if kind.__module__ == "decimal" and kind.__name__ == "Decimal":
        text = str(value)
        return ["m", text] if len(text) <= MOST_DIGITS else ["o", "Decimal"]
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
    if tag in ("q", "m", "h"):
        return _unusual(tagged)
    if tag == "o":
        return Opaque(str(tagged[1]))
    raise ValueError(f"unknown tag {tag!r}")


def _unusual(tagged: Any) -> Any:
    """Decode a number that is neither int, float nor complex. Raises ValueError."""
    tag, *parts = tagged
    if not all(type(part) is str and len(part) <= MOST_DIGITS for part in parts):
        raise ValueError("not an encoded number")
    try:
        if tag == "q":
            from fractions import Fraction

            return Fraction(int(parts[0], 16), int(parts[1], 16))
        if tag == "m":
            from decimal import Decimal

            return Decimal(parts[0])
        if parts[0] in NARROW:
            import numpy

            return getattr(numpy, parts[0])(parts[1])
    except (ArithmeticError, ImportError) as error:
        raise ValueError(f"not an encoded number: {error}") from None
    raise ValueError(f"unknown type {parts[0]!r}")


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two plain values are equal, numbers within a tolerance.

    Args:
        left, right: plain values.
        tolerance: relative and absolute tolerance of floating-point numbers, as in `math.isclose`; 0 compares exactly.

    Returns:
        the result of Python's `==`, so `1 == 1.0 == True`, and a list never equals a tuple. The only exception: two
        NaNs in the same position are equal.
    """
    if isinstance(left, Number) and isinstance(right, Number):
        try:
            if left == right or (left != left and right != right):
                return True
        except ArithmeticError:  # a signalling NaN
            return False
        if not (isinstance(left, (int, float, complex)) and isinstance(right, (int, float, complex))):
            return False
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
    """Pair up members in any order. With a tolerance the first match is taken, which suits values far apart."""
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
