"""What `import` finds in the warm process and its sessions: the standard library and named packages."""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_OF_PYTHON = ("_frozen_importlib", "_frozen_importlib_external", "zipimport")


class NamedPackages:
    """Finds named packages only, where a private root cannot hide the others. Programs can look for them by path.

    Args:
        packages: directories of packages, and the names in them that programs may import.
    """

    def __init__(self, packages: dict[str, list[str]]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a top-level module; see `importlib.abc.MetaPathFinder`."""
        if path is not None:
            return None
        folders = [folder for folder, names in self._packages.items() if name in {n.partition(".")[0] for n in names}]
        return PathFinder.find_spec(name, folders, target) if folders else None

    def find_distributions(self, context: Any = None) -> Any:
        """Find the metadata of packages, which some read when they are imported."""
        from importlib.metadata import DistributionFinder, MetadataPathFinder

        name = getattr(context, "name", None)
        return MetadataPathFinder.find_distributions(DistributionFinder.Context(name=name, path=[*self._packages]))


def find_only(folders: list[str], packages: dict[str, list[str]] | None) -> None:
    """Remove from the search path all but the standard library, and what `.pth` files have installed to find more.

    Args:
        folders: directories of packages to search as well.
        packages: if given, only these are found in the directories.
    """
    stdlib = os.path.dirname(os.__file__)
    kept = [path for path in sys.path if path in (stdlib, f"{stdlib}/lib-dynload") or path.endswith(".zip")]
    sys.path[:] = kept + (folders if packages is None else [])
    sys.meta_path[:] = [finder for finder in sys.meta_path if _module(finder) in _OF_PYTHON]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if _module(hook) in _OF_PYTHON]
    sys.path_importer_cache.clear()
    for name in [name for name in sys.modules if name.startswith(("__editable__", "_distutils_hack", "_virtualenv"))]:
        del sys.modules[name]
    if packages is not None:
        sys.meta_path.append(NamedPackages(packages))


def _module(finder: Any) -> str:
    return str(getattr(finder, "__module__", ""))
