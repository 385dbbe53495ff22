"""Makes packages callable that are named like their main function, such as `reflectioncoder.train`.

`reflectioncoder.train` is both a package and a function of the public API. Importing any module of the package binds
the package to that name, so `from reflectioncoder import train` would give one or the other, depending on earlier
imports. A callable package works the same in any order of imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that can be called: a call goes to the function of the same name in its module of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function: for `reflectioncoder.train` this is `reflectioncoder.train.train.train`."""
        from reflectioncoder.registry import refuse_in_worker

        refuse_in_worker(f"`{self._verb()}`")
        return getattr(import_module(f"{self.__name__}.{self._verb()}"), self._verb())(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)

    @property
    def __signature__(self) -> Any:
        import inspect  # imported only when needed

        return inspect.signature(getattr(import_module(f"{self.__name__}.{self._verb()}"), self._verb()))

    def _verb(self) -> str:
        return self.__name__.rpartition(".")[2]


def make_callable(name: str) -> None:
    """Make the package `name` callable; call this while the package is being imported."""
    sys.modules[name].__class__ = CallablePackage
