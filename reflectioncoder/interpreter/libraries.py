"""What programs may import: the standard library, what IPython needs, and named libraries with what they require.

Everything else that is installed beside them stays hidden: benchmarks and data sets hold the answers that programs are
tested for. Libraries are found by the metadata of installed packages, which is read without importing anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from glob import glob
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from pathlib import Path
from typing import NamedTuple

from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.errors import UserError

_PACKAGES = ("lib*/python*/*-packages", "local/lib*/python*/*-packages")  # other installations within shown folders
_SOURCES = ("/usr/src", "/usr/local/src")


class Python(NamedTuple):
    """A Python installation that has IPython.

    Args:
        executable: path of the executable.
        folders: its installation directories (`sys.prefix` and the like).
        sites: directories of installed packages; the first holds IPython.
    """

    executable: str
    folders: tuple[str, ...]
    sites: tuple[str, ...]


def package_folders(search_path: Iterable[str], first: str) -> tuple[str, ...]:
    """Directories of installed packages on a module search path.

    Args:
        search_path: `sys.path` of the Python.
        first: directory of IPython, which may be elsewhere.
    """
    named = (path.rstrip("/") for path in search_path)
    return tuple(dict.fromkeys([first, *(path for path in named if path.endswith("-packages"))]))


def visible_packages(python: Python, libraries: Sequence[str]) -> dict[str, list[str]]:
    """Names in the directories of packages that programs see.

    Args:
        python: the Python that runs the programs.
        libraries: names of modules or of distributions, such as "sklearn" or "scikit-learn".

    Returns:
        files and directories, by directory of packages: those of IPython and the libraries, and of all that these
        require, as far as it is installed. Defaults that are not installed are left out.

    Raises:
        UserError: a library is not installed.
    """
    found: dict[str, set[str]] = {site: set() for site in python.sites}
    waiting, known = ["ipython"], set()
    for library in libraries:
        names, loose = _named(python, library)
        waiting += names
        for site, name in loose:
            found[site].add(name)
    while waiting:
        name = _normal(waiting.pop())
        distribution = None if name in known else _distribution(python, name)
        known.add(name)
        if distribution is None:
            continue
        site = str(distribution.locate_file(""))
        found.setdefault(site, set()).update(_entries(distribution))
        waiting += _required(distribution)
    return {site: sorted(name for name in names if Path(site, name).exists()) for site, names in found.items()}


def hidden_folders(visible: Sequence[str], own: str) -> list[str]:
    """Directories below those shown that programs see empty: packages of other installations, and sources.

    Args:
        visible: the directories shown besides /usr.
        own: directory that contains this package.
    """
    found = [*_SOURCES, own]
    for folder in ("/usr", "/lib", *visible):
        found += [path for pattern in _PACKAGES for path in glob(f"{folder}/{pattern}")]
        found += glob(f"{folder}/python*/*-packages")
    return sorted({path for path in found if path not in visible})


def _named(python: Python, library: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return distributions that provide a library, or (directory, name) of a module that none has installed."""
    if _distribution(python, _normal(library)) is not None:
        return [library], []
    context = DistributionFinder.Context(path=list(python.sites))
    all_of_them = MetadataPathFinder.find_distributions(context)
    providers = [each.name for each in all_of_them if library in {_module(entry) for entry in _entries(each)}]
    loose = [(site, Path(path).name) for site in python.sites for path in glob(f"{site}/{library}*")]
    loose = [(site, name) for site, name in loose if _module(name) == library]
    if not providers and not loose and library not in DEFAULT_LIBRARIES:
        raise UserError(f"libraries: no library named '{library}' is installed for {python.executable}")
    return providers, loose


def _distribution(python: Python, name: str) -> Distribution | None:
    context = DistributionFinder.Context(name=name, path=list(python.sites))
    return next(iter(MetadataPathFinder.find_distributions(context)), None)


def _entries(distribution: Distribution) -> set[str]:
    """Names that a distribution has in its directory of packages, its metadata included."""
    record = distribution.read_text("RECORD")
    if record is None:  # such as a package of Debian
        top = (distribution.read_text("top_level.txt") or "").split()
        site = str(distribution.locate_file(""))
        paths = [path for name in top for path in glob(f"{site}/{name}*") if _module(Path(path).name) == name]
        return {Path(path).name for path in paths}
    names = {line.partition("/")[0].partition(",")[0].strip('"') for line in record.splitlines()}
    return {name for name in names if name not in ("", "..", "__pycache__") and not name.endswith(".pth")}


def _required(distribution: Distribution) -> list[str]:
    """Names of required distributions; what other platforms and versions need is not installed here anyway."""
    lines = [line for line in distribution.requires or () if not re.search(r"\bextra\s*==", line)]
    return [found[0] for line in lines if (found := re.match(r"[\w.-]+", line.strip()))]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _module(entry: str) -> str:
    return "" if entry.endswith((".dist-info", ".egg-info")) else entry.partition(".")[0]
