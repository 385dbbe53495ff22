"""Verdicts, scores with intervals, and paired comparison. The package can be called: see `evaluate.evaluate`.

Example:
    from reflectioncoder import EvaluateConfig, GenerateConfig, evaluate

    score = evaluate(EvaluateConfig(GenerateConfig(model="runs/train", task="humaneval"), output="runs/after"))
"""

from reflectioncoder._callable import make_callable

make_callable(__name__)
