"""The evaluate and compare verbs: verdicts on completions, scores with intervals, and paired comparison."""

from reflectioncoder._callable import make_callable

make_callable(__name__)
