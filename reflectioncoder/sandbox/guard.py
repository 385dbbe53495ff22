"""An audit hook that keeps Python code away from the secrets of `session.py`.

Python code can read a frame's evaluation stack only through the garbage collector. It can control a running function
only through a trace function, a profile function or a monitoring callback, which may set local variables and jump. All
of these raise audit events. The hook refuses them, and Python code can neither remove nor reach the hook.
`gc.get_referents` lists what an object refers to. Only frames, and objects that hold a frame, refer to a stack, so it
is refused for those alone (pandas calls it whenever a data frame is changed). Not protected against: native code
(`ctypes`, a crafted extension) and handmade bytecode (`code.replace`) can read and write all memory of the process.
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
    """Install the audit hook for the lifetime of this process.

    `sys.settrace(None)` and `sys.setprofile(None)` stay allowed, because doctest and others call them. They have no
    effect, as no function can have been set.
    """
    closed, kind = CLOSED, type  # a program can patch builtins but not closures
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
