"""The fixed texts put to a model: reflection instructions and the re-answer prompt.

The reflection instructions ask for the same as the prompt of section 3.1, in this project's own words and in a few
variants, so that a model does not learn one opening by heart. `Prompts` holds all that a chat model is told in the two
stages; a TOML file with keys of the same names overrides any of it. `PROMPT_VERSION` changes with every text here and
is recorded in the provenance of each sequence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tomllib
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

REANSWER = (
    "Now give the final solution to the problem, as if you answered it for the first time. It must be complete and "
    "work on its own; do not refer to the steps above, to earlier versions or to corrections, neither in words nor in "
    "comments. Nothing needs to be run: leave out tests and examples, and write nothing but the code, in a single "
    "block between ```python and ```.\n\n{problem}"
)


def reflection_instruction(problem: str, variant: int = 0) -> str:
    """The first user message of a reflection sequence.

    Args:
        problem: the problem's own instruction.
        variant: which wording; taken modulo the number of wordings.
    """
    return REFLECTION_INSTRUCTIONS[variant % len(REFLECTION_INSTRUCTIONS)].replace("{problem}", problem)


@dataclass(frozen=True)
class Prompts:
    """What a chat model is told while it builds a reflection sequence (section 3.1).

    Placeholders are `{problem}`, and `{output}` for what the interpreter printed.

    Args:
        version: recorded in every sequence; for a file of one's own without a version, a digest of its texts.
        system_fenced: how a conversation goes where code stands in the answer.
        system_tools: the same where the model calls a tool.
        tool: description of that tool.
        reflection: wordings of the first user message; one is drawn for each problem.
        failed: a run that ended in an error.
        untested: a run that ended well but asserted nothing.
        passed: a run whose asserts held; `reanswer` follows.
        no_code: the answer to an answer without code.
        reanswer: the second stage.
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
        """Changes with any text."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def load_prompts(path: str | os.PathLike[str] = "") -> Prompts:
    """Our own prompts, or those with what a TOML file overrides.

    Raises:
        UserError: no such file, an unknown key, a text that lacks its placeholder, or not text at all.
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
            raise UserError(f"{where}: unknown key '{key}'; there are {', '.join(known)}")
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
