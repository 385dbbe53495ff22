"""The isolated Python interpreter: sessions, limits and verdicts. The sandboxed side is `sandbox/`."""
