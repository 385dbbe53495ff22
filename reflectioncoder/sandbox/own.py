"""The namespace of our own code in a session: what a program defines, shadows or assigns to builtins does not reach it.

Our modules and the code that the parent process sends run with a copy of the builtins, made before the first program
started, and never in the program's namespace. A program can still reach them through frames when our code calls it,
and it can patch modules that both use, such as `json`. So nothing here may decide a verdict that a program must not
forge; see `session.py` and `interpreter/judge.py`.
"""

import builtins
import importlib.util
import sys
from types import ModuleType
from typing import Any

PREFIX = "reflectioncoder.sandbox."
MODULES = ("values", "caller", "equality")  # each may import those before it


def own_namespace(program: dict[str, Any]) -> dict[str, Any]:
    """Import `MODULES`, and return the namespace of own code.

    Args:
        program: the namespace of programs.
    """
    pristine = dict(vars(builtins))
    names: dict[str, Any] = {"__builtins__": pristine, "__name__": PREFIX + "own", "program": program}
    return names | {name: _import(PREFIX + name, pristine) for name in MODULES}


def _import(name: str, pristine: dict[str, Any]) -> ModuleType:
    """Import a module whose functions resolve builtins in `pristine`; functions keep those they were defined with."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["__builtins__"] = pristine
    sys.modules[name] = module
    vars(sys.modules[PREFIX.rstrip(".")])[name.rpartition(".")[2]] = module  # for `from package import module`
    spec.loader.exec_module(module)
    return module
