"""Prompts and cuts of the authors' test script, for `semantics = "release"` (docs/release.md).

Facts of github.com/SenseLLM/ReflectionCoder, `src/test.py`, commit 6b6e2d4. Oddities are kept, because published
figures contain them: an answer without a fence loses its first line, and answers in other languages are cut at the last
occurrence of a stop text.
"""

from __future__ import annotations

from collections.abc import Sequence

RELEASE_TOKENS = 1024
PYTHON_STOPS = ("\n# Test", "\nif", "\nassert", "\nprint", "\n```")
FENCE = "```"
_REMOVED = ("<|text|>", "<|code|>", "<|endofblock|>", "<|endofmessage|>")
_NAMES = {
    "cpp": "C++",
    "cs": "CSharp",
    "java": "Java",
    "js": "Javascript",
    "php": "PHP",
    "ts": "Typescript",
    "sh": "Bash",
    "swift": "Swift",
    "rs": "Rust",
}
_MORE_STOPS = {"cpp": "\nint main", "js": "\n}", "php": "\n}", "ts": "\n}", "rs": "\nfn main()"}
_OWN_STOPS_ONLY = ("php", "js")  # the stop texts of the data do not count
_CLOSED = ("js", "php", "ts")  # the closing brace that was cut off is put back


def release_function_prompt(prompt: str) -> str:
    """Return the user message for a problem of HumanEval.

    Args:
        prompt: the data's prompt.
    """
    return f"Write a complete Python function for the problem.\n\n{prompt.strip()}"


def release_assertion_prompt(prompt: str) -> str:
    """Return the user message for a problem of MBPP: the first line of the data's prompt, and its second as the assert.

    Args:
        prompt: the data's prompt, a docstring of two lines.
    """
    text, test, *_ = [*prompt.replace('"""', "").strip().split("\n"), ""]
    return f"{text}\nYour code should satisfy the following assertion:\n```python\n{test}\n```"


def release_language_prompt(key: str, prompt: str) -> tuple[str, str]:
    """Return the user message and the opening of the answer for a problem of MultiPL-E.

    Args:
        key: key of the language, such as "cpp".
        prompt: the data's prompt.
    """
    name = _NAMES[key]
    asked = f"Write a complete {name} function for the problem.\n\n{prompt.strip()}"
    return asked, f"```{name.lower()}\n{prompt}"


def cut_release_python(answer: str) -> str:
    """Cut an answer to a problem of HumanEval or MBPP, whose opening fence was in the prompt.

    Args:
        answer: the decoded text up to the end of the block.

    Returns:
        the code. With an odd number of fences it is what precedes the last one; with an even number, what follows the
        line of the first one. It ends at the first of `PYTHON_STOPS`.
    """
    for token in _REMOVED:
        answer = answer.replace(token, "")
    fences = answer.count(FENCE)
    if fences % 2:
        answer = answer[: answer.rfind(FENCE)]
    else:
        rest = answer.partition(FENCE)[2] if fences else answer[2:]  # the script takes "not found" for position -1
        answer = rest.partition("\n")[2] if "\n" in rest else rest
    ends = [place for stop in PYTHON_STOPS if (place := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))].strip()


def cut_release_language(key: str, answer: str, prompt: str, stops: Sequence[str]) -> str:
    """Cut an answer to a problem of MultiPL-E and return the program without its tests.

    Args:
        key: key of the language.
        answer: the decoded text; it continues the prompt and may end with the fence that ended it.
        prompt: the data's prompt.
        stops: the data's stop texts.
    """
    answer = answer.partition(FENCE)[0]
    own = [_MORE_STOPS[key]] if key in _MORE_STOPS else []
    for stop in [*own, *(() if key in _OWN_STOPS_ONLY else stops)]:
        if stop in answer:
            answer = answer[: answer.rfind(stop)]
    return f"{prompt}{answer}" + ("\n}" if key in _CLOSED else "")
