"""The verbs evaluate and compare: completions to verdicts, scores with intervals, paired comparison."""

from reflectioncoder._callable import make_callable

make_callable(__name__)
