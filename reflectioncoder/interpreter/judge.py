"""The outside judge: a program only returns values, and what is expected of it never enters its process.

Asserts that run beside a program can be fooled by it: an object whose `__eq__` is always true, a patched `abs`, native
code that forges the result. Here the program's process gets arguments, sends back what its function returned in a
restricted encoding (`sandbox/values.py`), and the comparison happens on this side. So the most a hostile program can do
is to return a wrong value. Reflection rounds keep their asserts in the process, because there the model writes both.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits, Outcome
from reflectioncoder.sandbox import values


@dataclass(frozen=True)
class Example:
    """One call and what it must return.

    Args:
        arguments: of the call, plain data; anew for every call, so that a program that changes them changes its own.
        expected: the value, plain data; not used where `raises` is given.
        keywords: keyword arguments of the call.
        raises: name of the exception's type that the call must raise.
    """

    arguments: tuple[Any, ...]
    expected: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    raises: str | None = None


@dataclass(frozen=True)
class Judgement:
    """What one example showed.

    Args:
        passed: the call ended well within its limits and returned (or raised) what was expected.
        outcome: `wrong` where a value came back that is not the expected one, else the interpreter's outcome;
            `infrastructure` says that nothing is known, and is never the program's failure.
        value: what was returned; an `Opaque` stands for what is not plain data.
        detail: the exception or the broken limit, empty where there was none.
        seconds: of the call.
    """

    passed: bool
    outcome: Outcome | str
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


# The call's value leaves as the last line of the cell's output, behind a word that is new for every call. A program may
# find the word and write another value behind it: it has then returned a wrong value, no more.
_CODEC = """\
import json as {name}_json, os as {name}_os, types as {name}_types
{name} = {name}_types.ModuleType({name!r})
exec({source!r}, {name}.__dict__)
"""
_CALL = """\
def {name}_answer():
    arguments, keywords = {name}.decode_value({arguments!r})
    try:
        return ["value", {name}.encode_value({function}(*arguments, **keywords))]
    except Exception as error:
        return ["raised", type(error).__name__]
_ = {name}_os.write(1, ("\\n{word}" + {name}_json.dumps({name}_answer())).encode())
"""
# Of an encoded value beyond ten times the expected one's size. Reading is on this side, outside every limit, and
# integers can be made to collide in a set, so that reading takes quadratic time: half a second at this size.
VALUE_CHARS = 250_000


def judge(
    program: str | Sequence[str],
    entry_point: str,
    examples: Sequence[Example],
    interpreter: Interpreter,
    limits: Limits | None = None,
    tolerance: float = 0.0,
) -> list[Judgement]:
    """Call a program's function on every example and compare outside.

    Args:
        program: its source, or several cells of it; it runs once, and the calls follow in the same session.
        entry_point: name of the function, or a dotted expression such as `Solution().solve`.
        examples: the calls; their expected values stay here.
        interpreter: an open interpreter.
        limits: of the program's own run and of each call.
        tolerance: of floating-point numbers; 0 compares exactly.

    Returns:
        one judgement an example; where the program itself does not run, all say so. After a call that broke a limit
        the rest run in a fresh session.

    Raises:
        UserError: the entry point is no name, or an example is not plain data.
    """
    if not all(part.rstrip("()").isidentifier() for part in entry_point.split(".")):
        raise UserError(f"entry point {entry_point!r}: not the name of a function")
    cells = [program] if isinstance(program, str) else list(program)
    limits = limits or interpreter.limits
    sent = [_sent(example, number) for number, example in enumerate(examples)]
    judgements: list[Judgement] = []
    while len(judgements) < len(examples):
        with interpreter.session(limits, module=True) as session:
            name = f"_{secrets.token_hex(8)}"
            codec = _CODEC.format(name=name, source=inspect.getsource(values))
            start = session.run_together([codec, *cells])
            if not start.ok:
                failed = Judgement(False, start.outcome, detail=start.error)
                return judgements + [failed] * (len(examples) - len(judgements))
            for example, arguments in list(zip(examples, sent, strict=True))[len(judgements) :]:
                word = secrets.token_hex(8)
                call = _CALL.format(name=name, word=word, arguments=arguments, function=entry_point)
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
            raise UserError(f"example {number}: its {name} are not plain data (numbers, text, bytes, containers)")
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
