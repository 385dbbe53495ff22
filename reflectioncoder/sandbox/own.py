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
OF_SESSIONS = ("notebook", "awaiting", "session")  # run the cells; each may import those before it
OF_CODE = ("values", "caller", "equality")  # for own code
_PRISTINE = dict(vars(builtins))


def own_namespace(program: dict[str, Any]) -> dict[str, Any]:
    """Import the modules `OF_CODE`, and return the namespace of own code.

    Args:
        program: the namespace of programs.
    """
    names: dict[str, Any] = {"__builtins__": _PRISTINE, "__name__": PREFIX + "own", "program": program}
    return names | {name: import_own(name) for name in OF_CODE}


def import_own(short: str) -> ModuleType:
    """Import a module of this package. Its functions keep the copy of the builtins that they were defined with.

    Args:
        short: last name of the module, which has not been imported before.
    """
    name = PREFIX + short
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["__builtins__"] = _PRISTINE
    sys.modules[name] = module
    vars(sys.modules[PREFIX.rstrip(".")])[short] = module  # for `from package import module`
    spec.loader.exec_module(module)
    return module
