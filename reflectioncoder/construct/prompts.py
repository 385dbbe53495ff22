"""The prompts: reflection instructions, messages of the first stage, and the re-answer prompt.

The reflection instructions paraphrase the prompt of section 3.1. There are several variants, so that a model does not
memorize one opening. `Prompts` holds every text that a chat model gets in the two stages; a TOML file with the same
keys overrides any of them. `PROMPT_VERSION` must change when any text here changes; it is recorded in the provenance of
each sequence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reflectioncoder.errors import UserError

PROMPT_VERSION = "2"

REFLECTION_INSTRUCTIONS = (
    "Solve the programming problem below in two steps:\n"
    "(1) Write a Python function for it, add assert statements that cover edge cases, and run everything.\n"
    "(2) If an assert fails, find out why, repair the code and run it again until all of them pass.\n\n"
    "### Problem\n{problem}",
    "Write Python code for the following problem and test it with assert statements; think of the edge cases. "
    "Execute the code. Whenever a test fails, explain the cause, correct the code and test again.\n\n"
    "### Problem\n{problem}",
    "Here is a coding task. Implement it in Python, check your implementation by running asserts, and use what the "
    "run prints to fix any mistake. Stop once every assert passes.\n\n"
    "### Task\n{problem}",
    "Your goal is code that can be relied on.\n"
    "1. Implement the task in Python together with a few asserts, unusual inputs included.\n"
    "2. Run it. On a failure, look for the root cause, mend the code and rerun the asserts.\n\n"
    "### Task\n{problem}",
    "Develop a Python solution by testing it: write it, run it against asserts that you choose with care, analyse "
    "each failure, and correct the code until nothing fails.\n\n"
    "### Problem\n{problem}",
    "Please write and run a Python solution with test cases for this problem. If the tests show a mistake, say what "
    "went wrong and give a corrected version that you run again.\n\n"
    "Problem:\n{problem}",
)

# The same for problems whose answer is a number: the code is the calculation.
CALCULATION_INSTRUCTIONS = (
    "Solve the word problem below in two steps:\n"
    "(1) Say how it is calculated. Write the calculation as a Python function `answer()`, add assert statements that "
    "check the result against the story, and run everything.\n"
    "(2) If an assert fails, find out why, correct the calculation and run it again.\n\n"
    "### Problem\n{problem}",
    "Work out the following problem in Python. Say what is to be calculated, write it as a function `answer()`, and "
    "check its result with asserts that use other calculations. Whenever one fails, explain the mistake and correct "
    "it.\n\n### Problem\n{problem}",
    "Calculate the answer to this problem with a short Python function `answer()`, and run asserts that the story "
    "gives you. If the run shows a mistake, say what went wrong and give a corrected calculation that you run "
    "again.\n\nProblem:\n{problem}",
)

REANSWER = (
    "Now give the final solution to the problem, as if you answered it for the first time. It must be complete and "
    "work on its own; do not refer to the steps above, to earlier versions or to corrections, neither in words nor in "
    "comments. Nothing needs to be run: leave out tests and examples, and write nothing but the code, in a single "
    "block between ```python and ```.\n\n{problem}"
)


def reflection_instruction(problem: str, variant: int = 0, texts: Sequence[str] = REFLECTION_INSTRUCTIONS) -> str:
    """Return the first user message of a reflection sequence.

    Args:
        problem: the problem's own instruction.
        variant: index of the wording, modulo the number of wordings.
        texts: the wordings.
    """
    return texts[variant % len(texts)].replace("{problem}", problem)


@dataclass(frozen=True)
class Prompts:
    """The texts that a chat model gets while it builds a reflection sequence (section 3.1).

    Placeholders are `{problem}`, and `{output}` for the interpreter's output.

    Args:
        version: recorded in every sequence; for a prompts file without a version it is derived from the texts.
        system_fenced: system prompt for code in fenced blocks.
        system_tools: system prompt for code in tool calls.
        tool: description of the `python` tool.
        reflection: wordings of the first user message; one is drawn for each problem.
        failed: message after a run that ended in an error.
        untested: message after a run that succeeded without any assert.
        passed: message after a run whose asserts all passed; `reanswer` follows.
        no_code: message after an answer without code.
        reanswer: prompt of the second stage.
    """

    version: str = PROMPT_VERSION
    system_fenced: str = (
        "You write Python and test it in an interpreter that keeps its state like a notebook. In each answer give one "
        "fenced block that starts with ```python and holds the whole program: the solution and, below it, assert "
        "statements that call it. End your answer right after the block; it is then run, and you are told what it "
        "printed. Never guess an output. After a failure, first say in a few sentences what the cause is, then give "
        "the whole corrected program with its asserts. Read and write no files, use no network, ask for no input."
    )
    system_tools: str = (
        "You write Python and test it with the tool `python`. In each call pass the whole program: the solution and, "
        "below it, assert statements that call it. Wait for the result of the call; never guess it. After a failure, "
        "first say in a few sentences what the cause is, then call the tool with the whole corrected program and its "
        "asserts. Read and write no files, use no network, ask for no input."
    )
    tool: str = "Runs Python code in an interpreter that keeps its state like a notebook; gives back what it prints."
    reflection: tuple[str, ...] = REFLECTION_INSTRUCTIONS
    failed: str = (
        "The interpreter printed:\n\n{output}\n\n"
        "Say what went wrong, then give the whole corrected program with its asserts."
    )
    untested: str = (
        "The interpreter printed:\n\n{output}\n\n"
        "It ran, but nothing was asserted yet. Give the whole program again with assert statements that test it."
    )
    passed: str = "The interpreter printed:\n\n{output}\n\nEvery assert holds."
    no_code: str = "There was no code to run in this. Give the whole program with its asserts, so that it can be run."
    reanswer: str = REANSWER

    @property
    def digest(self) -> str:
        """Hash of all texts: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def load_prompts(path: str | os.PathLike[str] = "") -> Prompts:
    """Load the prompts: the defaults, overridden by the keys of a TOML file if one is given.

    Raises:
        UserError: the file is missing or is not TOML, or it has an unknown key, a value that is not text, or a text
            without its placeholder.
    """
    prompts = Prompts()
    if not path:
        return prompts
    where = f"prompts file {path}"
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: {error}") from None
    known = {item.name: getattr(prompts, item.name) for item in dataclasses.fields(prompts)}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; known keys are {', '.join(known)}")
        texts = value if key == "reflection" and isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(f"{where}: key '{key}' must be text{' or a list of it' if key == 'reflection' else ''}")
        originals = known[key] if key == "reflection" else (known[key],)
        for placeholder in ("{problem}", "{output}"):
            if any(placeholder in text for text in originals) and not all(placeholder in text for text in texts):
                raise UserError(f"{where}: key '{key}' lacks {placeholder}")
        known[key] = tuple(texts) if key == "reflection" else value
    prompts = Prompts(**known)
    if "version" not in table:
        prompts = dataclasses.replace(prompts, version=f"file-{prompts.digest}")
    return prompts
