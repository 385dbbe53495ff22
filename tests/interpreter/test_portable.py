"""Texts of a build name no folder of this machine."""

from __future__ import annotations

import sys
import sysconfig

import pytest

from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.interpreter.portable import portable, run_portably


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit()",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ExceptionGroup('several', [e, ValueError()])",
        "import json\njson.loads('{')",
        "import numpy\nnumpy.zeros((2, 2)).reshape(3)",
        "import warnings\nwarnings.warn('w')\nprint(warnings.__file__)",
    ],
)
def test_no_text_names_a_folder_of_this_machine(code: str) -> None:
    with Interpreter() as interpreter:
        (result,) = run_portably(interpreter, [code])
    own = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()} - {"/usr"}
    folders = [folder for folder in own if not folder.startswith("/usr/lib/python")]
    assert not any(folder in result.text for folder in folders), result.text


def test_only_whole_folders_are_replaced() -> None:
    library = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    paths = sysconfig.get_paths()
    assert portable(f"File {paths['stdlib']}/json/decoder.py:3") == f"File {library}/json/decoder.py:3"
    assert portable(f'"{paths["purelib"]}/IPython/x.py"') == f'"{library}/site-packages/IPython/x.py"'
    assert portable(f"{sys.prefix}s/x and a{sys.prefix}/x") == f"{sys.prefix}s/x and a{sys.prefix}/x"
