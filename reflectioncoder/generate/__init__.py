"""Completions of a task's prompts. The package can be called: `generate(GenerateConfig(...))`, see `generate.generate`.

Example:
    from reflectioncoder import GenerateConfig, generate

    made = generate(GenerateConfig(model="runs/train", task="humaneval", output="runs/humaneval.jsonl"))
"""

from reflectioncoder._callable import make_callable

make_callable(__name__)
