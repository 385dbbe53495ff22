"""A comparison that values cannot fool, for tests that run in the program's process.

A value that equals random values it cannot know is rejected, unless its exact type is built in, which a class cannot
imitate. Containers are searched, because comparing lists compares their items. Types are compared by identity, and
containers are read by the methods of the built-in type, because a class may redefine both.
"""

from collections.abc import Callable
from typing import Any

_PLAIN = (int, float, complex, bool, str, bytes, bytearray, range, type(None))
_DEEPEST = 20


def guarded(number: int) -> Callable[[Any, Any], bool]:
    """Return a function that compares as `==`, and is false if a value on either side equals everything.

    Args:
        number: a random number that the program does not know.
    """
    text = str(number)
    strange = (object(), float("nan"), number, text, [number], (number,), {number}, {number: number})
    containers = (list, tuple, set, frozenset)

    def equals(value: Any, other: Any) -> bool:
        try:
            return bool(value == other)
        except Exception:
            return False

    def honest(value: Any, depth: int = 0) -> bool:
        kind = type(value)
        if depth > _DEEPEST or any(kind is one for one in _PLAIN):
            return True
        own: Any = next((one for one in (*containers, dict) if issubclass(kind, one)), None)
        if kind is not own and any(equals(value, other) for other in strange):
            return False
        if own is dict:
            return all(honest(k, depth + 1) and honest(v, depth + 1) for k, v in dict.items(value))
        return own is None or all(honest(item, depth + 1) for item in own.__iter__(value))

    def same(left: Any, right: Any) -> Any:
        return left == right and honest(left) and honest(right)

    return same
