"""Dialogues of typed blocks, the training files they are read from, and their tokens."""
