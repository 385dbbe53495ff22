"""Registries: one for each kind of part that users add, such as tasks, masking strategies or samplers.

`docs/extending.md` shows an example for each kind. `NameIn` lets a setting take the names of a registry without its
module importing that registry, which lies in a wing above the settings.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from reflectioncoder.errors import UserError

T = TypeVar("T")
_places: list[str] = []  # modules and files in which entries were added; "" for a place that is neither
_in_worker = False


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name: those of the package, then those that were added in this process.

    Args:
        kind: what an entry is, for messages, such as "masking strategy".
        entries: the entries of the package, in the order in which they are listed and applied.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._built_in = frozenset(entries)

    def add(self, name: str, entry: T) -> T:
        """Add an entry of your own and return it. It is known in this process only.

        Add it at the top level of a file, outside `if __name__ == "__main__":`. The worker processes of a build load
        that file again, so that they know the entry too.

        Args:
            name: one word or more joined by underscores; an entry of your own with that name is replaced.
            entry: what the registry's module documents.

        Raises:
            UserError: the package has an entry of that name, or the name is not made of letters, digits and
                underscores.
        """
        if name in self._built_in:
            raise UserError(f"{self.kind} '{name}': the package has one of that name; choose another")
        if not name.isidentifier():
            raise UserError(f"{self.kind} '{name}': a name is made of letters, digits and underscores")
        self._entries[name] = entry
        frame = sys._getframe()
        while frame.f_back is not None and frame.f_globals["__name__"] == __name__:
            frame = frame.f_back
        spec = frame.f_globals.get("__spec__")
        _places.append(spec.name if spec else frame.f_globals.get("__file__", ""))
        return entry

    def adds(self, name: str) -> Callable[[T], T]:
        """`add` as a decorator of a function or class."""
        return lambda entry: self.add(name, entry)

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the entries that are not the package's own."""
        return tuple(name for name in self._entries if name not in self._built_in)

    def choose(self, name: str) -> T:
        """The entry of a name. Raises UserError with the nearest name, or with all names."""
        if name not in self._entries:
            near = get_close_matches(name, self._entries, 1, 0.7)
            rest = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(self._entries)}"
            raise UserError(f"{self.kind} '{name}': there is none of that name; {rest}")
        return self._entries[name]

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class NameIn:
    """Marks a setting whose choices are the names in a registry: `Annotated[str, NameIn("wing.module:REGISTRY")]`.

    Args:
        place: module below `reflectioncoder`, a colon, and the registry's name there.
        besides: choices that are not in the registry; they are listed first.
    """

    place: str
    besides: tuple[str, ...] = ()

    def choices(self) -> tuple[str, ...]:
        """All names that are allowed now. Imports the registry's module."""
        module, _, name = self.place.partition(":")
        found = getattr(importlib.import_module(f"reflectioncoder.{module}"), name)
        return (*self.besides, *found)


def added_in() -> tuple[str, ...]:
    """The modules and program files in which entries were added, for `load_added`.

    Raises:
        UserError: entries were added in a notebook or another place that another process cannot load.
    """
    if "" in _places:
        raise UserError(
            "filters or bug kinds were added in a notebook or without a file, which worker processes cannot load;"
            " put them in a file and import it"
        )
    return tuple(dict.fromkeys(_places))


def load_added(places: Sequence[str]) -> None:
    """In a worker process: load the modules and program files that add entries."""
    global _in_worker
    _in_worker = bool(places)
    for place in places:
        if place.endswith(".py"):
            runpy.run_path(place, run_name="__worker__")
        else:
            importlib.import_module(place)


def refuse_in_worker(what: str) -> None:
    """Raise UserError if a worker process is loading a program that starts `what` unasked."""
    if _in_worker:
        raise UserError(f"the program starts {what} when it is loaded; put that under `if __name__ == '__main__':`")
