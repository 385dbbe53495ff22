"""The isolated interpreter as its users see it; the far side is `sandbox/`."""
