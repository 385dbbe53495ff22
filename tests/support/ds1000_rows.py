"""Our own problems in DS-1000's format."""

import json
from pathlib import Path

from reflectioncoder.tasks.base import TaskOptions

DOUBLED = '''\
import numpy as np
import copy
import io, tokenize


def generate_test_case(test_case_id):
    data = np.arange(5) * test_case_id
    return data, data * 2


def exec_test(result, ans):
    try:
        np.testing.assert_array_equal(result, ans)
        return 1
    except:
        return 0


exec_context = r"""
import numpy as np
a = test_input
[insert]
"""


def test_execution(solution: str):
    code = exec_context.replace("[insert]", solution)
    for i in range(2):
        test_input, expected_result = generate_test_case(i + 1)
        test_env = {"test_input": test_input}
        exec(code, test_env)
        assert exec_test(test_env["result"], expected_result)


def test_string(solution: str):
    tokens = []
    for token in tokenize.tokenize(io.BytesIO(solution.encode("utf-8")).readline):
        tokens.append(token.string)
    assert "for" not in tokens
'''
PROMPT = """\
Problem:
I have an array and want every item doubled.


A:
<code>
import numpy as np
a = np.arange(5)
</code>
result = ... # put solution in this variable
BEGIN SOLUTION
<code>
"""
ROWS = [
    {
        "prompt": PROMPT,
        "reference_code": "result = a * 2",
        "code_context": DOUBLED,
        "metadata": {"problem_id": 0, "library": "Numpy"},
    },
    {
        "prompt": "import numpy as np\na = np.arange(5)\n\n# double it\n# SOLUTION START\n",
        "reference_code": "result = a * 2",
        "code_context": DOUBLED.replace("import copy", "import no_such_library"),
        "metadata": {"problem_id": 1, "library": "Other"},
    },
    {
        "prompt": "<code>\ndef f(a):\n    # return the solution in this function\n    ### BEGIN SOLUTION",
        "reference_code": "    return a * 2",
        "code_context": DOUBLED.replace("a = test_input\n[insert]", "def f(a):\n[insert]\nresult = f(test_input)"),
        "metadata": {"problem_id": 2, "library": "Numpy"},
    },
]


def write(folder: Path, rows: list[dict[str, object]]) -> TaskOptions:
    (folder / "ds1000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskOptions(data=str(folder))
