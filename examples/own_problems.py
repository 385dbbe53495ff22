"""Build reflection sequences from your own problems: plant bugs in their solutions, run, explain and repair them.

python examples/own_problems.py [OUTPUT]
"""

import json
import sys
from pathlib import Path

from reflectioncoder import BuildConfig, build, load_problems

PROBLEMS = [
    {
        "id": "mine/1",
        "instruction": "Write a function `largest_gap(values)` that returns the largest difference between two "
        "neighbours of a list of numbers, and 0 where there are fewer than two.",
        "solution": "def largest_gap(values):\n    best = 0\n    for left, right in zip(values, values[1:]):\n"
        "        gap = abs(right - left)\n        if gap > best:\n            best = gap\n    return best\n",
        "tests": [
            "assert largest_gap([1, 4, 2]) == 3",
            "assert largest_gap([5]) == 0",
            "assert largest_gap([10, 3, 3, 9]) == 7",
        ],
        "entry_point": "largest_gap",
    },
    {
        "id": "mine/2",
        "instruction": "Write a function `count_long(words, least)` that counts the words of at least `least` letters.",
        "solution": "def count_long(words, least):\n    total = 0\n    for word in words:\n"
        "        if len(word) >= least:\n            total += 1\n    return total\n",
        "tests": [
            "assert count_long(['a', 'abc', 'abcd'], 3) == 2",
            "assert count_long([], 1) == 0",
            "assert count_long(['ab', 'ab'], 2) == 2",
        ],
        "entry_point": "count_long",
    },
]


def main(output: str = "runs/own_problems") -> Path:
    """Write the problems to a file, build sequences from them, and return the path of the sequences."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "problems.jsonl"
    source.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    print(f"{len(load_problems(str(source)))} problems")
    made = build(BuildConfig(problems=str(source), output=str(folder / "build"), workers=1))
    print(f"{made.sequences} sequences in {made.path}")
    return made.path


if __name__ == "__main__":
    main(*sys.argv[1:])
