"""The verb generate: prompts of a task to completions on disk."""

from reflectioncoder._callable import make_callable

make_callable(__name__)
