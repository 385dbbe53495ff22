"""Score anything that completes prompts on a task; here it is a Python function.

python examples/score_a_function.py [OUTPUT]
"""

import json
import sys
from pathlib import Path

from reflectioncoder import EvaluateConfig, GenerateConfig, evaluate, get_task

PROBLEMS = [
    {
        "id": f"add/{n}",
        "instruction": f"Write a function `add_{n}(x)` that adds {n} to a number.",
        "tests": [f"assert add_{n}(1) == {n + 1}", f"assert add_{n}(-{n}) == 0"],
        "solution": f"def add_{n}(x):\n    return x + {n}\n",
        "entry_point": f"add_{n}",
    }
    for n in range(1, 5)
]


def my_model(instruction: str) -> str:
    """A stand-in for a model; it is right for odd numbers only."""
    name = instruction.split("`")[1].split("(")[0]
    number = int(name.split("_")[1])
    return f"def {name}(x):\n    return x + {number if number % 2 else number + 1}\n"


def main(output: str = "runs/score_a_function") -> float | None:
    """Complete each prompt, score the completions, and return pass@1."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    problems = folder / "problems.jsonl"
    problems.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    lines = [
        json.dumps({"task_id": prompt.task_id, "completion": my_model(prompt.instruction)})
        for prompt in get_task(str(problems)).prompts()
    ]
    completions = folder / "completions.jsonl"
    completions.write_text("\n".join(lines) + "\n")
    score = evaluate(
        EvaluateConfig(
            generate=GenerateConfig(task=str(problems)),
            completions=str(completions),
            output=str(folder / "score"),
            workers=1,
        )
    )
    print(f"pass@1 {score.pass_at_1:.0%} of {score.n} problems; verdicts in {score.folder}")
    return score.pass_at_1


if __name__ == "__main__":
    main(*sys.argv[1:])
