"""Sequences without a language model: plant a bug, run it, explain it, repair it."""
