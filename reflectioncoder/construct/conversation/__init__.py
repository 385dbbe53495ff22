"""Conversations with a model that writes code, sees it run and repairs it."""
