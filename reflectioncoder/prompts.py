"""The fixed texts put to a model: reflection instructions, the re-answer prompt, the benchmark prompt (appendix D).

The reflection instructions ask for the same as the prompt of section 3.1, in this project's own words and in a few
variants, so that a model does not learn one opening by heart. `PROMPT_VERSION` changes with every text here and is
recorded in the provenance of each sequence.
"""

from __future__ import annotations

PROMPT_VERSION = "1"

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
    "Now give the final solution to the problem. It must be complete and work on its own; do not refer to the steps "
    "above, to earlier versions or to corrections.\n\n{problem}"
)

HUMANEVAL = "Write a complete Python function for the problem.\n\n{prompt}"


def reflection_instruction(problem: str, variant: int = 0) -> str:
    """The first user message of a reflection sequence.

    Args:
        problem: the problem's own instruction.
        variant: which wording; taken modulo the number of wordings.
    """
    return REFLECTION_INSTRUCTIONS[variant % len(REFLECTION_INSTRUCTIONS)].replace("{problem}", problem)


def reanswer_instruction(problem: str) -> str:
    """The request for the final code at the end of a conversation with a chat model (section 3.1, second stage)."""
    return REANSWER.replace("{problem}", problem)


def humaneval_prompt(prompt: str) -> str:
    """The user message for one HumanEval problem (appendix D)."""
    return HUMANEVAL.replace("{prompt}", prompt)
