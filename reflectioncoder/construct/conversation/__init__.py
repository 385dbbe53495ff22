"""Conversations in which a model writes code, gets its output and repairs it."""
