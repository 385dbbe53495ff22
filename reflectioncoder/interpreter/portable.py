"""Runs programs so that their text does not depend on where this machine keeps Python.

Tracebacks through the standard library or a package, warnings, and the frames of IPython itself name files. In training
data those paths would be this machine's; here they are those of a common Linux installation.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache

from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits


def run_portably(
    interpreter: Interpreter, cells: Sequence[str], limits: Limits | None = None, given: str = ""
) -> list[CellResult]:
    """Call `Interpreter.run`, and replace this machine's paths in the texts of the results."""
    return [
        dataclasses.replace(result, text=portable(result.text))
        for result in interpreter.run(cells, limits, given=given)
    ]


def portable(text: str) -> str:
    """Replace the folders of this Python and its packages by `/usr/lib/python3.x` and `/usr`."""
    folders = _folders()
    pattern = "|".join(re.escape(folder) for folder in folders)
    return re.sub(rf"(?<![\w/.-])({pattern})(?=/)", lambda found: folders[found.group()], text)


@cache
def _folders() -> dict[str, str]:
    """Return each folder of this Python and what stands for it, the longest first."""
    library = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    paths = sysconfig.get_paths()
    found = {sys.prefix: "/usr", sys.base_prefix: "/usr", sys.exec_prefix: "/usr"}
    found |= {paths["stdlib"]: library, paths["platstdlib"]: library}
    found |= {paths["purelib"]: f"{library}/site-packages", paths["platlib"]: f"{library}/site-packages"}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))
