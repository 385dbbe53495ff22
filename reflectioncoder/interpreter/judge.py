"""The outside judge: a program only returns values, and expected values never enter its process.

A program can fool asserts that run in its own process: with an object whose `__eq__` is always true, a patched `abs`,
or native code that forges the result. Here the program's process receives arguments and sends back what its function
returned, in a restricted encoding (`sandbox/values.py`), and the parent process compares. The worst that a hostile
program can do is return a wrong value. Reflection rounds keep their asserts in the program's process, because there the
model writes both.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.exchange import OwnCode
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits, Outcome
from reflectioncoder.sandbox import values


@dataclass(frozen=True)
class Example:
    """One call of the function, and what it must return.

    Args:
        arguments: positional arguments, plain data. Each call gets its own copy.
        expected: the expected value, plain data; ignored if `raises` is given.
        keywords: keyword arguments.
        raises: name of the exception type that the call must raise, if any.
    """

    arguments: tuple[Any, ...]
    expected: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    raises: str | None = None


@dataclass(frozen=True)
class Judgement:
    """The verdict on one example.

    Args:
        passed: whether the call stayed within its limits and returned (or raised) what was expected.
        outcome: `wrong` if the returned value is not the expected one, otherwise the interpreter's outcome.
            `infrastructure` means that the verdict is unknown; it is never a failure of the program.
        value: the returned value, with an `Opaque` for whatever is not plain data.
        detail: the exception or the exceeded limit; empty if there was none.
        seconds: wall-clock time of the call.
    """

    passed: bool
    outcome: Outcome | str
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


# The returned value is the last line of the cell's output, after a marker word that is random for each call. A program
# may find the word and write another value after it; this only amounts to returning a wrong value.
_CALL = "caller.answer(program, {function!r}, {arguments!r}, {word!r})"
# Characters allowed for an encoded value, besides ten times the size of the expected one. Values are decoded in this
# process, where no time limit applies, and integers chosen to collide in a set take quadratic time to decode: half a
# second at this size.
VALUE_CHARS = 250_000


def judge(
    program: str | Sequence[str],
    entry_point: str,
    examples: Sequence[Example],
    interpreter: Interpreter,
    limits: Limits | None = None,
    tolerance: float = 0.0,
) -> list[Judgement]:
    """Call a program's function on each example, and compare the values outside its process.

    Args:
        program: source code, as one cell or several. It runs once; the calls follow in the same session.
        entry_point: name of the function, or a dotted expression such as `Solution().solve`.
        examples: the calls; their expected values never enter the program's process.
        interpreter: an open interpreter.
        limits: limits of the program's own run and of each call.
        tolerance: relative and absolute tolerance of floating-point numbers; 0 compares exactly.

    Returns:
        one judgement per example. If the program itself fails, all of them report that. After a call that exceeded a
        limit, the remaining calls run in a fresh session.

    Raises:
        UserError: the entry point is not a name, or an example is not plain data.
    """
    if not all(part.rstrip("()").isidentifier() for part in entry_point.split(".")):
        raise UserError(f"entry point {entry_point!r}: not the name of a function")
    cells = [program] if isinstance(program, str) else list(program)
    limits = limits or interpreter.limits
    sent = [_sent(example, number) for number, example in enumerate(examples)]
    judgements: list[Judgement] = []
    while len(judgements) < len(examples):
        with interpreter.session(limits, module=True) as session:
            start = session.run_together(cells)
            if not start.ok:
                failed = Judgement(False, start.outcome, detail=start.error)
                return judgements + [failed] * (len(examples) - len(judgements))
            for example, arguments in list(zip(examples, sent, strict=True))[len(judgements) :]:
                word = secrets.token_hex(8)
                call = OwnCode(_CALL.format(function=entry_point, arguments=arguments, word=word))
                chars = limits.output_chars + VALUE_CHARS + 10 * len(values.encode_value(example.expected))
                result = session.run(call, dataclasses.replace(limits, output_chars=chars))
                judgements.append(_judged(result, word, example, tolerance))
                if session.ended:
                    break
    return judgements


def _sent(example: Example, number: int) -> str:
    plain = (list(example.arguments), dict(example.keywords))
    text = values.encode_value(plain)
    for name, value in (("arguments", plain), ("expected", example.expected)):
        if not values.same(values.decode_value(values.encode_value(value)), value):
            raise UserError(f"example {number}: {name} must be plain data (numbers, text, bytes, built-in containers)")
    return text


def _judged(result: CellResult, word: str, example: Example, tolerance: float) -> Judgement:
    if not result.ok:
        return Judgement(False, result.outcome, detail=result.error, seconds=result.seconds)
    try:
        how, what = json.loads(result.text.rpartition(f"\n{word}")[2])
        value = values.decode_value(what) if how == "value" else None
    except (ValueError, TypeError, RecursionError, MemoryError):
        return Judgement(False, "wrong", detail="no value came back", seconds=result.seconds)
    if how != "value":
        passed = example.raises is not None and what == example.raises
        return Judgement(passed, "ok" if passed else "error", None, f"raised {str(what)[:200]}", result.seconds)
    passed = example.raises is None and values.same(value, example.expected, tolerance)
    return Judgement(passed, "ok" if passed else "wrong", value, "", result.seconds)
