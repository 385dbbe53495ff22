"""Dialogues of typed blocks: data types, training files, and tokenization."""
