"""A grammar of chat answers: programs, fences, thoughts, prose and further blocks, put together in many shapes.

Every answer holds the same right function `add(a, b)`, in a program that must be found. A shape has a kind, which says
what is unusual about it. Shapes are enumerated, not drawn, so that a failure has a name.
"""

# ruff: noqa: E501 (answers on one line each read better)
from __future__ import annotations

import random
from collections.abc import Iterator

ADD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"
PROGRAMS = {
    "short": ADD,
    "imports": "import math\nfrom typing import Union\n\n\ndef add(a: Union[int, float], b):\n    return int(math.fsum([a, b]))",
    "helper above": "def _one(x):\n    return x\n\n\ndef add(a, b):\n    return _one(a) + _one(b)",
    "helper below": "def add(a, b):\n    return _one(a) + _one(b)\n\n\ndef _one(x):\n    return x",
    "constant": "OFFSET = 0\n\n\ndef add(a, b):\n    return a + b + OFFSET",
    "class": "class Adder:\n    def run(self, a, b):\n        return a + b\n\n\ndef add(a, b):\n    return Adder().run(a, b)",
    "decorator": "from functools import lru_cache\n\n\n@lru_cache(maxsize=None)\ndef add(a, b):\n    return a + b",
    "future": "from __future__ import annotations\n\n\ndef add(a: int, b: int) -> int:\n    return a + b",
    "comment first": "# Adds two numbers.\n# -----\n\n" + ADD,
    "lambda": "add = lambda a, b: a + b",
    "blank lines": "def add(a, b):\n\n    total = a\n\n    total += b\n\n    return total",
    "docstring": 'def add(a, b):\n    """Add two numbers.\n\n    >>> add(1, 2)\n    3\n    """\n    return a + b',
    "odd literal": "def add(a, b):\n    '''\x0cpage, \u2028 line, \x85 next'''\n    return a + b",
}
TRIALS = {
    "asserts": "\n\nassert add(1, 2) == 3\nassert add(0, 0) == 1",  # the second is wrong
    "prints": "\n\nprint(add(1, 2))",
    "main": '\n\nif __name__ == "__main__":\n    raise SystemExit(add(1, 2))',
    "reads": "\n\na = int(input())\nb = int(input())\nprint(add(a, b))",
    "main function": "\n\n\ndef main():\n    print(add(int(input()), 1))\n\n\nmain()",
}
OPENINGS = {
    "python": "```python", "py": "```py", "py3": "```py3", "python3": "```python3", "Python": "```Python",
    "upper": "```PYTHON", "blank": "``` python", "two blanks": "```  python", "unmarked": "```",
    "braces": "```{python}", "dotted braces": "```{.python .numberLines}", "title": '```python title="add.py"',
    "line numbers": "```python showLineNumbers", "braces after": "```python {1,3-4}", "file after colon": "```python:add.py",
    "file name": "```add.py", "path": "```python src/add.py", "tool_code": "```tool_code", "ipython": "```ipython3",
    "tildes": "~~~python", "plain tildes": "~~~", "four": "````python", "five": "`````python", "trailing blank": "```python ",
    "behind words": "Here it is: ```python", "behind a sentence": "The code follows. ```python",
    "one blank": " ```python", "two blanks before": "  ```python", "three blanks": "   ```python",
    "python-repl": "```python-repl", "jupyter": "```jupyter", "quotes": "'''python",
}  # fmt: skip
BEFORE = {
    "nothing": "", "a sentence": "Here is the function:\n\n", "several": "## Solution\n\nWe add both numbers.\n\n- It is fast\n\n",
    "import in prose": "You import nothing. To add, return a + b.\n", "inline code": "The function `add` takes `a` and `b`:\n",
}  # fmt: skip
AFTER = {
    "nothing": "", "explanation": "\n\nThis function adds two numbers.", "complexity": "\n\n**Time**: O(1)\n**Space**: O(1)",
    "usage": "\n\nUsage:\n```python\nprint(add(1, 2))\n```\n", "output": "\n\nOutput:\n```\n3\n```\n",
    "text output": "\n\nIt prints\n```text\n3\n```", "shell": "\n\nRun it:\n```bash\npython add.py\n```",
    "end token": "<|im_end|>", "end token on a line": "\n<|endoftext|>",
}  # fmt: skip
THOUGHTS = {
    "think": ("<think>", "</think>"), "Think": ("<Think>", "</Think>"), "thinking": ("<thinking>", "</thinking>"),
    "thought": ("<thought>", "</thought>"), "reasoning": ("<reasoning>", "</reasoning>"),
    "scratchpad": ("<scratchpad>", "</scratchpad>"), "reflection": ("<reflection>", "</reflection>"),
    "magistral": ("[THINK]", "[/THINK]"), "kimi": ("◁think▷", "◁/think▷"), "seed": ("<seed:think>", "</seed:think>"),
    "openthoughts": ("<|begin_of_thought|>", "<|end_of_thought|>"), "cohere": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma": ("<|channel>thought\n", "<channel|>"), "medgemma": ("<unused94>thought\n", "<unused95>"),
    "harmony": (
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "longcat": ("<longcat_think>", "</longcat_think>"),
}  # fmt: skip
DRAFTS = {
    "prose": "I add them.", "a draft": f"Maybe\n```python\n{WRONG}\n```\nNo.", "an open draft": f"Maybe\n```python\n{WRONG}",
    "bare draft": f"Maybe\n{WRONG}\n\nno.", "the mark itself": "I must close with the mark.\n\nThen answer.",
}  # fmt: skip
CORRECTIONS = [
    "Wait, that is wrong. Corrected:", "Actually, it must add:", "Oops. Fixed version:", "Let me fix the sign.",
    "That subtracts. The right one is:", "Final answer:", "On reflection:", "Hmm, `a - b` is a mistake. So:",
    "Here is the improved version:", "**Corrected code**",
]  # fmt: skip
LATER_WRONG = [
    "The original code was:", "An alternative that does not work:", "Your version, for comparison:", "Avoid the buggy one:",
    "Instead of the incorrect", "A naive attempt, which is wrong:",
]  # fmt: skip
DOCSTRING_FENCES = {
    "column 0": 'def add(a, b):\n    """Add.\n\n```\nadd(1, 2)\n```\n    """\n    return a + b',
    "column 0, named": 'def add(a, b):\n    """Add.\n\n```python\nadd(1, 2)\n```\n    """\n    return a + b',
    "indented": 'def add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b',
    "indented, named": 'def add(a, b):\n    """Add.\n\n    ```python\n    add(1, 2)\n    ```\n    """\n    return a + b',
    "two examples": 'def add(a, b):\n    """Add.\n\n```\nadd(1, 2)\n```\nor\n```\nadd(2, 3)\n```\n    """\n    return a + b',
    "in a constant": 'TEXT = """\n```python\nx = 1\n```\n"""\n\n\ndef add(a, b):\n    return a + b',
    "in a comment": "def add(a, b):\n    # ```\n    # add(1, 2)\n    # ```\n    return a + b",
}  # fmt: skip


def _closing(opening: str) -> str:
    fence = opening.strip().split()[-1] if opening[:1] not in "`~'" else opening
    char = next(sign for sign in "`~'" if sign in fence)
    return char * fence.count(char)


def _indented(text: str, width: int) -> str:
    return "\n".join(" " * width + line if line.strip() else line for line in text.split("\n"))


def fenced(code: str, opening: str = "```python") -> str:
    """Put code in a block; an indented opening moves the whole block."""
    width = len(opening) - len(opening.lstrip())
    return f"{opening}\n{_indented(code, width)}\n{' ' * width}{_closing(opening)}"


PROSE = [
    "Let me think about it.", "We use `a + b`.", "- first\n- second", "**Note:** it is simple.", "Time complexity: O(1)",
    "The function `add(a, b)` returns the sum.", "For example, add(1, 2) == 3.", "| a | b |\n|---|---|", "> quote",
    "1. Read\n2. Add", "def is a keyword of Python", "If a is 1, then we return b + 1.", "import math is not needed.",
    "Example:\n>>> add(1, 2)\n3",
]  # fmt: skip
BLOCKS_BEFORE = [
    fenced("add(1, 2)"), fenced("3", "```"), fenced("pip install x", "```bash"), fenced("a b c", "```text"),
    fenced(">>> add(1, 2)\n3", "```pycon"), fenced("import math"),
]  # fmt: skip
BLOCKS_AFTER = [fenced("3", "```"), fenced("print(add(1, 2))"), fenced("assert add(1, 2) == 4", "```py")]
# shapes that no rule makes, met in real answers or likely there
ODD = {
'nested list deep': "1. Do\n   - sub\n     ```python\n     def add(a, b):\n         return a + b\n     ```",
'html pre': f"<pre><code class=\"language-python\">\n{ADD}\n</code></pre>",
'html pre inline': "<pre><code class=\"language-python\">def add(a, b):\n    return a + b</code></pre>",
'lstlisting': "\\begin{lstlisting}[language=Python]\n"+ADD+"\n\\end{lstlisting}",
'minted': "\\begin{minted}{python}\n"+ADD+"\n\\end{minted}",
'boxed': "**Answer:**\n"+ADD,
'heading before code': "### Solution\n"+ADD+"\n\n### Explanation\nIt adds.",
'bold language': "**Python**\n"+fenced(ADD, '```'),
'class solution': fenced("class Solution:\n    def add(self, a, b):\n        return a + b\n\ndef add(a, b):\n    return Solution().add(a, b)"),
'line numbers': "```python\n1  def add(a, b):\n2      return a + b\n```",
'line numbers colon': "```python\n1: def add(a, b):\n2:     return a + b\n```",
'diff': "```diff\n-def add(a, b):\n-    return a - b\n+def add(a, b):\n+    return a + b\n```",
'diff fence mixed': "```diff\n def add(a, b):\n-    return a - b\n+    return a + b\n```",
'prompt repeated then code': "def add(a, b):\n    \"\"\"Add.\"\"\"\n\nSolution:\n"+fenced(ADD),
'stub then full': fenced("def add(a, b):\n    ...")+"\nNow:\n"+fenced(ADD),
'full then stub': fenced(ADD)+"\nThe signature is:\n"+fenced("def add(a, b):\n    pass"),
'two languages': fenced("function add(a,b){return a+b}", '```js')+"\n"+fenced(ADD),
'mislabeled': fenced(ADD, '```java'),
'mislabeled text': fenced(ADD, '```text'),
'mislabeled plaintext': "Here:\n"+fenced(ADD, '```plaintext'),
'code lang': fenced(ADD, '```code'),
'Code lang': fenced(ADD, '```Code'),
'sql?': fenced(ADD, '```pyspark'),
'output labelled python': fenced(ADD)+"\nOutput:\n"+fenced("3"),
'then traceback': fenced(WRONG)+"\nThis gives\n"+fenced("AssertionError", '```')+"\nso:\n"+fenced(ADD),
'unfenced draft then fenced': WRONG+"\n\nWait, it should add:\n\n"+fenced(ADD),
'fenced draft then unfenced': fenced(WRONG)+"\n\nWait, it should add:\n\n"+ADD,
'usage same block before': fenced("# usage: add(1, 2)\n"+ADD),
'interleaved prose within fence': "```python\n"+ADD+"\n\nThis function adds.\n```",
'prose at top within fence': "```python\nHere is the code:\n"+ADD+"\n```",
'unclosed then prose': "```python\n"+ADD+"\n\nThis function adds the numbers.",
'unclosed then heading': "```python\n"+ADD+"\n\n### Explanation\n- it adds",
'doubled fences': "``````python\n"+ADD+"\n``````",
'fence with lang on close': "```python\n"+ADD+"\n```python",
'close fence with word': "```python\n"+ADD+"\n```end",
'quote single': "'''\n"+ADD+"\n'''",
'dq fences': '"""python\n'+ADD+'\n"""',
'end of turn': ADD+"<end_of_turn>",
'eot': fenced(ADD)+"<|eot_id|><|start_header_id|>user<|end_header_id|>\nthanks\n"+fenced(WRONG),
'im_end user': fenced(ADD)+"<|im_end|>\n<|im_start|>user\nNow subtract\n<|im_end|>\n<|im_start|>assistant\n"+fenced(WRONG),
'###Response': "### Response:\n"+ADD+"\n\n### Instruction:\nmore",
'[DONE]': ADD+"\n[DONE]",
'# END': ADD+"\n# END",
'BEGIN END': "BEGIN SOLUTION\n"+ADD+"\nEND SOLUTION",
'wide blank': "\n\n\n"+fenced(ADD)+"\n\n\n",
'tabs fence indent': "\t```python\n\tdef add(a, b):\n\t\treturn a + b\n\t```",
'cell markers': "# %%\n"+ADD,
'In[1]': "In [1]: def add(a, b):\n   ...:     return a + b\n",
'collapsible': "<details><summary>Code</summary>\n\n"+fenced(ADD)+"\n</details>",
'table': "| a | b |\n|---|---|\n| 1 | 2 |\n\n"+fenced(ADD),
'assert block after': fenced(ADD)+"\nTests:\n"+fenced("assert add(1, 2) == 4"),
'tests redefine': fenced(ADD)+"\nTests:\n"+fenced("from solution import add\nassert add(1, 2) == 3"),
'main then full script': fenced(ADD)+"\nFull script:\n"+fenced(ADD+"\n\nif __name__ == '__main__':\n    print(add(1,2))"),
'import unavailable in test block': fenced(ADD)+"\nTests:\n"+fenced("import pytest\n\ndef test_add():\n    assert add(1, 2) == 3"),
'helper then main unfenced': "def _s(x):\n    return x\n\nThen the function:\n\ndef add(a, b):\n    return _s(a) + _s(b)",
'escaped': "```python\\ndef add(a, b):\\n    return a + b\\n```",
'json fenced': "```json\n{\"code\": \"def add(a, b):\\n    return a + b\"}\n```",
'async think in middle': "Let me see.\n\n<think>\n"+fenced(WRONG)+"\n</think>\n\nAnswer:\n"+fenced(ADD),
'reason header': "Reasoning: we add.\nCode:\n"+ADD,
'answer: inline': "Answer: "+fenced(ADD),
'answer def same line': "Answer: def add(a, b):\n    return a + b",
'semicolon one-liner': "def add(a, b): return a + b",
'prose+one-liner': "It is\ndef add(a, b): return a + b\nDone.",
'walrus etc': fenced("def add(a, b):\n    return (c := a) + b"),
'py2 print in usage': "```python\n"+ADD+"\n\nprint add(1, 2)\n```",
'input prompt usage': "```python\n"+ADD+"\n\nx, y = map(int, input().split())\nprint(add(x, y))\n```",
'while loop usage': "```python\n"+ADD+"\n\nwhile True:\n    n = int(input())\n    print(add(n, 1))\n```",
'gemini tool_code': "```tool_code\n"+ADD+"\n```\n```tool_output\n3\n```",
'think w attr': "<think type=\"x\">a</think>"+fenced(ADD),
'|thinking| deepseek': "<｜thinking｜>x<｜/thinking｜>"+fenced(ADD),
'think only close, draft fenced unclosed': "```python\n"+WRONG+"\nhmm\n</think>\n"+fenced(ADD),
'gpt-oss final only': "<|channel|>final<|message|>"+fenced(ADD)+"<|return|>",
'gpt-oss commentary': "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary<|message|>y<|end|><|start|>assistant<|channel|>final<|message|>"+ADD,
'r1 answer tag': "<think>a</think>\n<answer>\n"+fenced(ADD)+"\n</answer>",
'xml code tag': "<code language=\"python\">\n"+ADD+"\n</code>",
'xml CDATA': "<code><![CDATA[\n"+ADD+"\n]]></code>",
'starcoder': "<fim_prefix>"+ADD,
'FILE header': "# File: add.py\n"+ADD,
'==== sep': "=====\n"+ADD+"\n=====",
'---- sep': "---\n"+ADD+"\n---",
'comment prose below': ADD+"\n\n# This adds",
'2 blanks indent bare': "  def add(a, b):\n      return a + b\n\nDone",
'bullets in code region': ADD+"\n\n- adds\n- fast",
}  # fmt: skip


HELPER, MAIN = "def _one(x):\n    return x", "def add(a, b):\n    return _one(a) + _one(b)"
# answers of two blocks with the same opening: words, code, words, code
TWO_BLOCKS = {
    ("several blocks", "helper, main"): ("First a helper:", HELPER, "Then:", MAIN),
    ("several blocks", "main, helper"): ("The function:", MAIN, "with", HELPER),
    ("several blocks", "imports, main"): (
        "Imports:", "import math", "Then:", "def add(a, b):\n    return int(math.fsum([a, b]))",
    ),
    ("several blocks", "star import, main"): (
        "Imports:", "from math import *", "Then:", "def add(a, b):\n    return int(fsum([a, b]))",
    ),
    ("usage first", "call"): ("You call it as:", "add(1, 2)", "Code:", ADD),
    ("usage first", "print"): ("Example:", "result = add(1, 2)\nprint(result)", "Code:", ADD),
    ("output first", "tests"): ("The test:", "assert add(1, 2) == 3", "Code:", ADD),
}  # fmt: skip
# what stands before the program's block
OTHER_FIRST = {
    ("output first", "unmarked"): f"Example output:\n{fenced('3', '```')}\nCode:",
    ("output first", "text"): f"Example output:\n{fenced('add 1 2 = 3', '```text')}\nCode:",
    ("output first", "json"): f"Input:\n{fenced('[1, 2]', '```json')}\nCode:",
    ("output first", "shell"): fenced("pip install numpy", "```bash"),
    ("console", "call"): f"Try:\n{fenced('>>> add(1, 2)' + chr(10) + '3', '```pycon')}",
}


def shapes() -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, answer) of every shape."""
    for name, opening in OPENINGS.items():
        for words, before in BEFORE.items():
            for rest, after in AFTER.items():
                if rest in ("nothing", "explanation") or words == "a sentence":
                    yield "fences", f"{name}, {words}, {rest}", f"{before}{fenced(ADD, opening)}{after}"
    for name, code in PROGRAMS.items():
        for rest, after in AFTER.items():
            yield "programs", f"{name}, {rest}", f"Sure:\n\n{fenced(code)}{after}"
        yield "programs", f"{name}, windows", f"Sure:\n\n{fenced(code)}\nDone.".replace("\n", "\r\n")
        for trial, end in TRIALS.items():
            yield "trials", f"{name}, {trial}", f"Sure:\n\n{fenced(code + end)}\n\nIt adds."
        yield "unclosed", name, f"Sure:\n```python\n{code}\n"
        yield "unclosed", f"{name}, end token", f"Sure:\n```python\n{code}<|im_end|>"
        yield "closing on the code's line", name, f"Sure:\n```python\n{code}```\nDone."
        yield "closing on the code's line", f"{name}, blank", f"Sure:\n```python\n{code} ```"
        yield "bare", name, code
        yield "bare", f"{name}, closing fence", f"{code}\n```"
        yield "bare", f"{name}, closing fence, explanation", f"{code}\n```\n\nThis function adds two numbers."
        yield "bare", f"{name}, closing fence, usage", f"{code}\n```\nUsage:\n```python\nadd(1, 2)\n```\n"
        yield "bare", f"{name}, explanation", f"{code}\n\nThis function adds two numbers."
        yield "bare", f"{name}, words that are Python", f"{code}\n\nDone\n\nOutput: 3"
        yield "bare", f"{name}, end token", f"{code}<|im_end|>"
        yield "bare", f"{name}, prose before", f"Here is the code:\n\n{code}\n"
        yield "bare", f"{name}, prose around", f"Here is the solution:\n\n{code}\n\nIt adds."
        yield "bare", f"{name}, stray fence", f"Here is the code:\n\n{code}\n```\n"
        yield "indented code", name, f"Here:\n\n{_indented(code, 4)}\n\nDone."
        for tag in ("<answer>", "<code>", "<solution>", "[PYTHON]", "[CODE]", "[ANSWER]"):
            end = tag.replace("<", "</").replace("[", "[/")
            yield "tags", f"{name} in {tag}", f"{tag}\n{code}\n{end}"
            yield "tags", f"{name} in {tag}, tests", f"{tag}\n{code}\n{end}\n[TESTS]\nassert add(1,2)==3\n[/TESTS]"
        yield "list item", name, f"1. Write it:\n\n{_indented(fenced(code), 3)}\n2. Run it."
        yield "list item", f"{name}, on the line", f"- ```python\n{_indented(code, 2)}\n  ```\n"
        yield "quotation", name, "\n".join(f"> {line}" for line in f"Sure:\n{fenced(code)}".split("\n"))
    for name, (begin, end) in THOUGHTS.items():
        for draft, thought in DRAFTS.items():
            for form, code in (("fenced", fenced(ADD)), ("bare", ADD), ("with prose", f"So:\n\n{fenced(ADD)}\nDone.")):
                yield "thoughts", f"{name}, {draft}, {form}", f"{begin}{thought}{end}\n{code}"
        yield "thoughts", f"{name}, no line break", f"{begin}x{end}{fenced(ADD)}"
        if name != "harmony":
            inside = f"def add(a, b):\n    '''returns a + b, not {end}'''\n    return a + b"
            yield "thoughts", f"{name}, mark in code", f"{begin}x{end}\n{fenced(inside)}"
            yield "thoughts", f"{name}, mark in code only", fenced(inside)
            yield "thoughts", f"{name}, no opening mark", f"Maybe\n```python\n{WRONG}\n```\n{end}\n{fenced(ADD)}"
            yield "thoughts", f"{name}, after a greeting", f"Sure.\n{begin}\n{WRONG}\n{end}\n{fenced(ADD)}"
            yield (
                "thoughts",
                f"{name}, named in the thought",
                f"{begin}I close with {end} when done.\nSo\n{end}\n{fenced(ADD)}",
            )
    for words in CORRECTIONS:
        yield "draft and correction", words, f"{fenced(WRONG)}\n{words}\n\n{fenced(ADD)}"
        yield (
            "draft and correction",
            f"{words} (prose around)",
            f"First:\n{fenced(WRONG)}\n{words}\n{fenced(ADD)}\nDone.",
        )
        yield "draft and correction", f"{words} (unmarked)", f"{fenced(WRONG, '```')}\n{words}\n{fenced(ADD, '```')}"
    for words in LATER_WRONG:
        yield "wrong code later", words, f"{fenced(ADD)}\n{words}\n{fenced(WRONG)}"
    for opening in ("```python", "```", "```py", "~~~python", " ```python"):
        for (kind, name), (before, first, between, second) in TWO_BLOCKS.items():
            answer = f"{before}\n{fenced(first, opening)}\n{between}\n{fenced(second, opening)}"
            yield kind, f"{name}, {opening}", answer
        three = "\n\n".join(f"Step:\n{fenced(code, opening)}" for code in ("N = 0", f"{HELPER} + N", MAIN))
        yield "several blocks", f"constant, helper, main, {opening}", three
        for (kind, name), before in OTHER_FIRST.items():
            yield kind, f"{name}, {opening}", f"{before}\n{fenced(ADD, opening)}"
    console = ">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3"
    for opening in ("```python", "```pycon", "```", "```python-repl"):
        yield "console", f"defined in it, {opening}", f"Try:\n{fenced(console, opening)}"
    for name, code in DOCSTRING_FENCES.items():
        for opening in ("```python", "```", "```py"):
            for rest in ("", "\nDone.", "\n\nUsage:\n```python\nadd(1, 2)\n```"):
                yield "fence inside the code", f"{name}, {opening}, {rest!r}", f"Sure:\n{fenced(code, opening)}{rest}"
    yield "quoted as Markdown", "four", f"````markdown\n{fenced(ADD)}\n````\n"
    yield "quoted as Markdown", "three", f"```markdown\n# Answer\n{fenced(ADD)}\n```\n"
    yield "odd characters", "byte order mark", "\ufeff" + fenced(ADD)
    yield "odd characters", "no-break blanks", fenced(ADD.replace("    ", "\u00a0" * 4))
    yield "odd characters", "zero width", fenced(ADD.replace("return", "\u200breturn"))
    yield "odd characters", "curly quotes", fenced("def add(a, b):\n    x = “y”\n    return a + b")
    yield "odd characters", "entities", fenced("def add(a, b):\n    return a + b if a &lt; b else b + a")
    yield "odd characters", "tabs", fenced(ADD.replace("    ", "\t"))
    yield "notebook", "magic", fenced("%matplotlib inline\n!pip install x\n" + ADD)
    yield "language on its own line", "unmarked", f"```\npython\n{ADD}\n```"
    yield "inline code", "lambda", "Use `add = lambda a, b: a + b`, that is all."
    yield "JSON", "object", '{"code": "def add(a, b):\\n    return a + b"}'
    yield (
        "JSON",
        "fenced text in it",
        '{"explanation": "adds", "answer": "```python\\ndef add(a, b):\\n    return a + b\\n```"}',
    )
    for name, text in ODD.items():
        yield "odd shapes", name, text


def composed(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (name, answer) of random compositions: thoughts, prose, other blocks, a draft, the program, more of all."""
    draw = random.Random(seed)
    every = {**PROGRAMS, **DOCSTRING_FENCES}
    for _ in range(count):
        parts, names = [], []
        if draw.random() < 0.4:
            kind, draft = draw.choice(list(THOUGHTS)), draw.choice(list(DRAFTS))
            parts.append(f"{THOUGHTS[kind][0]}{DRAFTS[draft]}{THOUGHTS[kind][1]}")
            names += [kind, draft]
        parts += draw.choices(PROSE, k=draw.randint(0, 2))
        if draw.random() < 0.3:
            parts.append(draw.choice(BLOCKS_BEFORE))
        if draw.random() < 0.2:
            parts += [fenced(WRONG, draw.choice(["```python", "```"])), draw.choice(CORRECTIONS)]
            names.append("draft")
        program, trial, opening = draw.choice(list(every)), draw.choice(["", *TRIALS]), draw.choice(list(OPENINGS))
        bare = draw.random() < 0.15 and program not in DOCSTRING_FENCES
        code = every[program] + TRIALS.get(trial, "")
        parts.append(code if bare else fenced(code, OPENINGS[opening]))
        names += [program, trial, "bare" if bare else opening]
        parts += draw.choices(PROSE + BLOCKS_AFTER, k=draw.randint(0, 2))
        parts += ["<|im_end|>"] if draw.random() < 0.2 else []
        text = draw.choice(["\n", "\n\n"]).join(parts)
        yield ", ".join(names), text.replace("\n", "\r\n") if draw.random() < 0.2 else text
