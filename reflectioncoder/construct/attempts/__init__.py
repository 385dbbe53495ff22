"""Reflection sequences from a model's own attempts: what fails its tests is run, explained and repaired."""
