"""Reflection sequences without a language model: plant a bug, run the program, explain the failure, repair it."""
