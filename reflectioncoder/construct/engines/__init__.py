"""Engines of a build: processes on this machine, or a Ray cluster."""
