"""The cache folder, which keeps results between runs: converted weights, prepared compilers, reference outputs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $REFLECTIONCODER_CACHE, or else `reflectioncoder` in $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("REFLECTIONCODER_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflectioncoder"
