"""Define your own task: prompts, and a check of completions in the isolated interpreter.

python examples/own_task.py [OUTPUT]
"""

import json
import sys
from pathlib import Path

from reflectioncoder import (
    TASKS,
    EvaluateConfig,
    GenerateConfig,
    Interpreter,
    Limits,
    Prompt,
    Task,
    Verdict,
    evaluate,
)

WORDS = {"spell/level": "level", "spell/python": "python"}


class Palindromes(Task):
    """Is the word a palindrome? One problem per word."""

    name = "palindromes"
    max_new_tokens = 128

    def prompts(self) -> list[Prompt]:
        """One prompt for each word."""
        text = "Write a function `answer()` that returns whether '{}' is a palindrome."
        return [Prompt(key, text.format(word), f"def answer():\n    # {word}\n") for key, word in WORDS.items()]

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Run the completion and compare its answer."""
        right = WORDS[task_id] == WORDS[task_id][::-1]
        result = interpreter.run(f"{completion}\nassert answer() is {right}", limits)
        return Verdict(result.ok, result.outcome, result.message or "", result.seconds)


TASKS.add("palindromes", lambda options: Palindromes())


def main(output: str = "runs/own_task") -> float | None:
    """Score two completions, one of which is wrong."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    completions = folder / "completions.jsonl"
    rows = [{"task_id": key, "completion": "def answer():\n    return True\n"} for key in WORDS]
    completions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EvaluateConfig(
        generate=GenerateConfig(task="palindromes"),
        completions=str(completions),
        output=str(folder / "score"),
        workers=1,
    )
    score = evaluate(config)
    print(f"pass@1 {score.pass_at_1:.0%} of {score.n} problems")
    return score.pass_at_1


if __name__ == "__main__":
    main(*sys.argv[1:])
