"""Closes the few doors through which Python code could reach what `session.py` keeps out of its sight.

A frame's evaluation stack can be read only with the garbage collector's help, and a running function be steered only by
a trace or profile function or a monitoring callback, which may set its locals and jump in it. All of them raise audit
events, and a hook, which Python code can neither remove nor reach, refuses them. `gc.get_referents` shows what an
object refers to; only frames, and what carries one inside, refer to a stack, so it is refused for those alone (pandas
asks it about a data frame whenever one is changed). What this does not protect against: native code (`ctypes`, a
crafted extension) and bytecode made by hand (`code.replace`) can read and write all memory.
"""

import sys
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

CLOSED = frozenset(
    {
        "gc.get_objects", "gc.get_referrers",
        "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback",
    }
)  # fmt: skip


def close_doors() -> None:
    """Refuse, for the rest of this process: the collector's views of objects, and whatever watches code run.

    `sys.settrace(None)` and `sys.setprofile(None)` go on working, because doctest and others reset them; as nothing
    can have been set, they do nothing.
    """
    closed, kind = CLOSED, type  # builtins can be patched, closures cannot
    frame, generator, coroutine, asynchronous = FrameType, GeneratorType, CoroutineType, AsyncGeneratorType

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "gc.get_referents":
            for one in arguments[0]:
                its = kind(one)
                if its is frame or its is generator or its is coroutine or its is asynchronous:
                    raise RuntimeError(f"{event} is not available for frames in this interpreter")
        elif event in closed:
            raise RuntimeError(f"{event} is not available in this interpreter")

    vars(sys).update(settrace=_reset_only("settrace"), setprofile=_reset_only("setprofile"))
    sys.addaudithook(refuse)


def _reset_only(name: str) -> Callable[[Any], None]:
    def setter(function: Any) -> None:
        if function is not None:
            raise RuntimeError(f"sys.{name} is not available in this interpreter")

    setter.__name__ = setter.__qualname__ = name
    return setter
