"""Clients for models behind OpenAI-compatible servers."""
