"""The record of a build: every finished problem, and every answer that was paid for."""
