"""Procedurally generated problems, at four levels of difficulty."""
