"""The verb generate: prompts of a task to completions on disk."""
