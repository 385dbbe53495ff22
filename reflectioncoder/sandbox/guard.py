"""Closes the few doors through which Python code could reach what `session.py` keeps out of its sight.

A frame's evaluation stack can be read only with the garbage collector's help, and a running function's locals be set
only by a trace function. Both raise audit events, and a hook, which Python code can neither remove nor reach, refuses
them. What this does not protect against: native code (`ctypes`, a crafted extension) can read and write all memory.
"""

import sys
from types import CodeType, FrameType
from typing import Any

CLOSED = frozenset({"gc.get_objects", "gc.get_referrers", "gc.get_referents"})


def close_doors() -> None:
    """Refuse, for the rest of this process: the collector's views of objects, and trace functions.

    `sys.settrace(None)` goes on working, because doctest and others reset it.
    """
    original, look, closed = sys.settrace, sys._getframe, CLOSED

    def settrace(function: Any) -> None:
        """Set the global debug tracing function. In this interpreter only None is possible."""
        if function is not None:
            raise RuntimeError("sys.settrace is not available in this interpreter")
        original(None)

    allowed: CodeType = settrace.__code__
    frame_of: Any = FrameType.f_code.__get__  # type: ignore[attr-defined]

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in closed or (event == "sys.settrace" and frame_of(look(1)) is not allowed):
            raise RuntimeError(f"{event} is not available in this interpreter")

    sys.settrace = settrace
    sys.addaudithook(refuse)
