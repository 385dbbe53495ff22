"""Given code stays apart from the solution, which keeps the imports that it uses."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
from places import DATA

from reflectioncoder.errors import UserError
from reflectioncoder.problems.given import names_read, split_given
from reflectioncoder.problems.load import load_problems

SETUP = """from typing import *
from collections import *
from itertools import *
from math import *
import math, os.path as path
inf = float('inf')


class Node:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next


def node_of(values):
    head = None
    for value in reversed(values):
        head = Node(value, head)
    return head
"""


def test_the_solution_keeps_only_the_imports_that_it_uses() -> None:
    solution = (
        "def f(xs: Optional[List[int]], head: Node):\n    d = defaultdict(int)\n    return inf, path.sep, d, abs(1)\n"
    )
    given, own = split_given(SETUP, solution)
    assert given == SETUP
    assert own == (
        "from typing import List, Optional\nfrom collections import defaultdict\nfrom math import inf\n"
        f"import os.path as path\n{solution}"
    )


def test_names_of_its_own_and_builtins_are_not_imported() -> None:
    solution = (
        "def f(count, xs):\n    def merge(a):\n        return a\n    gcd = pow(2, 3)\n    return merge(count) + gcd\n"
    )
    assert split_given(SETUP, solution)[1] == solution


def test_imports_come_after_docstring_and_future_imports() -> None:
    solution = '"""Doc."""\nfrom __future__ import annotations\n\n\ndef f(xs: List[int]):\n    return xs\n'
    own = split_given(SETUP, solution)[1]
    assert own == solution.replace("annotations\n", "annotations\nfrom typing import List\n")
    compile(own, "own", "exec")
    assert split_given("from __future__ import annotations\nx = 1\n", "def f(a: A): ...")[1].startswith(
        "from __future__"
    )


def test_an_unknown_module_is_imported_as_a_whole_only_where_a_name_is_missing() -> None:
    setup = "from numpy import *\n"
    assert split_given(setup, "def f(n):\n    return zeros(n)\n")[1].startswith("from numpy import *\n")
    assert split_given(setup, "def f(n):\n    return n + 1\n")[1] == "def f(n):\n    return n + 1\n"


def test_a_head_that_the_solution_completes_belongs_to_the_solution() -> None:
    setup = 'import math\n\ndef poly(x):\n    return x\n\n@cached\ndef f(x):\n    """Doc."""\n'
    assert split_given(setup, "    return math.sqrt(poly(x))\n") == (
        "import math\n\ndef poly(x):\n    return x\n",
        'import math\n@cached\ndef f(x):\n    """Doc."""\n    return math.sqrt(poly(x))\n',
    )


def test_scripts_are_left_out_and_bad_code_is_refused() -> None:
    main = "if __name__ == '__main__':\n    print(1)\n"
    assert split_given(f"x = 1\n{main}", f"def f():\n    return x\n{main}") == ("x = 1\n", "def f():\n    return x\n")
    assert split_given("", f"{main}def f():\n    pass\n") == ("", "def f():\n    pass\n")
    assert split_given("x = 1", " \n") == ("", "")
    with pytest.raises(UserError, match=r"solution is not Python: .*line 2"):
        split_given("x = 1", "def f(:")


def test_free_names_follow_scopes() -> None:
    code = "import a\ndef f(b, c=d):\n    global e\n    e = g\n    return [h for h in b] + a.x\n"
    code += "class K(L):\n    m = n\ne\nf"
    assert names_read(code) == {"d", "g", "L", "n"}


@pytest.mark.slow
def test_rows_of_leetcode_load_with_given_code(tmp_path: Path) -> None:
    source = DATA / "instruct" / "leetcode" / "LeetCodeDataset-v0.2.0-train.jsonl.gz"
    if not source.is_file():
        pytest.skip("no LeetCode rows: set REFLECTIONCODER_DATA to the folder of data sets")
    problems = load_problems(str(source), "leetcode", skipped=[])
    trees = [problem for problem in problems if "class TreeNode:" in problem.given]
    assert len(trees) > 50
    for problem in problems:
        assert problem.solution is not None
        assert "\ndef tree_node(" not in problem.solution and "import *" not in problem.solution
        # outside the given code, all that a solution reads is imported, or named in its statement
        unknown = names_read(problem.solution) - set(dir(builtins))
        assert all(name in problem.instruction for name in unknown), (problem.id, unknown)


def test_rows_with_set_up_code_have_it_as_given_code(tmp_path: Path) -> None:
    row = {"instruction": "Write `f`.", "solution": "def f(n):\n    return n + 1", "tests": ["assert f(1) == 2"]}
    (tmp_path / "p.jsonl").write_text(json.dumps({**row, "pre": "K = 1\n"}))
    (problem,) = load_problems(str(tmp_path / "p.jsonl"), "setup=pre")
    assert (problem.given, problem.solution) == ("K = 1\n", "def f(n):\n    return n + 1\n")
    (problem,) = load_problems(str(tmp_path / "p.jsonl"))
    assert problem.given == ""
