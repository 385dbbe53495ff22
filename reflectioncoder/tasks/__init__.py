"""Benchmarks: prompts and the check of a completion."""
