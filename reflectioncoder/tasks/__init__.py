"""Benchmarks: prompts, and checks of completions."""
