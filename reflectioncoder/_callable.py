"""Packages that are named like the verb they hold, and can be called as it.

`reflectioncoder.train` is a folder and the function that the folder exists for. Importing any file of the folder binds
the folder to that name, so `from reflectioncoder import train` would give one or the other, depending on what was
imported before. The folder therefore answers calls, which is the same in any order of imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call is the call of the function in its file of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function; its arguments, result and errors are those of `PACKAGE.VERB.VERB`."""
        return getattr(import_module(f"{self.__name__}.{self._verb()}"), self._verb())(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)

    @property
    def __signature__(self) -> Any:
        import inspect  # only where somebody looks

        return inspect.signature(getattr(import_module(f"{self.__name__}.{self._verb()}"), self._verb()))

    def _verb(self) -> str:
        return self.__name__.rpartition(".")[2]


def make_callable(name: str) -> None:
    """Let the package `name`, which is being imported, be called."""
    sys.modules[name].__class__ = CallablePackage
